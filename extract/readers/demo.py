"""The embedded demo world: rendered on first use, then read like any other dataset."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supportset.extract.demo_world import SEED, TEST, TRAIN, VALIDATION, render_world
from supportset.extract.readers.base import Annotations
from supportset.extract.readers.builder import Builder
from supportset.store.errors import UsageError

_FORM = '{"format": "supportset-demo-world", "splits": {...}, "clips": [{"id", "split", "captions": [...]}, ...]}'


class DemoReader:
    """``annotations.json`` as a rendering writes it; where it is absent, the world is rendered first.

    Parameters
    ----------
    seed, train, validation, test : the world that is rendered where there is none; one that is there is taken as it
        is, whatever its seed and size
    workers : processes that render; None for one a core

    Notes
    -----
    All five captions of a training clip are trained on. The query of a held-out clip is its first caption, which
    tells everything about it; the others, which leave something out and so fit several clips, are in the tables
    but in no held-out split.

    Videos that are removed after the rendering are missing clips, as in any dataset: features that are extracted serve
    without them, and nothing is rendered behind the user's back. Who wants the videos back removes
    ``annotations.json`` and reads again: the files that are absent are rendered, equal to the lost ones.
    """

    name = "demo"
    summary = f"the embedded demo world of moving shapes: {TRAIN + VALIDATION + TEST} rendered clips, 5 captions each"
    expects = "nothing: the world is rendered into the data folder (annotations.json, videos/*.mp4) on first use"
    protocols: Mapping[str, Mapping[str, int | None]] = {"demo": {"train": TRAIN, "val": VALIDATION, "test": TEST}}

    def __init__(
        self,
        *,
        seed: int = SEED,
        train: int = TRAIN,
        validation: int = VALIDATION,
        test: int = TEST,
        workers: int | None = None,
    ) -> None:
        self._world = {"seed": seed, "train": train, "validation": validation, "test": test}
        self._workers = workers

    def read(self, data: Path, videos: Path | None = None) -> Annotations:
        """Read the world below ``data``, rendering it first where there is none; see ``Reader.read``."""
        path = data / "annotations.json"
        rendered = None
        if not path.is_file():
            if videos is not None:
                raise UsageError(f"demo: no {path}; leave --videos away to have the world rendered into {data}")
            rendered = self._render(data)
        build = Builder(self, data, videos)
        origin = build.read_from(path)
        world = _load(path)
        try:
            self._fill(build, world, origin)
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{path}: {type(error).__name__} {error}; expected {_FORM}: remove it, then it is written again"
            ) from error
        if rendered is not None:
            build.note(rendered)
        annotations = build.finish()
        if any(clip.path is None for clip in annotations.clips):
            annotations.notes.append(f"to have the videos rendered again: remove {path}, then repeat this command")
        return annotations

    def _render(self, data: Path) -> str:
        clips = self._world["train"] + self._world["validation"] + self._world["test"]
        print(f"demo: rendering {clips} clips into {data} ...", file=sys.stderr)
        done = render_world(data, **self._world, workers=self._workers, progress=_show)
        kept = f" ({done.clips - done.rendered} were there already)" if done.rendered < done.clips else ""
        return (
            f"rendered {done.rendered} clips of the demo world{kept} in {done.seconds:.0f} s, "
            f"{done.bytes / 1e6:.1f} MB in all, into {data}"
        )

    @staticmethod
    def _fill(build: Builder, world: dict[str, Any], origin: str) -> None:
        build.protocols({"demo": {split: int(world["splits"][split]) for split in ("train", "val", "test")}})
        found = build.find_files([clip["id"] for clip in world["clips"]])
        for clip in world["clips"]:
            clip_id = clip["id"]
            build.clip(clip_id, found.get(clip_id), origin=origin)
            for caption in clip["captions"]:
                build.caption(caption["id"], clip_id, caption["text"], origin=origin)
            query = None if clip["split"] == "train" else clip["captions"][0]["id"]
            build.split("demo", clip["split"], clip_id, query, origin=origin)


def _load(path: Path) -> dict[str, Any]:
    try:
        world = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: cannot be read ({error}); expected {_FORM}: remove it, then it is written again"
        ) from error
    if (
        not isinstance(world, dict)
        or world.get("format") != "supportset-demo-world"
        or world.get("format_version") != 1
    ):
        raise UsageError(
            f"{path}: not the annotation of a demo world of this version; expected {_FORM}: give another folder"
        )
    return world


def _show(done: int, clips: int) -> None:
    """A counter on a terminal, nothing in a log."""
    if sys.stderr.isatty():
        print(f"\r{done}/{clips}", end="\n" if done == clips else "", file=sys.stderr, flush=True)
