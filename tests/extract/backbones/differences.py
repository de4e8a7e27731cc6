"""The table of ``docs/backbones.md``: our features of a film beside those of the libraries.

``python -m tests.extract.backbones.differences FILM`` prints it. Frames are decoded once for both sides. Models are
small and random, saved and loaded as a user would.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
import transformers as tf
from PIL import Image
from timm.data import create_transform, resolve_data_config

from supportset.extract.backbones import load_backbone
from supportset.extract.backbones.base import Backbone
from supportset.extract.decode.clips import decode_clip
from supportset.extract.decode.sampling import Sampling
from tests.extract.backbones.hf_models import MODELS, expected, pil, saved

STEPS = 8


def decoded(film: Path, backbone: Backbone, transform: Any) -> list[np.ndarray]:
    """The frames of some steps: (H, W, 3) each, or (window, H, W, 3)."""
    sampling = Sampling(frames=STEPS, window=backbone.window)
    steps = [step.frames for step in decode_clip(film, sampling=sampling, transform=transform)]
    return steps if backbone.window > 1 else [step.reshape(step.shape[-3:]) for step in steps]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest relative difference of a vector."""
    return float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max())


def given(film: Path, backbone: Backbone) -> torch.Tensor:
    return backbone.forward(torch.from_numpy(np.stack(decoded(film, backbone, backbone.frame_transform()))))


def of_transformers(film: Path, folder: Path) -> Iterator[tuple[str, str, float | None, float | None]]:
    """Type, processor, difference with its PIL form, difference with its torchvision form."""
    for name, case in MODELS.items():
        model, _ = saved(name, folder / name)
        backbone = load_backbone(f"hf:{folder / name}")
        ours, raw = given(film, backbone), decoded(film, backbone, None)
        plain = getattr(tf, case.processor)(**case.options)
        has_pil = type(pil(case.processor, **case.options)) is not type(plain)
        with_pil = expected(name, model, pil(case.processor, **case.options), raw) if has_pil else None
        yield (
            f"`hf` `{name}`",
            f"`{case.processor}`",
            None if with_pil is None else relative(ours, with_pil),
            relative(ours, expected(name, model, plain, raw)),
        )


def of_others(film: Path, folder: Path) -> Iterator[tuple[str, str, float | None, float | None]]:
    """The same of open_clip and timm, whose transforms compute with PIL."""
    torch.manual_seed(0)
    for arch, tag in (("ViT-B-32", "laion2b_s34b_b79k"), ("PE-Core-T-16-384", "meta")):
        whole = open_clip.create_model(arch).eval()
        torch.save(whole.state_dict(), folder / "weights.pt")
        backbone = load_backbone(f"open_clip:{arch}/{tag}@{folder / 'weights.pt'}")
        settings = open_clip.pretrained.get_pretrained_cfg(arch, tag)
        kept = {key: settings[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in settings}
        size = whole.visual.preprocess_cfg["size"]
        prepare = open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(size=size, **kept), is_train=False
        )
        pixels = torch.stack([prepare(Image.fromarray(each)) for each in decoded(film, backbone, None)])
        with torch.inference_mode():
            yield (
                f"`open_clip` `{arch}`",
                "its evaluation transform",
                relative(given(film, backbone), whole.encode_image(pixels)),
                None,
            )
    for name in ("resnet18", "vit_tiny_patch16_224"):
        network = timm.create_model(name, pretrained=False, num_classes=0).eval()
        torch.save(network.state_dict(), folder / "weights.pth")
        backbone = load_backbone(f"timm:{name}@{folder / 'weights.pth'}")
        prepare = create_transform(**resolve_data_config(model=network))
        pixels = torch.stack([prepare(Image.fromarray(each)) for each in decoded(film, backbone, None)])
        with torch.inference_mode():
            yield f"`timm` `{name}`", "its evaluation transform", relative(given(film, backbone), network(pixels)), None


def main(film: Path) -> None:
    """Print the table."""
    print("| type | processor | with PIL | with torchvision |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for find in (of_transformers, of_others):
            for name, processor, *differences in find(film, Path(folder)):
                cells = ("none" if each is None else f"{each:.0e}" for each in differences)
                print("|", name, "|", processor, "|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
