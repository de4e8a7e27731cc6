"""Our torch-free steps against the libraries' own, pixel for pixel."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from supportset.extract.backbones import transforms
from supportset.extract.backbones.transforms import (
    CenterCrop,
    CropFraction,
    FrameTransform,
    Resize,
    ResizeKeepRatio,
    ResizeShortest,
)
from tests.extract.backbones.frames import SIZES, frame


def test_workers_never_load_torch() -> None:
    transform = FrameTransform((ResizeShortest(64), CenterCrop(64, 64)), 64, 64)
    code = (
        "import pickle, sys, numpy as np\n"
        "transform = pickle.loads(sys.stdin.buffer.read())\n"
        "assert transform(np.zeros((90, 70, 3), np.uint8)).shape == (64, 64, 3)\n"
        "heavy = {'torch', 'torchvision', 'transformers', 'timm', 'open_clip'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    data = pickle.dumps(transform)
    assert len(data) < 1000
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], input=data, cwd=root, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_shortest_edge_and_crop_are_those_of_torchvision_on_pil_images(
    size: tuple[int, int], interpolation: str
) -> None:
    picture = frame(*size)
    expected = tv.center_crop(tv.resize(Image.fromarray(picture), 75, InterpolationMode(interpolation)), [64, 64])
    ours = FrameTransform((ResizeShortest(75, interpolation), CenterCrop(64, 64)), 64, 64)(picture)
    np.testing.assert_array_equal(ours, np.asarray(expected))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [[128, 171], [112], [300, 300]])
def test_plain_bilinear_is_that_of_torchvision_on_tensors(size: tuple[int, int], target: list[int]) -> None:
    """Equal wherever torch is sure: its answer to a tie between two grey levels changes with its threads."""
    picture = frame(*size)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    expected = tv.resize(tensor, target, InterpolationMode.BILINEAR, antialias=False).permute(1, 2, 0).numpy()
    step = ResizeShortest(*target, "bilinear", False) if len(target) == 1 else Resize(*target, "bilinear", False)
    ours = step(picture)
    exact = tv.resize(tensor.double(), target, InterpolationMode.BILINEAR, antialias=False).permute(1, 2, 0).numpy()
    tie = np.abs(exact - np.floor(exact) - 0.5) < 0.01
    assert ours.shape == expected.shape
    assert tie.mean() < 0.5  # a quarter of the values when it halves
    np.testing.assert_array_equal(ours[~tie], expected[~tie])
    assert np.abs(ours.astype(int) - expected).max() <= 1


def test_plain_bilinear_breaks_ties_to_even_when_halving() -> None:
    picture = frame(256, 342)
    blocks = picture.reshape(128, 2, 171, 2, 3).astype(float).mean((1, 3))
    np.testing.assert_array_equal(Resize(128, 171, "bilinear", False)(picture), np.rint(blocks))


@pytest.mark.parametrize("size", [(50, 80), (81, 51), (51, 51), (120, 91), (64, 64)])
def test_crop_pads_what_is_too_small_like_torchvision(size: tuple[int, int]) -> None:
    picture = frame(*size)
    expected = np.asarray(tv.center_crop(Image.fromarray(picture), [64, 64]))
    np.testing.assert_array_equal(CenterCrop(64, 64)(picture), expected)


@pytest.mark.parametrize("size", [(50, 80), (81, 51), (51, 51), (120, 91), (65, 67)])
def test_crop_pads_what_is_too_small_like_transformers(size: tuple[int, int]) -> None:
    from transformers.image_transforms import center_crop

    picture = frame(*size)
    expected = center_crop(picture, (64, 64), input_data_format="channels_last")
    np.testing.assert_array_equal(CenterCrop(64, 64, rounding="floor")(picture), expected)


def test_fraction_cuts_the_central_square() -> None:
    picture = frame(256, 400)
    np.testing.assert_array_equal(CropFraction(7, 8)(picture), picture[16:240, 88:312])


def test_result_is_a_writable_copy_even_when_nothing_is_to_be_done() -> None:
    picture = frame(64, 64)
    result = FrameTransform((ResizeShortest(64), CenterCrop(64, 64)), 64, 64)(picture)
    np.testing.assert_array_equal(result, picture)
    result[:] = 0
    assert picture.any()


@pytest.mark.parametrize(
    "bad", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)]
)
def test_what_is_no_rgb_frame_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be"):
        FrameTransform((Resize(4, 4),), 4, 4)(bad)


def test_description_is_plain_json_and_tells_transforms_apart() -> None:
    one = FrameTransform((Resize(4, 4), CenterCrop(4, 4, fill=(1, 2, 3))), 4, 4)
    assert json.loads(json.dumps(one.to_json())) == one.to_json()
    assert one.to_json() != FrameTransform((Resize(4, 4), CenterCrop(4, 4, rounding="floor")), 4, 4).to_json()


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("rounding", ["even", "floor"])
@pytest.mark.parametrize("shape", [(1, 700), (701, 1), (3, 900), (40, 31)])
def test_thin_frames_are_cropped_before_they_grow(
    shape: tuple[int, int], rounding: str, antialias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    for resize in (ResizeShortest(32, "bilinear", antialias), ResizeKeepRatio(30, 24, False)):
        transform = FrameTransform((resize, CenterCrop(32, 28, rounding)), height=32, width=28)
        plain = transform(frame)
        with monkeypatch.context() as patch:
            patch.setattr(transforms, "_MOST_PIXELS", 0)
            assert np.abs(transform(frame).astype(int) - plain).max() <= 2  # Pillow keeps the box in float32


def test_a_strip_takes_no_memory() -> None:
    transform = FrameTransform((ResizeShortest(224), CenterCrop(224, 224)), height=224, width=224)
    tracemalloc.start()
    assert transform(np.full((1, 30_000, 3), 7, np.uint8)).mean() == 7
    assert tracemalloc.get_traced_memory()[1] < 50e6  # 4.5 GB for the strip at full size
    tracemalloc.stop()
    with pytest.raises(ValueError, match="30000 x 1 would grow"):
        FrameTransform((ResizeShortest(224),), height=224, width=224)(np.zeros((1, 30_000, 3), np.uint8))


def test_a_strip_fits_inside() -> None:
    inside = FrameTransform((ResizeKeepRatio(24, 24, True), CenterCrop(24, 24)), height=24, width=24)
    assert inside(np.full((1, 6000, 3), 9, np.uint8)).max() == 9
