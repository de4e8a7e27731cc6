"""A folder of videos as a library: its name in the store, what is there from an earlier start, and what comes."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from supportset.extract.pipeline.recipe import GIVEN
from supportset.extract.readers.annotate import read_dataset
from supportset.extract.readers.origin import origin_of
from supportset.extract.readers.videos import NoVideos
from supportset.search.ingest.ingest import Ingest
from supportset.search.ingest.messages import Gone, Order
from supportset.search.library import Library
from supportset.search.searcher import NoClips, Searcher
from supportset.search.zero_shot import open_zero_shot
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.dataset import list_datasets, open_dataset
from supportset.store.read.catalog import list_feature_sets

_LONGEST = 90  # of a dataset's name, so that a number fits behind it


def open_folder(
    order: Order,
    *,
    tell: Callable[[str], None] = lambda line: None,
    gone: Gone = "auto",
    pairing: dict[str, Any] | None = None,
) -> tuple[Library, Ingest]:
    """Make the library of a folder, and the ingest that keeps it up to date, which is not started.

    The library has what an earlier start extracted; it may have nothing to search yet.

    Parameters
    ----------
    order : Order
        With the name of :func:`name_of`.
    tell, gone
        As for :class:`supportset.search.ingest.ingest.Ingest`.
    pairing : dict, optional
        Options of :func:`supportset.search.zero_shot.open_zero_shot`.
    """
    opened: list[str] = []  # the feature set that is searched

    def open_searcher(previous: Searcher | None) -> Searcher:
        features = ingest.features or _extracted_before(order)
        if features is None:
            raise NoClips(f"{order.folder}: no video has features yet")
        if previous is not None and opened == [features]:
            return Searcher(previous.retriever.reopened())
        where = f"{order.name}/{features}"
        retriever = open_zero_shot(where, order.store, encoder=order.encoder, device=order.device, **(pairing or {}))
        opened[:] = [features]
        return Searcher(retriever)

    def changed(features: str) -> None:
        with suppress(NoClips):  # nothing is ready yet, or everything is gone
            library.refresh()

    ingest = Ingest(order, changed, tell=tell, gone=gone)
    library = Library(order.name, open_searcher, videos=order.folder, wait=True)
    return library, ingest


def name_of(folder: Path, store: str) -> str:
    """Choose the name of a folder's dataset: the folder's own, with a number behind it if that is another folder's.

    A folder that was moved keeps its dataset: the same files are in it.

    Raises
    ------
    SupportsetError
        The folder, or the store, cannot be read.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._")[:_LONGEST] or "videos"
    origin, taken = origin_of("folder", folder, None), list_datasets(store)
    names = [plain, *(f"{plain}-{number}" for number in range(2, 1000))]
    for name in names:
        if name in taken and _origin(store, name) == origin:
            return name
    for name in names:
        if name not in taken or _is_moved(folder, store, name):
            return name
    raise UsageError(f"{store}: has {len(names):,} datasets called {plain}: give another --store")


def _origin(store: str, name: str) -> object:
    try:
        return open_dataset(store, name).info.get("origin")
    except SupportsetError:  # damaged: it is not known to be this folder's
        return None


def _is_moved(folder: Path, store: str, name: str) -> bool:
    """Whether a dataset was read from this folder when that was elsewhere."""
    try:
        if not isinstance(origin := _origin(store, name), dict) or origin.get("reader") != "folder":
            return False
        read_dataset("folder", folder, name=name).refuse_other(store)
    except (UsageError, NoVideos):
        return False
    return True


def _extracted_before(order: Order) -> str | None:
    """The feature set that an earlier start with the same encoder wrote."""
    for info in list_feature_sets(order.store, order.name, []):
        card = info.card
        same = order.encoder in (card.provenance.get(GIVEN), card.recipe.backbone)
        if card.recipe.kind == "video" and same and card.recipe.sampling.get("fps") == 1.0:
            return info.name
    return None
