"""Plain multi-head attention with a learned token."""

from __future__ import annotations

from supportset.train.config import VideoConfig
from supportset.train.model.sequence_head import SequenceHead


class Aggregation(SequenceHead):
    """The transformer head without convolution and feed-forward."""

    def __init__(self, config: VideoConfig) -> None:
        super().__init__(
            config.width, config.layers, config.heads, config.norm, config.dropout, local="none", feed_forward=False
        )
