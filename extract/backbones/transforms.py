"""What happens to a frame before it meets a backbone: resize and crop, in PIL and NumPy only.

Decode workers run this, many of them, so nothing here may import torch: a transform pickles to a few
hundred bytes and unpickles in a process that has loaded PIL and NumPy. Each step repeats, to the pixel, what
the library that published the model does (its roundings differ between libraries, so they are named);
rescaling to [0, 1] and normalisation are left to the forward, where they are free and frames stay uint8.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import ClassVar, Protocol

import numpy as np
from PIL import Image

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


_MOST_PIXELS = 2**24  # that a resize makes of a frame


class Step(Protocol):
    """One operation on a frame: (H, W, 3) uint8 in, (H', W', 3) uint8 out."""

    op: ClassVar[str]

    def __call__(self, frame: np.ndarray) -> np.ndarray: ...


Window = tuple[slice, slice]  # rows and columns of a resized frame that are needed
_WHOLE = slice(None), slice(None)


def _resize_pil(frame: np.ndarray, height: int, width: int, interpolation: str, window: Window = _WHOLE) -> np.ndarray:
    if frame.shape[:2] == (height, width):
        return frame[window]
    (top, bottom, _), (left, right, _) = window[0].indices(height), window[1].indices(width)
    down, across = frame.shape[0] / height, frame.shape[1] / width
    box = left * across, top * down, right * across, bottom * down
    size = right - left, bottom - top
    return np.asarray(Image.fromarray(frame).resize(size, _FILTERS[interpolation], None if window == _WHOLE else box))


def _resize_plain_bilinear(frame: np.ndarray, height: int, width: int, window: Window = _WHOLE) -> np.ndarray:
    """Bilinear without antialiasing, as torchvision's video presets resize tensors: in float32, half to even.

    PIL has no such filter (it widens the filter when it shrinks), and the published weights of the video models
    were validated with this one. Where the exact value lies half-way between two grey levels torch's own answer
    depends on the CPU and on the number of threads; this one does not.
    """
    if frame.shape[:2] == (height, width):
        return frame[window]
    top, bottom, down = _bilinear_taps(frame.shape[0], height, window[0])
    left, right, across = _bilinear_taps(frame.shape[1], width, window[1])
    down, across = down[:, None, None], across[None, :, None]
    upper, lower = frame[top], frame[bottom]  # (height, W, 3) each
    above = _mix(upper[:, left], upper[:, right], across)
    below = _mix(lower[:, left], lower[:, right], across)
    return np.rint(_mix(above, below, down)).astype(np.uint8)


def _bilinear_taps(source: int, target: int, window: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the two source rows of each target row in the window, and the weight of the second one (float32)."""
    scale = np.float32(source) / np.float32(target)
    position = np.maximum(
        scale * (np.arange(*window.indices(target), dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0
    )
    first = np.minimum(position.astype(np.int64), source - 1)
    second = np.minimum(first + 1, source - 1)
    return first, second, position - first.astype(np.float32)


def _mix(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return (np.float32(1) - weight) * first + weight * second


@dataclass(frozen=True)
class Resize:
    """Resize to exactly ``height`` x ``width`` pixels, the aspect ratio not kept.

    ``antialias=False`` is the plain bilinear resize of torchvision's video presets.
    """

    op: ClassVar[str] = "resize"
    height: int
    width: int
    interpolation: str = "bicubic"
    antialias: bool = True

    def __call__(self, frame: np.ndarray, window: Window = _WHOLE) -> np.ndarray:
        if not self.antialias:
            return _resize_plain_bilinear(frame, self.height, self.width, window)
        return _resize_pil(frame, self.height, self.width, self.interpolation, window)


@dataclass(frozen=True)
class ResizeShortest:
    """Resize so that the shorter edge has ``size`` pixels; the longer edge is rounded down."""

    op: ClassVar[str] = "resize_shortest"
    size: int
    interpolation: str = "bicubic"
    antialias: bool = True

    def __call__(self, frame: np.ndarray, window: Window = _WHOLE) -> np.ndarray:
        return Resize(*self.target(*frame.shape[:2]), self.interpolation, self.antialias)(frame, window)

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the resized frame."""
        longer = int(self.size * max(height, width) / min(height, width))
        return (longer, self.size) if width <= height else (self.size, longer)


@dataclass(frozen=True)
class ResizeKeepRatio:
    """Resize with the aspect ratio kept, to cover ``height`` x ``width`` or (``inside``) to fit into it; rounded."""

    op: ClassVar[str] = "resize_keep_ratio"
    height: int
    width: int
    inside: bool = False
    interpolation: str = "bicubic"

    def __call__(self, frame: np.ndarray, window: Window = _WHOLE) -> np.ndarray:
        return _resize_pil(frame, *self.target(*frame.shape[:2]), self.interpolation, window)

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the resized frame."""
        ratios = height / self.height, width / self.width
        ratio = max(ratios) if self.inside else min(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))


@dataclass(frozen=True)
class CenterCrop:
    """Cut ``height`` x ``width`` from the middle; a smaller frame is padded with ``fill`` (one value, or R, G, B).

    Where the margins cannot be equal, ``rounding`` decides: ``even`` as torchvision, timm and open_clip
    do (half a pixel rounds to even; padding has the smaller part before), ``floor`` as transformers does.
    """

    op: ClassVar[str] = "center_crop"
    height: int
    width: int
    rounding: str = "even"
    fill: tuple[int, ...] = (0,)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        top, left = self._offset(frame.shape[0], self.height), self._offset(frame.shape[1], self.width)
        inner = frame[self.window(*frame.shape[:2])]
        if inner.shape[:2] == (self.height, self.width):
            return inner
        canvas = np.empty((self.height, self.width, 3), np.uint8)
        canvas[:] = np.array(self.fill, np.uint8)
        row, column = max(-top, 0), max(-left, 0)
        canvas[row : row + inner.shape[0], column : column + inner.shape[1]] = inner
        return canvas

    def window(self, height: int, width: int) -> Window:
        """Rows and columns that the crop takes of a frame of this size."""
        top, left = max(0, self._offset(height, self.height)), max(0, self._offset(width, self.width))
        return slice(top, min(top + self.height, height)), slice(left, min(left + self.width, width))

    def _offset(self, have: int, want: int) -> int:
        slack = have - want
        if self.rounding == "floor":
            return slack // 2
        return round(slack / 2) if slack >= 0 else -(-slack // 2)


@dataclass(frozen=True)
class CropFraction:
    """Cut the central square whose edge is ``numerator / denominator`` of the shorter edge (no resize before it)."""

    op: ClassVar[str] = "crop_fraction"
    numerator: int
    denominator: int

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        height, width = frame.shape[:2]
        edge = max(1, math.floor(self.numerator / self.denominator * min(height, width)))
        top, left = (height - edge + 1) // 2, (width - edge + 1) // 2
        return frame[top : top + edge, left : left + edge]


@dataclass(frozen=True)
class FitPatches:
    """Resize to at most ``most`` square patches, the aspect ratio nearly kept, and cut the patches out (NaFlex).

    The result is (most + 1, edge * edge, 3): the numbers of rows and columns of patches, two bytes each, then a patch a
    line, row by row; lines of zeros fill it up. The size is the one that SigLIP 2's processor finds by bisection.
    """

    op: ClassVar[str] = "fit_patches"
    edge: int
    most: int
    interpolation: str = "bilinear"

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        rows, columns = self.grid(*frame.shape[:2])
        resized = _resize_pil(frame, rows * self.edge, columns * self.edge, self.interpolation)
        patches = resized.reshape(rows, self.edge, columns, self.edge, 3).swapaxes(1, 2)
        packed = np.zeros((self.most + 1, self.edge * self.edge, 3), np.uint8)
        packed[0, :2, :2] = [divmod(rows, 256), divmod(columns, 256)]
        packed[1 : 1 + rows * columns] = patches.reshape(rows * columns, -1, 3)
        return packed

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of a frame of this size."""

        def patches(scale: float) -> tuple[int, int]:
            rows, columns = (max(1, math.ceil(length * scale / self.edge)) for length in (height, width))
            return rows, columns

        fits, too_large = 1e-6, 100.0  # bounds and precision of the scale are the library's
        while too_large - fits >= 1e-5:
            middle = (fits + too_large) / 2
            if math.prod(patches(middle)) <= self.most:
                fits = middle
            else:
                too_large = middle
        return patches(fits)


_KeepsRatio = ResizeShortest | ResizeKeepRatio


@dataclass(frozen=True)
class FrameTransform:
    """A sequence of steps that takes any frame to one fixed size.

    Parameters
    ----------
    steps : tuple of Step
        Applied in order.
    height, width : int
        Size of every frame that comes out, checked.

    Examples
    --------
    >>> transform = FrameTransform((ResizeShortest(8), CenterCrop(8, 8)), height=8, width=8)
    >>> transform(np.zeros((24, 32, 3), np.uint8)).shape
    (8, 8, 3)
    """

    steps: tuple[Step, ...]
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.height, self.width

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Return the (height, width, 3) uint8 frame of an (H, W, 3) uint8 RGB frame of any size.

        Raises
        ------
        ValueError
            If the frame is not (H, W, 3) uint8, or the steps lead to another size (a mistake of the backbone).
        """
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ValueError(f"a frame must be (H, W, 3) uint8, not {frame.shape} {frame.dtype}")
        for step, following in zip_longest(self.steps, self.steps[1:]):
            height, width = step.target(*frame.shape[:2]) if isinstance(step, _KeepsRatio) else (0, 0)
            if not isinstance(step, _KeepsRatio) or height * width <= _MOST_PIXELS:
                frame = step(frame)
            elif isinstance(following, CenterCrop):  # a thin picture: make only what the crop keeps
                frame = step(frame, following.window(height, width))  # has `target`
            else:
                raise ValueError(f"a frame of {frame.shape[1]} x {frame.shape[0]} would grow to {width:,} x {height:,}")
        if frame.shape != (self.height, self.width, 3):
            raise ValueError(f"the transform made {frame.shape[:2]} of a frame, not {(self.height, self.width)}")
        return np.array(frame, order="C")  # a copy: writable, and never a view of a decoder's buffer

    def to_json(self) -> list[dict[str, object]]:
        """Describe the steps for the feature card: plain JSON values only."""
        described = []
        for step in self.steps:
            options = asdict(step)  # type: ignore[call-overload]
            values = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
            described.append({"op": step.op} | values)
        return described
