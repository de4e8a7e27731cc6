"""From features of captions to rows of the store."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from supportset.extract.outcome import Outcome
from supportset.extract.progress.progress import Progress
from supportset.store.errors import ValueOverflow
from supportset.store.format.dataset import Caption
from supportset.store.format.status import EMPTY, OK, OVERFLOW
from supportset.store.write.writer import FeatureWriter, Source

if TYPE_CHECKING:
    from supportset.extract.text.encoders.base import TextEncoder, Tokens

Block = list[tuple[Caption, "Tokens"]]


class TextRecorder:
    """Passes captions to the writer in a separate thread: a block is written while the next is computed.

    Attributes
    ----------
    cut : int
        How many captions were cut to the encoder's maximum of tokens.
    """

    def __init__(self, writer: FeatureWriter, encoder: TextEncoder, shown: Progress) -> None:
        self._writer, self._shown = writer, shown
        self._encoder = encoder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._pending: Future[None] | None = None
        self.cut = 0

    def blank(self, captions: Sequence[Caption]) -> None:
        """Record captions without a word."""
        for caption in captions:
            self._writer.fail(caption.caption_id, EMPTY, "the caption is blank", source=_source(caption))

    def take(self, block: Block, features: list[NDArray[np.float32]]) -> None:
        """Write a block once the previous one is written.

        Raises
        ------
        SupportsetError
            If the disk refused the block before.
        """
        self.flush()
        self._pending = self._thread.submit(self._write, block, features)

    def flush(self) -> None:
        """Wait until the writer has everything taken so far; raises as :meth:`take`."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)

    def _write(self, block: Block, features: list[NDArray[np.float32]]) -> None:
        for (caption, tokens), values in zip(block, features, strict=True):
            outcome = Outcome()
            if len(tokens.ids) < tokens.length:
                outcome = Outcome(OK, f"cut: {len(tokens.ids)} of {tokens.length} tokens")
                self.cut += 1
            if not len(values):
                outcome = Outcome(EMPTY, "the tokenizer finds no token in it")
            else:
                try:
                    times = token_positions(len(tokens.ids), self._encoder.pooled)
                    self._writer.add(caption.caption_id, values, times, source=_source(caption), **vars(outcome))
                except ValueOverflow as error:
                    outcome = Outcome(OVERFLOW, str(error))
            if outcome.status != OK:
                self._writer.fail(caption.caption_id, **vars(outcome), source=_source(caption))
            self._shown.clip(outcome.status, caption.caption_id, outcome.message)


def token_positions(count: int, pooled: bool) -> NDArray[np.float64]:
    """Return the timestamps of ``count`` tokens: token i spans i to i + 1, a pooled vector 0 to the end."""
    if pooled:
        return np.array([[0.0, float(count)]])
    positions = np.arange(count + 1, dtype=np.float64)
    return np.stack([positions[:-1], positions[1:]], axis=1)


def _source(caption: Caption) -> Source:
    return Source("captions.parquet", len(caption.text.encode("utf-8")), None, caption.hash)
