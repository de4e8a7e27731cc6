"""Scores of texts and clips where each text weights the clip's steps ("query scoring").

The weight of a step is the softmax, over the clip's steps, of its cosine with the text, divided by a temperature; the
score is the cosine of the text and the weighted mean of the steps. A high temperature gives the plain mean, a low one
the best step. Bain, Nagrani, Varol and Zisserman, A CLIP-Hitchhiker's Guide to Long Video Retrieval (2022), section 3.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.counting import round_cosines, unit_rows
from supportset.search.retriever import read_blocks
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.read.aligned import AlignedFeatures

TEMPERATURE = 0.1  # of the published code

_TEXTS = 512  # scored at once
_IN_MEMORY = 1 << 28  # bytes of a score matrix; a larger one is a temporary file


@dataclass(frozen=True)
class TextWeighted:
    """Weights of steps by text.

    Attributes
    ----------
    temperature : float
        Above 0.
    """

    temperature: float = TEMPERATURE

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise UsageError(f"temperature {self.temperature}: give a number above 0, as {TEMPERATURE}")

    def scores(
        self, texts: NDArray[np.floating], features: AlignedFeatures, clip_ids: Sequence[str]
    ) -> NDArray[np.float32]:
        """Score texts (N, d) against stored clips.

        Returns
        -------
        (N, C) float32
            In memory, or mapped from a temporary file where it is large; it is deleted when the array is.
        """
        out = _room(len(texts), len(clip_ids))
        for block, values, offsets in read_blocks(features, clip_ids):
            steps = unit_rows(values)
            for start in range(0, len(texts), _TEXTS):
                some = slice(start, start + _TEXTS)
                out[some, block] = self.of_steps(unit_rows(texts[some]), steps, offsets)
        return out

    def of_steps(
        self, texts: NDArray[np.float64], steps: NDArray[np.float64], offsets: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Score texts (N, d) against clips whose steps (ΣT, d) are in memory, all of unit length.

        Returns
        -------
        (N, C) float32
            Summed in float64 and rounded, so that equal clips tie.
        """
        cosines = texts @ steps.T  # (N, ΣT)
        found = np.empty((len(texts), len(offsets) - 1), np.float32)
        for clip, (first, last) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
            of_clip, own = cosines[:, first:last], steps[first:last]
            weights = np.exp((of_clip - of_clip.max(axis=1, keepdims=True)) / self.temperature)
            # of the weighted sum, whose length is taken from the products of the steps with each other
            length = np.sqrt(np.maximum(np.einsum("nt,nt->n", weights @ (own @ own.T), weights), 0.0))
            found[:, clip] = round_cosines(np.einsum("nt,nt->n", weights, of_clip) / np.maximum(length, 1e-12))
        return found


def _room(texts: int, clips: int) -> NDArray[np.float32]:
    if 4 * texts * clips <= _IN_MEMORY:
        return np.empty((texts, clips), np.float32)
    try:
        with tempfile.TemporaryFile(prefix="supportset-scores-") as file:
            os.posix_fallocate(file.fileno(), 0, 4 * texts * clips)
            return np.memmap(file, np.float32, "r+", shape=(texts, clips))
    except OSError as error:
        raise SupportsetError(
            f"{tempfile.gettempdir()}: no room for {4 * texts * clips / 1e9:.1f} GB of scores ({error.strerror}): set "
            "TMPDIR to a folder on another disk"
        ) from None
