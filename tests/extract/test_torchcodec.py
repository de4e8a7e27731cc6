"""torchcodec gives the pixels, never the choice of frames: by a fake of its API, and by the real one where it loads."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import types
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from supportset.commands.extract import extract_command
from supportset.extract.decode import decoders, torchcodec_frames
from supportset.extract.decode.clips import decode_clip
from supportset.extract.decode.sampling import Sampling
from supportset.store.errors import UsageError
from tests.extract.films import outcome_of, write_video

GAPS = [0, 40, 80, 120, 400, 440, 1000, 1010, 1020, 1500, 2200, 2210, 3000, 3700, 3740, 4100, 5200, 5240, 5900, 6000]
FILMS: dict[str, dict[str, Any]] = {
    "b-frames.mp4": {"count": 70, "gop": 20, "options": {"bf": "3"}},
    "open.mkv": {"count": 70, "options": {"bf": "3", "x264-params": "open-gop=1:keyint=20"}},
    "hevc.mp4": {"count": 40, "codec": "libx265"},
    "vp9.webm": {"count": 40, "codec": "libvpx-vp9", "options": {"cpu-used": "8"}},
    "variable.mp4": {"count": len(GAPS), "ticks": GAPS},
    "ten-bit.mp4": {"count": 30, "codec": "libx265", "pixels": "yuv420p10le"},
    "odd.mp4": {"count": 30, "size": (63, 47), "pixels": "yuv444p"},
    "turned.mp4": {"count": 30, "rotation": 90},
    "mirrored.mp4": {"count": 30, "rotation": -1},
    "interlaced.mp4": {"count": 30, "options": {"x264-params": "tff=1"}},
    "wide.mp4": {"count": 30, "options": {"x264-params": "sar=2/1"}},
    "late.ts": {"count": 40},
    "mpeg4.avi": {"count": 40, "codec": "mpeg4"},
}
SAMPLING = Sampling(fps=3.0, window=3, stride=2)
INSTALLED = importlib.util.find_spec("torchcodec") is not None


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("films")
    return {name: write_video(folder / name, **options) for name, options in FILMS.items()}


@dataclass
class FakeBatch:
    data: torch.Tensor
    pts_seconds: torch.Tensor
    duration_seconds: torch.Tensor


class FakeDecoder:
    """The part of ``torchcodec.decoders.VideoDecoder`` that is used, on PyAV."""

    made: list[dict[str, Any]] = []  # noqa: RUF012 - the test looks at it
    shift = 0.0
    refuses_after = 10**9

    def __init__(
        self,
        source: str | Path | bytes,
        *,
        stream_index: int | None = None,
        dimension_order: str = "NCHW",
        num_ffmpeg_threads: int = 1,
        device: str | None = None,
        seek_mode: str = "exact",
        transforms: Any = None,
        output_dtype: Any = torch.uint8,
        custom_frame_mappings: str | None = None,
    ) -> None:
        FakeDecoder.made.append({"device": device, "threads": num_ffmpeg_threads, "stream": stream_index})
        assert dimension_order == "NHWC"
        assert seek_mode == "exact"
        with av.open(str(source)) as file:
            frames = list(file.decode(file.streams[stream_index or 0]))
        self._frames = [(f.time, torch.from_numpy(f.to_ndarray(format="rgb24"))) for f in frames]
        assert custom_frame_mappings is not None
        mapped = json.loads(custom_frame_mappings)["frames"]
        base = float(frames[0].time_base or Fraction(1))
        assert [row["pts"] * base for row in mapped] == pytest.approx([time for time, _ in self._frames])
        assert [row["pts"] + row["duration"] for row in mapped[:-1]] == [row["pts"] for row in mapped[1:]]
        assert [bool(row["key_frame"]) for row in mapped] == [frame.key_frame for frame in frames]

    def get_frames_at(self, indices: torch.Tensor | list[int]) -> FakeBatch:
        if max(indices) > FakeDecoder.refuses_after:
            raise RuntimeError("Could not push packet to decoder")
        picked = [self._frames[int(index)] for index in indices]
        times = torch.tensor([time + FakeDecoder.shift for time, _ in picked], dtype=torch.float64)
        return FakeBatch(torch.stack([image for _, image in picked]), times, torch.zeros(len(picked)))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeDecoder]:
    package, module = types.ModuleType("torchcodec"), types.ModuleType("torchcodec.decoders")
    module.VideoDecoder = FakeDecoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    monkeypatch.setattr(FakeDecoder, "made", [])
    monkeypatch.setattr(FakeDecoder, "shift", 0.0)
    monkeypatch.setattr(FakeDecoder, "refuses_after", 10**9)
    return FakeDecoder


def check_same(film: Path, decoder: str) -> None:
    for part in [(None, None), (0.7, 1.6)]:
        expected = list(decode_clip(film, *part, SAMPLING))
        found = list(decode_clip(film, *part, SAMPLING, decoder=decoder))
        assert [step[1:] for step in found] == [step[1:] for step in expected]
        for step, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(step.frames, other.frames)


@pytest.mark.parametrize("name", ["b-frames.mp4", "open.mkv", "vp9.webm", "variable.mp4", "odd.mp4"])
def test_frames_are_those_of_the_rule(fake: type[FakeDecoder], films: dict[str, Path], name: str) -> None:
    check_same(films[name], "torchcodec")
    assert fake.made == [{"device": "cpu", "threads": 1, "stream": 0}] * 2


def test_nvdec_is_torchcodec_on_cuda(fake: type[FakeDecoder], films: dict[str, Path]) -> None:
    check_same(films["b-frames.mp4"], "nvdec")
    assert {made["device"] for made in fake.made} == {"cuda"}
    check_same(films["b-frames.mp4"], decoders.decoder_beside("nvdec", "cuda:1"))
    assert fake.made[-1]["device"] == "cuda:1"
    assert decoders.decoder_beside("nvdec", "cpu") == "nvdec"
    assert decoders.decoder_beside("pyav", "cuda:1") == "pyav"


@pytest.mark.parametrize("name", ["late.ts", "mpeg4.avi"])
def test_containers_without_an_index_are_left_to_pyav(
    fake: type[FakeDecoder], films: dict[str, Path], name: str
) -> None:
    check_same(films[name], "torchcodec")
    assert fake.made == []


@pytest.mark.parametrize(("shift", "refuses_after"), [(0.04, 10**9), (0.0, 20), (0.0, -1)])
def test_pyav_takes_over_where_torchcodec_is_wrong_or_refuses(
    fake: type[FakeDecoder], monkeypatch: pytest.MonkeyPatch, films: dict[str, Path], shift: float, refuses_after: int
) -> None:
    monkeypatch.setattr(fake, "shift", shift)
    monkeypatch.setattr(fake, "refuses_after", refuses_after)
    check_same(films["b-frames.mp4"], "torchcodec")
    assert fake.made


def test_cut_files_are_damaged_with_torchcodec_too(
    fake: type[FakeDecoder], films: dict[str, Path], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(films["open.mkv"].read_bytes())
    os.truncate(cut, cut.stat().st_size * 7 // 10)
    expected = outcome_of(cut)
    found = outcome_of(cut, decoder="torchcodec")
    assert found[:2] == expected[:2]
    assert found[0] == "damaged"


def test_memory_is_that_of_a_few_frames(
    fake: type[FakeDecoder], monkeypatch: pytest.MonkeyPatch, films: dict[str, Path]
) -> None:
    asked: list[int] = []
    real = FakeDecoder.get_frames_at
    monkeypatch.setattr(FakeDecoder, "get_frames_at", lambda self, n: (asked.append(len(n)), real(self, n))[1])
    list(decode_clip(films["b-frames.mp4"], sampling=Sampling(fps=25.0), decoder="torchcodec"))
    assert max(asked) <= 8
    assert sum(asked) == 70


@pytest.mark.skipif(not INSTALLED, reason="torchcodec is not installed")
def test_the_fake_has_the_real_signatures() -> None:
    from torchcodec.decoders import VideoDecoder

    for name in ("__init__", "get_frames_at"):
        real, ours = (inspect.signature(getattr(one, name)).parameters for one in (VideoDecoder, FakeDecoder))
        assert [(p.name, p.kind) for p in ours.values()] == [(p.name, p.kind) for p in real.values()]
        for parameter in ours.values():
            assert parameter.default == real[parameter.name].default


COMPARE = """
import sys
from pathlib import Path
import numpy as np
from supportset.extract.decode import torchcodec_frames
from supportset.extract.decode.clips import decode_clip
from supportset.extract.decode.sampling import Sampling

if reason := torchcodec_frames.why_not("cpu"):
    sys.exit(reason)
given = []
decode = torchcodec_frames._decode
torchcodec_frames._decode = lambda *args: (given.append(1) or item for item in decode(*args))
for path in map(Path, sys.stdin.read().split()):
    given.clear()
    worst = steps = 0
    sampling = Sampling(fps=3.0, window=3, stride=2)
    both = [decode_clip(path, 0.2, 5.0, sampling, decoder=decoder) for decoder in ("pyav", "torchcodec")]
    for one, other in zip(*both, strict=True):
        assert one[1:] == other[1:]
        worst, steps = max(worst, int(np.abs(one.frames.astype(int) - other.frames).max())), steps + 1
    print(path.name, steps, len(given), worst)
"""


@pytest.mark.skipif(not INSTALLED, reason="torchcodec is not installed")
def test_real_pixels_are_within_the_tolerance(films: dict[str, Path], tmp_path: Path) -> None:
    """In a process that finds the FFmpeg which PyAV brings under the names that torchcodec looks for."""
    libraries = Path(av.__file__).parents[1] / "av.libs"
    for file in libraries.glob("lib*-*.so.*") if libraries.is_dir() else ():
        if found := re.fullmatch(r"(lib(?:av\w+|sw\w+))-\w+\.so\.(\d+)\..*", file.name):
            (tmp_path / f"{found[1]}.so.{found[2]}").symlink_to(file)
    clips = Path(__file__).resolve().parents[3] / "shared" / "data" / "clips"
    paths = [*films.values(), *sorted(clips.rglob("*.mp4"))[:4]]
    done = subprocess.run(
        [sys.executable, "-c", COMPARE],
        cwd=Path(__file__).parents[2],
        env=os.environ
        | {"LD_LIBRARY_PATH": os.pathsep.join([str(tmp_path), os.environ.get("LD_LIBRARY_PATH", "")])}
        | {"OMP_NUM_THREADS": "1"},
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
    )
    if done.returncode and "Traceback" not in done.stderr:
        pytest.skip(f"torchcodec cannot be loaded: {done.stderr.strip()}")
    assert not done.returncode, done.stderr
    told = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, *_ in told] == [path.name for path in paths]
    for name, steps, given, worst in told:
        assert int(steps) >= 3
        assert (int(given) > 0) == (name not in ("late.ts", "mpeg4.avi", "mirrored.mp4")), name
        assert int(worst) <= torchcodec_frames.TOLERANCE, f"{name}: a pixel differs by {worst}"


def test_a_decoder_that_does_not_work_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoders.pick_decoder("auto") == decoders.pick_decoder("pyav") == "pyav"
    with pytest.raises(UsageError, match=r"'opencv' is not one of auto, pyav, torchcodec, nvdec"):
        decoders.pick_decoder("opencv")
    monkeypatch.setattr(decoders, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs torchcodec: pip install"):
        decoders.pick_decoder("torchcodec")
    monkeypatch.setattr(decoders, "find_spec", lambda name: True)
    monkeypatch.setattr(torchcodec_frames, "why_not", lambda device: f"no {device} here")
    with pytest.raises(UsageError, match=r"'nvdec' does not work here \(no cuda here\); use pyav"):
        decoders.pick_decoder("nvdec")


@pytest.mark.skipif(not INSTALLED, reason="torchcodec is not installed")
def test_missing_libraries_are_one_line() -> None:
    reason = torchcodec_frames.why_not("cpu")
    assert "\n" not in reason
    assert reason in ("", "FFmpeg's shared libraries, versions 4 to 9, are not installed")


def test_the_command_line_has_all_decoders() -> None:
    (option,) = [one for one in extract_command.params if one.name == "decoder"]
    assert tuple(option.type.choices) == decoders.DECODERS  # type: ignore[attr-defined]
    assert option.default == "auto"


def test_a_decoder_that_does_not_work_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", 5)
    monkeypatch.setattr(decoders, "find_spec", lambda name: None)
    arguments = ["folder", "--data", str(tmp_path / "videos"), "--store", str(tmp_path / "features")]
    done = CliRunner().invoke(extract_command, [*arguments, "--decoder", "torchcodec"])
    assert isinstance(done.exception, UsageError), done.output
    assert not (tmp_path / "features").exists()


def test_cards_tell_the_decoder() -> None:
    told = decoders.describe_decoder("pyav")
    assert told["name"] == "pyav"
    assert told["pyav"] == av.__version__
    assert set(told["ffmpeg"]) >= {"libavcodec", "libswscale"}
