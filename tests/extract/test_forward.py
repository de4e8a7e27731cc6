"""The model's side of a run: batches in one size for a compiled model, in smaller ones when memory runs out."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supportset.extract.backbones.base import Backbone
from supportset.extract.backbones.transforms import FrameTransform, Resize
from supportset.extract.pipeline.batch_size import default_batch_size, grow, pick_batch_size
from supportset.extract.pipeline.forward import Forward, compile_for
from supportset.store.errors import SupportsetError


class Small(Backbone):
    """A convolution and a mean; notes the sizes of its batches."""

    def __init__(self, window: int = 1) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(3, 4, 3),
            name="small",
            weights="none",
            dim=4,
            transform=FrameTransform((Resize(8, 10, "bilinear"),), height=8, width=10),
            mean=(0.5, 0.4, 0.3),
            std=(0.5, 0.5, 0.5),
            layer="last",
            pooling="mean",
            window=window,
        )
        self.sizes: list[int] = []
        self.room = 10**6

    def forward(self, frames: Tensor) -> Tensor:
        self.sizes.append(len(frames))
        if len(frames) > self.room:
            raise torch.OutOfMemoryError("no room")
        return super().forward(frames)

    def encode(self, pixels: Tensor) -> Tensor:
        if self.window > 1:
            return self.model(pixels.flatten(0, 1)).mean((2, 3)).unflatten(0, (-1, self.window)).mean(1)
        return self.model(pixels).mean((2, 3))


def frames(count: int, window: int = 1) -> Tensor:
    return torch.randint(
        0, 256, (count, window, 8, 10, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace as torch.compile does, and leave out the compiler, which takes a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.usefixtures("eager")
def test_a_compiled_model_gets_one_size_and_gives_the_same(window: int, precision: str) -> None:
    backbone, told = Small(window), list[str]()
    backbone.to("cpu", precision)
    plain = Forward(backbone, 4)(frames(11, window))
    compile_for(backbone, 4, told.append)
    assert backbone.compiled
    assert told[0].startswith("extract: the model is compiled for batches of 4")
    backbone.sizes.clear()
    forward = Forward(backbone, 4)
    found = torch.cat([forward(part) for part in frames(11, window).split(4)])
    assert set(backbone.sizes) == {4}
    torch.testing.assert_close(found, plain, atol=1e-6, rtol=0)
    assert forward(frames(0, window)).shape == (0, 4)


def test_a_compiler_that_fails_is_told_and_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nin this place")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    backbone, told = Small(), list[str]()
    compile_for(backbone, 4, told.append)
    assert not backbone.compiled
    assert len(told) == 1
    assert "No working C++ compiler found" in told[0]
    assert "\n" not in told[0]
    assert told[0].endswith("the run continues without")
    backbone.sizes.clear()
    assert Forward(backbone, 4)(frames(3)).shape == (3, 4)
    assert backbone.sizes == [3]


@pytest.mark.usefixtures("eager")
def test_memory_that_runs_out_makes_batches_smaller() -> None:
    for compiled in (False, True):
        backbone = Small()
        expected = Forward(backbone, 16)(frames(16))
        if compiled:
            compile_for(backbone, 16, lambda line: None)
        backbone.room = 5
        forward = Forward(backbone, 16)
        torch.testing.assert_close(forward(frames(16)), expected, atol=1e-6, rtol=0)
        backbone.sizes.clear()
        forward(frames(7))
        assert backbone.sizes == ([4, 4] if compiled else [4, 3]), "what did not fit is not tried again"
        backbone.room = 0
        with pytest.raises(SupportsetError, match="one step does not fit into the device's memory"):
            forward(frames(16))


class Device:
    """A device whose forward takes a fixed time and a time a step, and whose memory holds so many steps."""

    def __init__(self, fixed: float, a_step: float, room: int) -> None:
        self.fixed, self.a_step, self.room = fixed, a_step, room
        self.tried: list[int] = []

    def measure(self, steps: int) -> float:
        self.tried.append(steps)
        if steps > self.room:
            raise torch.OutOfMemoryError("no room")
        return self.fixed + self.a_step * steps


@pytest.mark.parametrize(
    ("device", "chosen", "tried"),
    [
        (Device(1.0, 1e-3, 10**6), 4096, [32, 64, 128, 256, 512, 1024, 2048, 4096]),  # launches cost more than work
        (Device(0.01, 1e-3, 10**6), 128, [32, 64, 128, 256]),  # 256 at a time are only 4 % faster than 128
        (Device(1.0, 1e-3, 300), 256, [32, 64, 128, 256, 512]),
        (Device(1.0, 1e-3, 9), 8, [32, 16, 8]),
        (Device(1.0, 1e-3, 0), None, [32, 16, 8, 4, 2, 1]),
    ],
)
def test_the_batch_grows_while_that_pays_and_fits(device: Device, chosen: int | None, tried: list[int]) -> None:
    assert grow(device.measure, 32, 4096) == chosen
    assert device.tried == tried


def test_the_batch_is_never_larger_than_the_most() -> None:
    device = Device(1.0, 1e-3, 10**6)
    assert grow(device.measure, 32, 100) == 64
    assert max(device.tried) <= 100


def test_on_a_cpu_nothing_is_measured() -> None:
    backbone = Small()
    assert pick_batch_size(backbone, 10**6) == 8
    assert backbone.sizes == []
    assert default_batch_size(torch.device("cpu"), 8) == 4
    assert default_batch_size(torch.device("cuda"), 1) == 256
    assert default_batch_size(torch.device("cuda"), 16) == 32
