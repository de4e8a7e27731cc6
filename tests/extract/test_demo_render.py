"""Rendering the demo world: real files, the same every time, whole after any interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
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

pytestmark = pytest.mark.slow

SMALL = {"seed": 3, "train": 4, "validation": 1, "test": 2}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "videos").iterdir()) if path.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    render_world(folder, **SMALL)
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


def test_the_same_seed_gives_the_same_bytes(world: Path, tmp_path: Path) -> None:
    calls = []
    rendered = render_world(tmp_path, **SMALL, progress=lambda done, clips: calls.append((done, clips)))
    assert files(tmp_path) == files(world)
    assert (tmp_path / "annotations.json").read_bytes() == (world / "annotations.json").read_bytes()
    assert calls == [(done, 7) for done in range(1, 8)]
    assert rendered == 7


def test_an_interrupted_rendering_resumes(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, calls = render._encode, []

    def interrupted(frames: Iterator[Image.Image]) -> bytes:
        calls.append(frames)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(frames)

    monkeypatch.setattr(render, "_encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        render_world(tmp_path, **SMALL)
    assert not (tmp_path / "annotations.json").exists()
    left = 7 - len(files(tmp_path))
    assert left > 0
    monkeypatch.setattr(render, "_encode", encode)
    assert render_world(tmp_path, **SMALL) == left
    assert files(tmp_path) == files(world)


def test_only_absent_and_empty_files_are_rendered_again(world: Path, tmp_path: Path) -> None:
    render_world(tmp_path, **SMALL)
    (tmp_path / "videos" / "train-0001.mp4").unlink()
    (tmp_path / "videos" / "test-0000.mp4").write_bytes(b"")
    kept = (tmp_path / "videos" / "train-0000.mp4").stat().st_mtime_ns
    assert render_world(tmp_path, **SMALL) == 2
    assert files(tmp_path) == files(world)
    assert (tmp_path / "videos" / "train-0000.mp4").stat().st_mtime_ns == kept


def test_two_worlds_never_mix(world: Path) -> None:
    before = files(world)
    with pytest.raises(UsageError, match="of another demo world"):
        render_world(world, **{**SMALL, "seed": 4})
    with pytest.raises(UsageError, match="of another demo world"):
        render_world(world, **{**SMALL, "train": 5})
    assert files(world) == before


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        render_world(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_note_is_told(tmp_path: Path) -> None:
    (tmp_path / "world.json").write_text("{")
    with pytest.raises(UsageError, match=r"world\.json is of another"):
        render_world(tmp_path, **SMALL)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SupportsetError, match="file/world"):
        render_world(tmp_path / "file" / "world", **SMALL)


def test_a_full_disk_is_told_and_mended(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "train-0002.mp4":
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(SupportsetError, match=r"No space left|disk"):
        render_world(tmp_path, **SMALL)
    monkeypatch.setattr(os, "rename", rename)
    render_world(tmp_path, **SMALL)
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
