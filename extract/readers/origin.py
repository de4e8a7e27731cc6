"""Which folder a dataset of the store was read from; another folder does not silently take its place."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from supportset.extract.readers.builder import Annotations
from supportset.store.errors import SupportsetError, UsageError, printable
from supportset.store.format.dataset import Dataset, list_datasets, open_dataset
from supportset.store.read.catalog import list_feature_sets
from supportset.store.read.feature_set import FeatureSet

Origin = dict[str, str]  # "reader", "data" and "videos" (absolute paths)


def origin_of(reader: str, data: Path, videos: Path | None) -> Origin:
    """Describe where a dataset is read from, as ``dataset.json`` keeps it."""
    return {"reader": reader, "data": str(data.resolve()), "videos": str((videos or data).resolve())}


def refuse_other(root: str | Path, name: str, origin: Origin, found: Annotations) -> None:
    """Refuse to replace the tables of another folder.

    The same folder may have changed in any way. A folder elsewhere is taken for the same one, moved or grown, if it has
    all clips and captions of the tables, and files of the sizes that were extracted.

    Parameters
    ----------
    root : str or Path
        The store.
    name : str
        Name of the dataset.
    origin : dict
        Where the new tables are from.
    found : Annotations
        The new rows.

    Raises
    ------
    UsageError
        Something of the other folder would be lost. The line names both folders.
    """
    if name not in list_datasets(root):
        return
    known: Origin = {}
    lost = ""
    with suppress(SupportsetError):  # damaged tables are written anew
        tables = open_dataset(root, name)
        told = tables.info.get("origin")
        known = told if isinstance(told, dict) else {}
        lost = "" if known == origin else _lost(root, tables, origin, found, sure=bool(known))
    if lost:
        old, new = _folders(known), _folders(origin)
        raise UsageError(
            f"{root}: the name {name!r} is taken by {old}; {new} would replace its tables, and {lost}: "
            "give this one another name with --name, or give --replace"
        )


def _lost(root: str | Path, tables: Dataset, origin: Origin, found: Annotations, *, sure: bool) -> str:
    """Say what the new tables lack of the old ones; empty if nothing."""
    clips = dict.fromkeys(tables.clips["clip_id"].to_pylist())
    here = {clip.clip_id: clip.path for clip in found.clips}
    gone = [clip_id for clip_id in clips if clip_id not in here]
    if not sure:  # tables that do not say where they are from
        return f"has none of its {len(clips):,} clips" if clips and len(gone) == len(clips) else ""
    if gone:
        return f"lacks {len(gone):,} of its {len(clips):,} clips{_some(gone)}"
    captions = zip(tables.captions["clip_id"].to_pylist(), tables.captions["text"].to_pylist(), strict=True)
    texts = {(caption.clip_id, caption.text) for caption in found.captions}
    if silent := [clip_id for clip_id, text in captions if (clip_id, text) not in texts]:
        return f"lacks {len(silent):,} of its captions{_some(silent)}"
    return _other_file(root, tables.name, here, Path(origin["videos"]))


def _other_file(root: str | Path, name: str, here: dict[str, str | None], videos: Path) -> str:
    for info in list_feature_sets(root, name):
        rows = FeatureSet.open(info.path).rows()
        for clip_id, size in zip(rows["clip_id"].to_pylist(), rows["source_size"].to_pylist(), strict=True):
            path = here.get(clip_id)
            with suppress(OSError):
                if size is not None and path and (videos / path).stat().st_size != size:
                    return f"its file of clip {printable(repr(clip_id))} is another"
    return ""


def _folders(origin: Origin) -> str:
    if not origin:
        return "another folder (which one, stores from before 0.3.0 do not say)"
    data, videos = str(origin.get("data")), str(origin.get("videos"))
    beside = f" with the videos in {videos}" if videos != data else ""
    return printable(f"{data}{beside} (read as {origin.get('reader')!r})")


def _some(ids: Iterable[str]) -> str:
    first, *others = dict.fromkeys(ids)
    return printable(f" ({first!r}{', ...' if others else ''})")
