"""Train a tiny CLIP on rendered pictures, and write it as open_clip writes a model: an encoder pair to try things on.

The pictures are single frames of a demo world of its own seed, so the model knows colours, shapes and places, and no
motion: what training on clips can add to it. Two small towers, some minutes on one core, no network. The whole way:

    python examples/tiny_clip.py tiny-clip
    python cli.py extract demo --data demo/world --backbone open_clip:tiny-clip --frames 8
    python cli.py eval --zero-shot demo/open_clip-tiny-clip
    python cli.py train configs/ablations/base/demo-tiny-clip.toml
    python cli.py eval runs/demo-tiny-clip

Or, in place of the last two, all ways to start, three seeds each, and a table:

    python cli.py ablate configs/ablations/start-demo.toml --out start-demo

What came of it: docs/results.md.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import click
import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss
from safetensors.torch import save_file

from supportset.extract.demo_world.backgrounds import draw_background
from supportset.extract.demo_world.drawing import draw_frame
from supportset.extract.demo_world.motions import Look, place
from supportset.extract.demo_world.render import FPS, SIDE
from supportset.extract.demo_world.scenes import PlannedClip, plan_world

MODEL: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 80, "patch_size": 16, "width": 128, "layers": 3, "head_width": 32},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 128, "layers": 2, "heads": 4},
}
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
BATCH = 128


def picture(clip: PlannedClip) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """One frame of a clip, at a random time, as (80, 80, 3) pixels."""
    rng = random.Random(clip.look_seed)
    look, background = Look.draw(rng), draw_background(clip.scene.background, SIDE, rng)
    frame = draw_frame(background, place(clip.scene, look, rng.randrange(clip.frames) / FPS, clip.frames / FPS))
    return np.asarray(frame.resize((80, 80), reducing_gap=2.0))


def write(model: torch.nn.Module, folder: Path) -> None:
    """Write the model as open_clip's ``local-dir:`` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    prepared = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {"model_cfg": MODEL, "preprocess_cfg": prepared}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@click.command(help=(__doc__ or "").splitlines()[0])
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--pictures", default=1000, show_default=True, type=click.IntRange(2))
@click.option("--steps", default=400, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=101, show_default=True, type=click.IntRange(0), help="Not 7: that is the demo's world.")
def main(folder: Path, pictures: int, steps: int, seed: int) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise click.UsageError(f"{folder} is not empty: name a new folder")
    clips = plan_world(seed, pictures, 0, 0)
    pixels = torch.from_numpy(np.stack([picture(clip) for clip in clips])).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    torch.manual_seed(seed)
    model: Any = open_clip.CLIP(**MODEL)
    tokenizer = open_clip.SimpleTokenizer(context_length=MODEL["text_cfg"]["context_length"])
    tokens = [tokenizer([caption.text for caption in clip.captions]) for clip in clips]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps, pct_start=0.1)
    contrast = ClipLoss()
    for step in range(1, steps + 1):
        rows = torch.randperm(len(clips))[:BATCH].tolist()
        texts = torch.stack([tokens[row][torch.randint(len(tokens[row]), ())] for row in rows])
        loss = contrast(*model((pixels[rows] / 255 - mean) / std, texts))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=np.log(100.0))
        if step % 50 == 0 or step == steps:
            click.echo(f"step {step} of {steps}: loss {loss.item():.3f}", err=True)
    write(model, folder)
    click.echo(f"{folder}: a CLIP of {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
