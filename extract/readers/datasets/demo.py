"""The embedded demo world: rendered on first use, then read like any other dataset."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from supportset.extract.demo_world.render import FORMAT, FORMAT_VERSION, SEED, TEST, TRAIN, VALIDATION, render_world
from supportset.extract.readers.base import Reader
from supportset.extract.readers.builder import Annotations, Builder
from supportset.extract.readers.parse import read_json
from supportset.store.errors import UsageError

_FORM = '{"format": "supportset-demo-world", "splits": {...}, "clips": [{"id", "split", "captions": [...]}, ...]}'


class DemoReader(Reader):
    """``annotations.json`` as a rendering writes it; if it is absent, the world is rendered first.

    Parameters
    ----------
    seed, train, validation, test : int
        The world to render if there is none. A world that is there is read, with any seed and size.

    Notes
    -----
    All five captions of a training clip are used for training. The query of a held-out clip is its first caption, which
    mentions every attribute. The others omit something and so fit several clips: they are in no held-out split.

    Videos removed after the rendering are missing clips, as in any dataset: extracted features are usable without them.
    To have them back, remove ``annotations.json`` and read again: absent files are rendered, equal to the lost ones.
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
    ) -> None:
        self._seed, self._numbers = seed, {"train": train, "validation": validation, "test": test}

    def read(self, data: Path, videos: Path | None = None) -> Annotations:
        """Read the world below ``data``, rendering it first if there is none; see :meth:`Reader.read`."""
        path = data / "annotations.json"
        rendered = []
        if not path.is_file():
            if videos is not None:
                raise UsageError(f"demo: no {path}; leave --videos out to have the world rendered into {data}")
            rendered = [self._render(data)]
        annotations = super().read(data, videos)
        annotations.notes[:0] = rendered
        if any(clip.path is None for clip in annotations.clips):
            annotations.notes.append(f"to have the videos rendered again: remove {path}, then repeat this command")
        return annotations

    def fill(self, build: Builder) -> None:
        path = build.tree.root / "annotations.json"
        origin = build.read_from(path)
        world = read_json(path, dict, _FORM)
        if world.get("format") != FORMAT or world.get("format_version") != FORMAT_VERSION:
            raise UsageError(f"{path}: not a demo world of this version; expected {_FORM}: give another folder")
        try:
            build.protocols({"demo": {split: int(world["splits"][split]) for split in ("train", "val", "test")}})
            found = build.find_files([clip["id"] for clip in world["clips"]])
            for clip in world["clips"]:
                build.clip(clip["id"], found.get(clip["id"]), origin=origin)
                for caption in clip["captions"]:
                    build.caption(caption["id"], clip["id"], caption["text"], origin=origin)
                query = None if clip["split"] == "train" else clip["captions"][0]["id"]
                build.split("demo", clip["split"], clip["id"], query, origin=origin)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                f"{path}: {type(error).__name__} {error}; expected {_FORM}: remove the file to have it written again"
            ) from error

    def _render(self, data: Path) -> str:
        print(f"demo: rendering {sum(self._numbers.values())} clips into {data} ...", file=sys.stderr)
        began = time.monotonic()
        count = render_world(data, seed=self._seed, **self._numbers, progress=_show)
        return f"rendered {count} clips of the demo world into {data} in {time.monotonic() - began:.0f} s"


def _show(done: int, clips: int) -> None:
    """Print a counter on a terminal, nothing in a log."""
    if sys.stderr.isatty():
        print(f"\r{done}/{clips}", end="\n" if done == clips else "", file=sys.stderr, flush=True)


READER = DemoReader()
