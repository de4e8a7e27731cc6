"""The run over text: from a dataset's captions to features in the store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from supportset.extract.pipeline.forward import describe_device, pick_device
from supportset.extract.progress.interrupted import Interrupted, sigterm_interrupts
from supportset.extract.progress.progress import Progress
from supportset.extract.text.encoders.base import TextTower
from supportset.extract.text.recipe import make_text_card, make_text_recipe
from supportset.extract.text.recorder import Block, TextRecorder
from supportset.extract.text.work import TextWork, count_captions, plan_text, select_captions
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import StorePath
from supportset.store.format.card import is_feature_set
from supportset.store.format.dataset import Caption, Dataset
from supportset.store.format.index import SCHEMA
from supportset.store.format.registry import shard_format as check_shard_format
from supportset.store.format.status import EMPTY, OK
from supportset.store.read.catalog import feature_set_path
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.writer import FeatureWriter

if TYPE_CHECKING:
    from supportset.extract.text.encoders.base import TextEncoder

_BATCHES = 16  # batches sorted by length together: little padding, and little is lost with a killed process
_BLOCK_TOKENS = 65_536  # maximum of tokens sorted together, which bounds the memory


@dataclass(frozen=True)
class TextSummary:
    """The state of the selected captions after a run.

    Attributes
    ----------
    dataset : str
        Name of the dataset.
    feature_set : str
        Name of the feature set's folder.
    path : str
        Path of that folder.
    captions : int
        Number of selected captions.
    status : dict[str, int]
        Captions by status, ``ok`` first; those of earlier runs are counted.
    seconds : float
        Duration of the run.
    exit_code : int
        For the command line: 1 if a caption with words has no features.
    """

    dataset: str
    feature_set: str
    path: str
    captions: int
    status: dict[str, int]
    seconds: float
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """The summary as the command line prints it."""
        told = asdict(self)
        del told["exit_code"]
        return told | {"seconds": round(self.seconds, 3)}


def extract_text(
    dataset: Dataset,
    root: str | StorePath,
    encoder: TextEncoder,
    *,
    protocol: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    shard_format: str = "zarr",
    dtype: str = "float16",
    batch_size: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    captions_per_shard: int = 5000,
    seconds_per_shard: float = 300.0,
    progress: bool = True,
) -> TextSummary:
    """Extract the features of a dataset's captions that the store does not have yet.

    Every selected caption ends with a row in the index, under its ``caption_id``: its features, or why there are none
    (``empty``: it has no word; ``overflow``: a value does not fit the stored dtype). A caption whose text has changed
    since is extracted again. A run that was stopped or killed resumes when it is started again.

    Parameters
    ----------
    dataset : Dataset
    root : str or StorePath
        The store's folder.
    encoder : TextEncoder
        Moved to the device.
    protocol, split : str, optional
        Only captions of this protocol, of this split (of any protocol that has it).
    limit : int, optional
        Only the first captions of these.
    shard_format : str
        ``zarr`` or ``hdf5``.
    dtype : str
        ``float16`` or ``float32``, as stored.
    batch_size : int, optional
        Captions of one forward. Default: by device.
    device, precision : str
        Of the forward.
    captions_per_shard : int
        A shard is sealed when it has this many. A killed process loses what is not sealed.
    seconds_per_shard : float
        A shard is sealed after this time at the latest.
    progress : bool
        Whether a live line, or log lines, appear on standard error.

    Returns
    -------
    TextSummary

    Raises
    ------
    UsageError
        Wrong values, or no caption. Nothing is written then.
    Interrupted
        On Ctrl-C or SIGTERM.
    SupportsetError
        If the disk refuses, or one caption does not fit into the device's memory. Complete blocks are stored.
    """
    began = time.monotonic()
    check_shard_format(shard_format)
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch_size={batch_size} should be above 0")
    place = pick_device(device)
    captions = select_captions(dataset, protocol, split, limit)
    recipe = make_text_recipe(encoder, dtype)
    path = feature_set_path(root, dataset.name, recipe)
    work = plan_text(captions, _rows(path))
    if work.captions or work.blank:
        encoder.to(place, precision)
        card = make_text_card(recipe, encoder, describe_device(place))
        size = batch_size or (32 if place.type == "cpu" else 256)
        shown = Progress(len(work.captions), quiet=not progress, verb="extract-text", things="captions", steps="tokens")
        with shown, sigterm_interrupts():
            shown.note(_announcement(dataset, path, captions, work))
            try:
                with (
                    FeatureWriter(
                        path,
                        card,
                        shard_format=shard_format,
                        clips_per_shard=captions_per_shard,
                        seconds_per_shard=seconds_per_shard,
                    ) as writer,
                    TextRecorder(writer, encoder, shown) as recorder,
                ):
                    recorder.blank(work.blank)
                    forward = _Forward(encoder, size)
                    for block in _blocks(work.captions, encoder, size):
                        recorder.take(block, forward([tokens.ids for _, tokens in block], shown))
                    recorder.flush()
            except KeyboardInterrupt:
                told = ", ".join(f"{n:,} {status}" for status, n in count_captions(captions, _rows(path)).items())
                raise Interrupted(
                    f"stopped: of {len(captions):,} captions the store has {told or 'none'}, in {path}; "
                    "the same command resumes"
                ) from None
            if recorder.cut:
                most = "the most that its model reads" if isinstance(encoder, TextTower) else "--max-tokens takes more"
                shown.note(f"{recorder.cut:,} captions were cut to {encoder.max_tokens} tokens: {most}")
    status = count_captions(captions, _rows(path))
    return TextSummary(
        dataset.name,
        path.name,
        str(path),
        len(captions),
        status,
        time.monotonic() - began,
        int(bool(set(status) - {OK, EMPTY})),
    )


def _blocks(captions: Sequence[Caption], encoder: TextEncoder, batch_size: int) -> Iterator[Block]:
    """Yield blocks of captions with their tokens, to be sorted by length."""
    size, block, count = _BATCHES * batch_size, [], 0
    for start in range(0, len(captions), size):
        part = captions[start : start + size]
        for caption, tokens in zip(part, encoder.tokenize([caption.text for caption in part]), strict=True):
            block.append((caption, tokens))
            count += len(tokens.ids)
            if len(block) >= size or count >= _BLOCK_TOKENS:
                yield block
                block, count = [], 0
    if block:
        yield block


class _Forward:
    """Runs the encoder on sequences of similar length; splits batches after the device ran out of memory."""

    def __init__(self, encoder: TextEncoder, batch_size: int) -> None:
        self._encoder, self._size = encoder, batch_size

    def __call__(self, sequences: Sequence[Sequence[int]], shown: Progress) -> list[NDArray[np.float32]]:
        """Return the features (T, D) of each sequence. The longest come first, so that memory runs out early."""
        found = [np.empty((0, self._encoder.dim), np.float32)] * len(sequences)
        order = [i for i in np.argsort([-len(ids) for ids in sequences], kind="stable").tolist() if sequences[i]]
        start = 0
        while start < len(order):
            part = order[start : start + self._size]
            values = self._try([sequences[i] for i in part])
            if values is None:
                continue
            lengths = [1 if self._encoder.pooled else len(sequences[i]) for i in part]
            for i, features in zip(part, np.split(values, np.cumsum(lengths)[:-1]), strict=True):
                found[i] = features
            start += len(part)
            shown.frames(sum(len(sequences[i]) for i in part))
        return found

    def _try(self, sequences: list[Sequence[int]]) -> NDArray[np.float32] | None:
        """Return features side by side; None if they did not fit into memory and the batch was halved."""
        try:
            values: NDArray[np.float32] = self._encoder.forward(sequences).cpu().numpy()
            return values
        except torch.OutOfMemoryError as error:
            if len(sequences) == 1:
                raise SupportsetError(
                    f"{self._encoder.name}: a caption of {len(sequences[0])} tokens does not fit into the device's "
                    "memory; free some, use another --device or a smaller --max-tokens"
                ) from error
        self._size = len(sequences) // 2  # outside of `except`, so that the failed tensors are freed
        torch.cuda.empty_cache()
        return None


def _rows(path: StorePath) -> pa.Table:
    """Return the index rows; none where there is no feature set yet."""
    return FeatureSet.open(path).rows() if is_feature_set(path) else SCHEMA.empty_table()


def _announcement(dataset: Dataset, path: StorePath, captions: list[Caption], work: TextWork) -> str:
    words = [f"{len(work.captions):,} of {len(captions):,} captions of {dataset.name} to do"]
    if work.done:
        words.append(f"{work.done:,} settled before")
    if work.blank:
        words.append(f"{len(work.blank):,} blank")
    return f"extract-text: {', '.join(words)}; into {path}"
