"""How frames are prepared for a model of transformers: what its processor does, as a transform of decode workers.

Known processors are repeated with PIL's arithmetic: it gives the same pixels on every machine and most published
weights were validated with it. Processors that resize with torchvision instead (the default of transformers 5) differ
from it by a grey level in one value of 200, at hard edges by some levels. Any other processor is called itself, see
:mod:`supportset.extract.backbones.library_frames`.
"""

from __future__ import annotations

from dataclasses import dataclass
from logging import getLogger
from typing import Any

import numpy as np

from supportset.extract.backbones.library_frames import LibraryFrames, pack, run
from supportset.extract.backbones.transforms import CenterCrop, FitPatches, FrameTransform, Resize, ResizeShortest, Step
from supportset.store.errors import UsageError

# Processors that resize, crop, rescale and normalise in this order, and do nothing else. (DINOv3's rescales first,
# which only spares it the rounding.)
_REPEATED = ("CLIPImageProcessor", "SiglipImageProcessor", "BitImageProcessor", "ViTImageProcessor",
             "DINOv3ViTImageProcessor", "VideoMAEImageProcessor", "VideoMAEVideoProcessor", "TimesformerVideoProcessor",
             "VJEPA2VideoProcessor", "PeVideoVideoProcessor", "LlavaOnevisionVideoProcessor")  # fmt: skip
_PATCHES = "Siglip2ImageProcessor"
_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # PIL's numbers
_TRIED = ((48, 64), (61, 37), (90, 160))  # sizes of frames that a processor is tried with


@dataclass(frozen=True)
class Preparation:
    """The transform of one frame, and what the forward does to its values.

    Attributes
    ----------
    transform : FrameTransform or LibraryFrames
        For the decode workers.
    rescale : float
        Factor on the values.
    mean, std : tuple of three floats
        Of the rescaled values.
    """

    transform: FrameTransform | LibraryFrames
    rescale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)


def prepare(name: str, processor: Any, window: int, patches: bool = False) -> Preparation:
    """Read a processor's settings; what cannot be repeated is left to the processor, with a warning.

    Parameters
    ----------
    name : str
        Of the backbone, for messages.
    processor : Any
        An image or video processor of transformers.
    window : int
        Frames of one step.
    patches : bool
        Whether the model takes patches of frames of any shape (NaFlex).

    Raises
    ------
    UsageError
        If the model takes patches and the processor makes none, or if the processor's pictures are not of one size or
        depend on other frames.
    """
    kind = type(processor).__name__.removesuffix("Fast").removesuffix("Pil")
    if patches != (kind == _PATCHES):
        wanted = f"a {_PATCHES}" if patches else "a processor that gives pictures"
        raise UsageError(f"backbone {name}: its frames are prepared by a {kind}, but the model needs {wanted}")
    transform = _patches(processor) if patches else _repeated(processor) if kind in _REPEATED else None
    if transform is None:
        return Preparation(_by_library(name, processor, window))
    return Preparation(
        transform,
        float(processor.rescale_factor) if processor.do_rescale else 1.0,
        tuple(processor.image_mean) if processor.do_normalize else (0.0,) * 3,
        tuple(processor.image_std) if processor.do_normalize else (1.0,) * 3,
    )


def _repeated(processor: Any) -> FrameTransform | None:
    """The steps of a processor; None if its settings do not bring frames to one size."""
    steps: list[Step] = []
    height = width = 0
    if processor.do_resize and processor.size:
        size = dict(processor.size)
        if set(size) == {"shortest_edge"}:
            height = width = size["shortest_edge"]
            steps.append(ResizeShortest(height, _interpolation(processor)))
        elif set(size) == {"height", "width"}:
            height, width = size["height"], size["width"]
            steps.append(Resize(height, width, _interpolation(processor)))
        else:
            return None
    if getattr(processor, "do_center_crop", False):
        crop = dict(processor.crop_size)
        height, width = crop["height"], crop["width"]
        steps.append(CenterCrop(height, width, rounding="floor"))
    whole = any(isinstance(step, Resize | CenterCrop) for step in steps)
    padded = getattr(processor, "do_pad", False) and getattr(processor, "pad_size", None)
    return FrameTransform(tuple(steps), height, width) if whole and not padded else None


def _patches(processor: Any) -> FrameTransform:
    edge, most = int(processor.patch_size), int(processor.max_num_patches)
    return FrameTransform((FitPatches(edge, most, _interpolation(processor)),), most + 1, edge * edge)


def _interpolation(processor: Any) -> str:
    resample = processor.resample  # PIL's number, or torchvision's enum of names
    return _INTERPOLATIONS[resample] if isinstance(resample, int) else str(resample.value)


def _by_library(name: str, processor: Any, window: int) -> LibraryFrames:
    import transformers

    kind = type(processor).__name__
    random = np.random.default_rng(0)
    sizes = []
    try:
        for height, width in _TRIED:
            frames = random.integers(0, 256, (max(2, window), height, width, 3), np.uint8)
            made = run(processor, frames)
            sizes.append(made.shape[-2:])
            if not np.allclose(made, np.concatenate([run(processor, frame[None]) for frame in frames]), atol=1e-5):
                raise ValueError(f"{kind} makes pictures that depend on other frames")
        if len(set(sizes)) > 1:
            raise ValueError(f"{kind} makes pictures of several sizes: {', '.join(map(str, sizes))}")
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise UsageError(f"backbone {name}: its frames cannot be prepared ({error}): choose another model") from error
    getLogger(__name__).warning(
        "backbone %s: the library's own %s prepares its frames, which is slower: each decode worker loads torch",
        name, kind,
    )  # fmt: skip
    height, width, _ = pack(made[0]).shape
    return LibraryFrames(kind, processor.to_json_string(), transformers.__version__, height, width)
