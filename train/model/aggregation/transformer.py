"""The paper's video head: a learned token, then blocks of temporal convolution, attention and feed-forward."""

from __future__ import annotations

from supportset.train.config import VideoConfig
from supportset.train.model.sequence_head import SequenceHead


class Aggregation(SequenceHead):
    """Transformer with a temporal convolution in each block; ``c_v`` is the learned token's output, the first."""

    def __init__(self, config: VideoConfig) -> None:
        super().__init__(
            config.width,
            config.layers,
            config.heads,
            config.norm,
            config.dropout,
            local="convolution",
            kernel=config.kernel,
        )
