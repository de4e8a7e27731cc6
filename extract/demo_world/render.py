"""Rendering a demo world: H.264 files, then the annotation that says what they show.

A world's folder::

    world.json          which world this is; written first, so that two worlds never mix
    videos/*.mp4        each appears complete, by rename
    annotations.json    every clip's file, split, true attributes and captions; written last

An interrupted rendering resumes: files that exist are kept. The same arguments give the same pixels, and on the same
machine and library versions the same bytes.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import av
import xxhash
from av.video.reformatter import VideoReformatter
from PIL import Image

from supportset.extract.demo_world.backgrounds import draw_background
from supportset.extract.demo_world.drawing import draw_frame
from supportset.extract.demo_world.motions import Look, place
from supportset.extract.demo_world.scenes import PlannedClip, plan_world
from supportset.store.errors import UsageError
from supportset.store.files.local import LocalFolder

FPS = 10
SIDE = 224  # pixels; frames are square
FORMAT = "supportset-demo-world"
FORMAT_VERSION = 1  # rises when the same plan gives other pixels
THREADS = 4  # encoding runs in parallel, drawing does not: more threads gain little

SEED, TRAIN, VALIDATION, TEST = 7, 500, 80, 160

Progress = Callable[[int, int], None]


def render_world(
    folder: Path,
    *,
    seed: int = SEED,
    train: int = TRAIN,
    validation: int = VALIDATION,
    test: int = TEST,
    progress: Progress | None = None,
) -> int:
    """Render a world of captioned moving shapes into ``folder``, or resume an interrupted rendering.

    Parameters
    ----------
    folder : Path
        Where ``annotations.json`` and ``videos/`` are written; made if absent.
    seed : int
        Decides everything.
    train, validation, test : int
        Numbers of clips.
    progress : function, optional
        Called with (existing files, files of the world) after each file.

    Returns
    -------
    int
        Number of files rendered now; the others existed.

    Raises
    ------
    UsageError
        If the numbers are impossible, or the folder holds another world or other files.
    SupportsetError
        If a file cannot be written. The same call resumes.
    """
    clips = plan_world(seed, train, validation, test)
    annotations = _annotations(seed, clips)
    _claim(folder, {key: annotations[key] for key in ("format", "format_version", "seed", "splits", "plan_hash")})
    videos = folder / "videos"
    todo = [clip for clip in clips if not _rendered(videos / f"{clip.clip_id}.mp4")]
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            rendering = [pool.submit(render_clip, clip, videos) for clip in todo]
            for done, clip in enumerate(as_completed(rendering), len(clips) - len(todo) + 1):
                clip.result()
                if progress is not None:
                    progress(done, len(clips))
        finally:
            pool.shutdown(cancel_futures=True)
    _write_json(folder, "annotations.json", annotations)
    return len(todo)


def render_clip(clip: PlannedClip, videos: Path) -> None:
    """Write one clip's file into ``videos``; it appears there complete or not at all."""
    LocalFolder(videos).put({f"{clip.clip_id}.mp4": [_encode(clip_frames(clip))]})


def clip_frames(clip: PlannedClip) -> Iterator[Image.Image]:
    """Yield a clip's frames as RGB images of ``SIDE`` x ``SIDE``, before encoding."""
    rng = random.Random(clip.look_seed)
    look = Look.draw(rng)
    background = draw_background(clip.scene.background, SIDE, rng)
    for i in range(clip.frames):
        yield draw_frame(background, place(clip.scene, look, i / FPS, clip.frames / FPS))


def _encode(frames: Iterator[Image.Image]) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        # One thread: the same bytes on any number of cores
        options = {"preset": "superfast", "crf": "20", "threads": "1"}
        stream: Any = container.add_stream("libx264", rate=FPS, options=options)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 2 * FPS
        converter = VideoReformatter()  # one for all frames: PyAV makes one for each otherwise
        for frame in frames:
            picture = converter.reformat(av.VideoFrame.from_image(frame), format="yuv420p")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return file.getvalue()


def _rendered(path: Path) -> bool:
    """Whether a clip's file exists: files appear by rename, so one with any content is complete."""
    return path.is_file() and path.stat().st_size > 0


def _annotations(seed: int, clips: list[PlannedClip]) -> dict[str, Any]:
    splits = {split: sum(clip.split == split for clip in clips) for split in ("train", "val", "test")}
    entries = [clip.to_json(FPS) for clip in clips]
    plan = json.dumps([FORMAT_VERSION, FPS, SIDE, entries], sort_keys=True)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "seed": seed,
        "splits": splits,
        "fps": FPS,
        "width": SIDE,
        "height": SIDE,
        "plan_hash": f"xxh3-128:{xxhash.xxh3_128_hexdigest(plan.encode())}",
        "clips": entries,
    }


def _claim(folder: Path, world: dict[str, Any]) -> None:
    """Record which world the folder holds, or refuse a folder that holds something else."""
    held = LocalFolder(folder).read("world.json")
    if held is None:
        foreign = sorted(entry.name for entry in folder.iterdir() if entry.name[0] != ".") if folder.is_dir() else []
        if foreign:
            raise UsageError(f"{folder}: holds {foreign[0]!r} and no demo world: give a new or an empty folder")
        _write_json(folder, "world.json", world)
    elif held != _json(world):
        raise UsageError(f"{folder}: its world.json is of another demo world: give another folder, or remove this one")


def _write_json(folder: Path, name: str, content: dict[str, Any]) -> None:
    LocalFolder(folder).put({name: [_json(content)]})


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
