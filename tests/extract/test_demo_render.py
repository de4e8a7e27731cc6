"""Rendering the demo world: real files, the same every time, whole after any interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from supportset.extract.demo_world import plan_world, render, render_world
from supportset.extract.demo_world.concepts import COLOURS, MOTIONS, Scene, Thing
from supportset.extract.demo_world.drawing import draw_frame, draw_thing
from supportset.extract.demo_world.motions import Placed
from supportset.extract.demo_world.render import FPS, SIDE, clip_frames
from supportset.store.errors import SupportsetError, UsageError

SMALL = {"seed": 3, "train": 4, "validation": 1, "test": 2}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "videos").iterdir()) if path.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    render_world(folder, **SMALL, workers=1)
    return folder


def test_files_play(world: Path) -> None:
    for clip in json.loads((world / "annotations.json").read_text())["clips"]:
        with av.open(str(world / clip["file"])) as container:
            stream = container.streams.video[0]
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            assert stream.codec_context.name == "h264"
            assert stream.codec_context.pix_fmt == "yuv420p"
            assert float(stream.duration * stream.time_base) == pytest.approx(clip["seconds"])
        assert len(frames) == clip["frames"] == round(clip["seconds"] * FPS)
        assert all(frame.shape == (SIDE, SIDE, 3) for frame in frames)


def test_files_hold_the_frames_that_were_drawn(world: Path) -> None:
    clip = plan_world(3, 4, 1, 2)[0]
    with av.open(str(world / "videos" / f"{clip.clip_id}.mp4")) as container:
        decoded = [frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0)]
    drawn = [np.asarray(frame, dtype=float) for frame in clip_frames(clip)]
    for seen, meant in zip(decoded, drawn, strict=True):
        assert np.abs(seen - meant).mean() < 6.0


def test_annotation_tells_the_plan(world: Path) -> None:
    annotation = json.loads((world / "annotations.json").read_text())
    assert annotation["splits"] == {"train": 4, "val": 1, "test": 2}
    for clip, planned in zip(annotation["clips"], plan_world(3, 4, 1, 2), strict=True):
        assert clip["id"] == planned.clip_id
        assert clip["attributes"]["shape"] == planned.scene.thing.shape
        assert clip["attributes"]["background"] == planned.scene.background
        assert [caption["text"] for caption in clip["captions"]] == [caption.text for caption in planned.captions]
        assert (world / clip["file"]).is_file()


def test_the_same_seed_gives_the_same_bytes_in_several_processes(world: Path, tmp_path: Path) -> None:
    calls = []
    summary = render_world(tmp_path, **SMALL, workers=2, progress=lambda done, clips: calls.append((done, clips)))
    assert files(tmp_path) == files(world)
    assert (tmp_path / "annotations.json").read_bytes() == (world / "annotations.json").read_bytes()
    assert calls == [(done, 7) for done in range(1, 8)]
    assert (summary.clips, summary.rendered) == (7, 7)
    assert summary.bytes == sum(len(content) for content in files(world).values())


def test_an_interrupted_rendering_goes_on(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, calls = render._encode, []

    def interrupted(frames: object, path: Path) -> None:
        calls.append(path)
        if len(calls) == 4:
            path.write_bytes(b"half a file")
            raise KeyboardInterrupt
        encode(frames, path)

    monkeypatch.setattr(render, "_encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        render_world(tmp_path, **SMALL, workers=1)
    assert not (tmp_path / "annotations.json").exists()
    assert len(files(tmp_path)) == 3
    monkeypatch.setattr(render, "_encode", encode)
    assert render_world(tmp_path, **SMALL, workers=1).rendered == 4
    assert files(tmp_path) == files(world)
    assert not (tmp_path / "videos" / ".rendering").exists()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the worker processes in Linux's /proc")
def test_a_killed_rendering_goes_on_and_leaves_no_process(world: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from supportset.extract.demo_world import render_world\n"
        "if __name__ == '__main__':\n"
        f"    render_world(Path({str(tmp_path)!r}), seed=3, train=400, validation=0, test=0, workers=2)\n"
    )
    script = tmp_path.parent / "render_demo.py"
    script.write_text(code)
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": str(root)})
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("videos/*.mp4"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        workers = children(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert workers
    deadline = time.monotonic() + 30
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [worker for worker in workers if alive(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert not left
    there = files(tmp_path)
    assert 3 <= len(there) < 400
    for name, content in there.items():
        with av.open(str(tmp_path / "videos" / name)) as container:
            assert sum(1 for _ in container.decode(video=0)) >= 22, f"{name}: {len(content)} bytes"


def children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_only_absent_and_empty_files_are_rendered_again(world: Path, tmp_path: Path) -> None:
    render_world(tmp_path, **SMALL, workers=1)
    (tmp_path / "videos" / "train-0001.mp4").unlink()
    (tmp_path / "videos" / "test-0000.mp4").write_bytes(b"")
    kept = (tmp_path / "videos" / "train-0000.mp4").stat().st_mtime_ns
    assert render_world(tmp_path, **SMALL, workers=1).rendered == 2
    assert files(tmp_path) == files(world)
    assert (tmp_path / "videos" / "train-0000.mp4").stat().st_mtime_ns == kept


def test_two_worlds_never_mix(world: Path) -> None:
    before = files(world)
    with pytest.raises(UsageError, match=r"holds another demo world \(\{'seed': 3"):
        render_world(world, **{**SMALL, "seed": 4}, workers=1)
    with pytest.raises(UsageError, match="another demo world"):
        render_world(world, **{**SMALL, "train": 5}, workers=1)
    assert files(world) == before


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        render_world(tmp_path, **SMALL, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_note_is_told(tmp_path: Path) -> None:
    (tmp_path / "world.json").write_text("{")
    with pytest.raises(UsageError, match=r"world\.json: not the JSON"):
        render_world(tmp_path, **SMALL, workers=1)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SupportsetError, match="could not be written"):
        render_world(tmp_path / "file" / "world", **SMALL, workers=1)


def test_a_full_disk_is_told_and_mended(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "train-0002.mp4":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SupportsetError, match="No space left"):
        render_world(tmp_path, **SMALL, workers=1)
    monkeypatch.setattr(os, "replace", replace)
    render_world(tmp_path, **SMALL, workers=1)
    assert files(tmp_path) == files(world)


@pytest.mark.parametrize("colour", list(COLOURS))
@pytest.mark.parametrize("shape", ["ball", "square", "triangle", "star", "ring", "cross", "heart", "moon"])
def test_things_have_their_colour_and_their_shape(colour: str, shape: str) -> None:
    """Most of a thing has the hue of its colour, its outline is round its place, and the rest is untouched."""
    grey = (150, 150, 150)
    frame = draw_frame(_plain(grey), [Placed(Thing(colour, shape), 0.5, 0.5, 0.3, 0.0)])
    pixels = np.asarray(frame, dtype=int)
    changed = np.abs(pixels - grey).sum(axis=2) > 0
    rows, columns = np.nonzero(changed)
    assert changed.mean() > 0.1
    assert 0.15 * SIDE < rows.min() < rows.max() < 0.85 * SIDE
    assert 0.15 * SIDE < columns.min() < columns.max() < 0.85 * SIDE
    near = np.abs(pixels - np.array(COLOURS[colour])).max(axis=2) < 12
    assert near.sum() > 0.18 * changed.sum()
    assert not near[~changed].any()


def test_shapes_differ() -> None:
    masks = {}
    for shape in ("ball", "square", "triangle", "star", "ring", "cross", "heart", "moon"):
        frame = draw_frame(_plain((255, 255, 255)), [Placed(Thing("black", shape), 0.5, 0.5, 0.3, 0.0)])
        masks[shape] = np.asarray(frame.convert("L")) < 180
    for a in masks:
        for b in masks:
            if a != b:
                assert (masks[a] & masks[b]).sum() / (masks[a] | masks[b]).sum() < 0.9
    assert not masks["ring"][SIDE // 2, SIDE // 2], "a ring has a hole"


def test_edges_are_smooth() -> None:
    """Between black and white there are greys, as many as an edge of that length has."""
    frame = draw_frame(_plain((255, 255, 255)), [Placed(Thing("white", "square"), 0.5, 0.5, 0.3, 0.3)])
    assert len(np.unique(np.asarray(frame.convert("L")))) > 20


def test_things_at_the_border_are_cut_off() -> None:
    frame = _plain((255, 255, 255))
    draw_thing(frame, Placed(Thing("red", "ball"), 0.0, 1.0, 0.2, 0.0))
    pixels = np.asarray(frame, dtype=int)
    assert pixels[-3, 3, 0] > pixels[-3, 3, 1] + 60
    assert (pixels[: SIDE // 2, SIDE // 2 :] == 255).all()


def test_every_motion_can_be_drawn() -> None:
    """Whatever the motion, frames change within eight tenths of a second, except where a thing stands still."""
    drawn = set()
    for clip in plan_world(7, 100, 0, 0)[:40]:
        first, *others = (np.asarray(frame) for frame in islice(clip_frames(clip), 9))
        moved = any((frame != first).any() for frame in others)
        assert moved == (clip.scene.motion != "still"), clip.scene
        drawn.add(clip.scene.motion)
    assert drawn >= set(MOTIONS)


def _plain(tone: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), tone)


def test_a_scene_names_its_concept() -> None:
    pair = Scene(Thing("red", "ball"), "plain", relation="passes", other=Thing("blue", "square"))
    assert pair.concept == "red ball passes blue square"
    assert Scene(Thing("red", "ball"), "night", count=2, size="big", motion="left").concept == "red ball left"
