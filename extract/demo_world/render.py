"""Rendering a demo world: real H.264 files, then the annotation that says what they show.

A world's folder::

    world.json          which world this is; written first, so that two worlds never mix
    videos/*.mp4        each written under a temporary name, flushed and renamed
    annotations.json    every clip's file, split, true attributes and captions; written last, by rename

An interrupted rendering goes on where it stopped: files that are there are kept. The same arguments give the same
pixels, and on the same machine and library versions the same bytes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
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
from supportset.store.errors import SupportsetError, UsageError

FPS = 10
SIDE = 224  # pixels; frames are square
FORMAT = "supportset-demo-world"
FORMAT_VERSION = 1  # rises when the same plan gives other pixels

SEED, TRAIN, VALIDATION, TEST = 7, 500, 80, 160

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class RenderSummary:
    """What a rendering did.

    Attributes
    ----------
    clips : clips of the world
    rendered : clips whose file was written now; the others were there already
    bytes : size of all video files
    seconds : wall time
    """

    clips: int
    rendered: int
    bytes: int
    seconds: float


def render_world(
    folder: Path,
    *,
    seed: int = SEED,
    train: int = TRAIN,
    validation: int = VALIDATION,
    test: int = TEST,
    workers: int | None = None,
    progress: Progress | None = None,
) -> RenderSummary:
    """Render a world of captioned moving shapes into ``folder``, or finish one that was broken off.

    Parameters
    ----------
    folder : where ``annotations.json`` and ``videos/`` shall lie; made where absent
    seed : any integer; decides everything
    train, validation, test : numbers of clips
    workers : processes; None for one a core, 1 for none beside this one
    progress : called with (files that are there, files of the world) after each file

    Raises
    ------
    UsageError
        Impossible numbers, or a folder that holds another world.
    SupportsetError
        A file could not be written, or a worker process died: what is rendered stays, the same call goes on.
    """
    started = time.monotonic()
    clips = plan_world(seed, train, validation, test)
    annotations = _annotations(seed, clips)
    videos = folder / "videos"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _claim(folder, {key: annotations[key] for key in ("format", "format_version", "seed", "splits", "plan_hash")})
        videos.mkdir(exist_ok=True)
        todo = [clip for clip in clips if not _rendered(videos / f"{clip.clip_id}.mp4")]
        done = len(clips) - len(todo)
        for _ in _render_all(todo, videos, workers):
            done += 1
            if progress is not None:
                progress(done, len(clips))
        _write_json(folder / "annotations.json", annotations)
        # Left by renderings that were killed.
        shutil.rmtree(videos / ".rendering", ignore_errors=True)
        size = sum((videos / f"{clip.clip_id}.mp4").stat().st_size for clip in clips)
    except OSError as error:
        raise SupportsetError(
            f"{folder}: the demo world could not be written ({error}): mend that and run again"
        ) from error
    except BrokenProcessPool as error:
        raise SupportsetError(f"{folder}: a rendering process died: run again, it goes on where it stopped") from error
    return RenderSummary(len(clips), len(todo), size, time.monotonic() - started)


def render_clip(clip: PlannedClip, videos: Path) -> None:
    """Write one clip's file into ``videos``; it appears there complete or not at all."""
    final = videos / f"{clip.clip_id}.mp4"
    temporary = videos / ".rendering" / f"{clip.clip_id}-{os.getpid()}.mp4"
    temporary.parent.mkdir(exist_ok=True)
    _encode(clip_frames(clip), temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, final)


def clip_frames(clip: PlannedClip) -> Iterator[Image.Image]:
    """Yield a clip's frames as RGB pictures of ``SIDE`` x ``SIDE``, before encoding."""
    rng = random.Random(clip.look_seed)
    look = Look.draw(rng)
    background = draw_background(clip.scene.background, SIDE, rng)
    things, frame = None, background
    for i in range(clip.frames):
        now = place(clip.scene, look, i / FPS, clip.frames / FPS)
        if now != things:
            things, frame = now, draw_frame(background, now)
        yield frame


def _encode(frames: Iterable[Image.Image], path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        # One thread: the same bytes whatever the machine's number of cores.
        options = {"preset": "superfast", "crf": "20", "threads": "1"}
        stream: Any = container.add_stream("libx264", rate=FPS, options=options)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 2 * FPS
        # One converter for all frames: PyAV would otherwise set one up for each.
        converter = VideoReformatter()
        for frame in frames:
            picture = converter.reformat(av.VideoFrame.from_image(frame), format="yuv420p")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _rendered(path: Path) -> bool:
    # Files appear by rename, so one that has any content is complete.
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _render_all(clips: list[PlannedClip], videos: Path, workers: int | None) -> Iterator[None]:
    """Render the clips, yielding after each."""
    number = min(workers or _cores(), len(clips))
    if number <= 1:
        for clip in clips:
            render_clip(clip, videos)
            yield
        return
    # Spawned, since forking a process that runs threads (as torch's do) can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(number, mp_context=context, initializer=_start_worker)
    try:
        for future in as_completed([pool.submit(render_clip, clip, videos) for clip in clips]):
            future.result()
            yield
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    """Cores that this process may use, where the system tells (macOS does not)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


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
    """Note which world the folder holds, or refuse one that holds another."""
    path = folder / "world.json"
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        foreign = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if foreign:
            raise UsageError(
                f"{folder}: holds other things ({foreign[0]!r}) and no demo world: give a new or an empty folder"
            ) from error
        _write_json(path, world)
        return
    except ValueError as error:
        raise UsageError(
            f"{path}: not the JSON that a rendering writes ({error}): remove the folder and render again"
        ) from error
    if held != world:
        told = {key: held.get(key) for key in ("seed", "splits", "format_version")} if isinstance(held, dict) else held
        raise UsageError(f"{folder}: holds another demo world ({told}): give another folder, or remove this one")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
