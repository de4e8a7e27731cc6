"""Codes of clips from earlier batches, so that a support set can be larger than a batch.

Policy. An entry is what the video encoder gave for a clip when the clip was last trained on, detached: it is looked at,
and nothing is learned through it. A clip has one entry at most; new codes take the place of its old ones. Other clips
take free places, then the place of the oldest entry. Entries older than ``max_age`` steps are dropped. While a clip
stands in the batch its entry is passed over: the batch has it fresh, and so no caption is ever written from a copy of
its own clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from supportset.train.model.video_encoder import VideoCodes

_FREE = -1  # step of a place without an entry


class Entries(NamedTuple):
    """A bank as one step sees it.

    Attributes
    ----------
    codes : VideoCodes
        Of all K places, detached; those without an entry are zeros.
    usable : Tensor
        (C, K) bool, the places from which captions of the batch's clip c may be written.
    stats : dict of str to float
        ``bank_entries`` (that any clip may use), ``bank_age_mean`` and ``bank_age_max`` of these in steps,
        ``bank_dropped``, the share of entries that were too old.
    """

    codes: VideoCodes
    usable: Tensor
    stats: dict[str, float]


class MemoryBank:
    """A number of places for clips' codes.

    Parameters
    ----------
    places : int
        K, the largest number of clips that are kept.
    dim, width, positions : int
        D of the embeddings, d_e and the largest M of the sequences.
    max_age : int, optional
        Steps after which an entry is dropped; None keeps it until its place is needed.
    device : torch.device or str
        Device of the codes.
    dtype : torch.dtype
        Of the sequences; embeddings are float32 at least.
    """

    def __init__(
        self,
        places: int,
        *,
        dim: int,
        width: int,
        positions: int,
        max_age: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        wide = torch.promote_types(dtype, torch.float32)
        self.embedding = torch.zeros(places, dim, device=device, dtype=wide)
        self.sequence = torch.zeros(places, positions, width, device=device, dtype=dtype)
        self.mask = torch.zeros(places, positions, device=device, dtype=torch.bool)
        self.max_age = max_age
        # Who is where is kept apart from the device, so that no step waits for it.
        self.clip_ids: list[str] = [""] * places
        self.steps = np.full(places, _FREE, dtype=np.int64)
        self.sources = np.full(places, _FREE, dtype=np.int64)
        self._place: dict[str, int] = {}
        self._dropped = 0.0

    def __len__(self) -> int:
        return len(self._place)

    @property
    def places(self) -> int:
        """K."""
        return len(self.clip_ids)

    @property
    def bytes(self) -> int:
        """Memory that the codes take, whether places are filled or not."""
        return sum(part.numel() * part.element_size() for part in (self.embedding, self.sequence, self.mask))

    def entries(self, clip_ids: Sequence[str], step: int, sources: Sequence[int] | None = None) -> Entries:
        """What the captions of a batch may be written from, besides the batch.

        Parameters
        ----------
        clip_ids : sequence of str
            The batch's clips; their own entries are passed over.
        step : int
            Of the batch; entries that are too old by now are dropped.
        sources : sequence of int, optional
            Source video of each clip, where clips of one source may not support each other.
        """
        self._drop_old(step)
        there = self.steps != _FREE
        there[[self._place[clip_id] for clip_id in clip_ids if clip_id in self._place]] = False
        usable = np.repeat(there[None], len(clip_ids), axis=0)
        if sources is not None:
            usable &= np.asarray(sources, dtype=np.int64)[:, None] != self.sources[None]
        ages = step - self.steps[there]
        stats = {
            "bank_entries": float(there.sum()),
            "bank_age_mean": float(ages.mean()) if len(ages) else 0.0,
            "bank_age_max": float(ages.max(initial=0)),
            "bank_dropped": self._dropped,
        }
        codes = VideoCodes(self.embedding, self.sequence, self.mask)
        return Entries(codes, torch.from_numpy(usable).to(self.mask.device, non_blocking=True), stats)

    def add(self, clip_ids: Sequence[str], codes: VideoCodes, step: int, sources: Sequence[int] | None = None) -> None:
        """Keep the codes of a batch's clips; after the backward pass, which still reads the entries in use.

        Parameters
        ----------
        clip_ids : sequence of str
            C different clips, not more than there are places.
        codes : VideoCodes
            Of these clips.
        step : int
            Of the batch.
        sources : sequence of int, optional
            Source video of each clip, as `entries` will ask for it.
        """
        if len(clip_ids) > self.places:
            raise ValueError(f"{len(clip_ids)} clips do not fit into {self.places} places")
        taken = [self._place[clip_id] for clip_id in clip_ids if clip_id in self._place]
        order = np.argsort(self.steps, kind="stable")  # free places first, then the oldest
        free = iter(order[~np.isin(order, taken)].tolist())
        chosen = [self._place[clip_id] if clip_id in self._place else next(free) for clip_id in clip_ids]
        for place, clip_id in zip(chosen, clip_ids, strict=True):
            if self.steps[place] != _FREE:
                del self._place[self.clip_ids[place]]
            self.clip_ids[place], self._place[clip_id] = clip_id, place
        self.steps[chosen] = step
        self.sources[chosen] = _FREE if sources is None else sources
        rows = torch.tensor(chosen, device=self.mask.device)
        positions = codes.mask.shape[1]
        with torch.no_grad():
            self.embedding[rows] = codes.embedding.detach().to(self.embedding.dtype)
            self.sequence[rows, :positions] = codes.sequence.detach().to(self.sequence.dtype)
            self.sequence[rows, positions:] = 0
            self.mask[rows, :positions] = codes.mask
            self.mask[rows, positions:] = False

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs; plain tensors and lists."""
        return {
            "embedding": self.embedding,
            "sequence": self.sequence,
            "mask": self.mask,
            "clip_ids": list(self.clip_ids),
            "steps": self.steps.tolist(),
            "sources": self.sources.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state; ValueError where its sizes are others."""
        for name in ("embedding", "sequence", "mask"):
            mine: Tensor = getattr(self, name)
            if mine.shape != state[name].shape:
                raise ValueError(f"the memory bank's {name} is {tuple(state[name].shape)}, not {tuple(mine.shape)}")
            mine.copy_(state[name])
        self.clip_ids = list(state["clip_ids"])
        self.steps = np.asarray(state["steps"], dtype=np.int64)
        self.sources = np.asarray(state["sources"], dtype=np.int64)
        self._place = {clip_id: place for place, clip_id in enumerate(self.clip_ids) if self.steps[place] != _FREE}

    def _drop_old(self, step: int) -> None:
        before = len(self._place)
        if self.max_age is None or not before:
            self._dropped = 0.0
            return
        old = np.flatnonzero((self.steps != _FREE) & (step - self.steps > self.max_age))
        for place in old.tolist():
            del self._place[self.clip_ids[place]]
            self.clip_ids[place] = ""
        self.steps[old] = _FREE
        self._dropped = len(old) / before
