"""Visual towers of open_clip models.

An architecture and the weights loaded into it can disagree about the activation (QuickGELU or GELU) and about how
images are prepared. open_clip does not notice, and every embedding is wrong. Here the pretrained tag decides both, a
local file is inspected, and a contradiction is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import open_clip
from open_clip.factory import load_checkpoint
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from supportset.extract.backbones.base import Backbone
from supportset.extract.backbones.tokens import TokenGrid, suffix
from supportset.extract.backbones.torchscript import is_torchscript
from supportset.extract.backbones.transforms import (
    CenterCrop,
    FrameTransform,
    Resize,
    ResizeKeepRatio,
    ResizeShortest,
    Step,
)
from supportset.extract.backbones.weights import fill, from_file, from_hub, only_file, read_state, split_folder
from supportset.store.errors import UsageError
from supportset.store.plugins import nearest

ABOUT = {
    "pattern": "open_clip:ARCH/WEIGHTS",
    "what": "visual tower of any open_clip model: image embeddings as encode_image gives them, not normalised",
    "needs": "a pretrained tag (hub), a checkpoint (ARCH/TAG@FILE, ARCH@FILE), or a folder with open_clip_config.json",
    "presets": {
        "clip-vit-b-32": "ViT-B-32/openai",
        "clip-vit-l-14": "ViT-L-14/openai",
        "pe-core-b-16": "PE-Core-B-16/meta",
        "pe-core-l-14": "PE-Core-L-14-336/meta",
        "siglip2-b-16": "ViT-B-16-SigLIP2/webli",
    },
}
_HUB = "hf-hub:"
_CONFIG = "open_clip_config.json"
_PREPARED = ("mean", "std", "interpolation", "resize_mode")
_OPENAI_ONLY = ("input_resolution", "context_length", "vocab_size")  # entries that only OpenAI's own files have


class OpenClipBackbone(Backbone):
    """The image embedding as ``encode_image`` gives it, before normalisation, or the patch tokens of a ViT."""

    def __init__(self, model: nn.Module, *, grid: TokenGrid | None, **options: Any) -> None:
        super().__init__(model, vectors=1 if grid is None else grid.vectors, **options)
        self._grid = grid

    def encode(self, pixels: Tensor) -> Tensor:
        """Map (N, 3, h, w) to (N, dim) or (N, vectors, dim)."""
        if self._grid is not None:
            return self._grid.pool(_tokens(self.model, pixels))
        output = self.model(pixels)
        return output[0] if isinstance(output, tuple) else output  # CoCa also returns its tokens


@dataclass(frozen=True)
class _Source:
    """The parts of a name: an architecture, perhaps a pretrained tag, perhaps a path; or a hub model."""

    arch: str = ""
    tag: str = ""
    path: Path | None = None
    hub: str = ""

    @property
    def name(self) -> str:
        model = self.hub or self.arch or (self.path.name if self.path else "")
        return f"open_clip:{model}/{self.tag}" if self.tag else f"open_clip:{model}"

    @property
    def place(self) -> str:
        """Where the weights are published."""
        config = get_pretrained_cfg(self.arch, self.tag) if self.tag else {}
        hub = self.hub.removeprefix(_HUB) or str(config.get("hf_hub") or "").strip("/")
        return f"the hub's {hub}" if hub else str(config.get("url") or "")


def load(model: str, path: Path | None = None, tokens: int | None = None) -> Backbone:
    """Load ``ARCH/TAG`` or ``hf-hub:ORG/NAME`` (hub), ``ARCH/FILE``, ``ARCH@FILE``, ``ARCH/TAG@FILE``, or a folder.

    ``tokens`` is the N of ``#tokens=N``, 0 for all.
    """
    loaded = load_model(model, path)
    visual = loaded.network.visual
    config = PreprocessCfg(**visual.preprocess_cfg)
    name, dim, grid = loaded.name, loaded.dim, None
    if tokens is not None:
        name += suffix(tokens)
        rows, columns, dim = _token_grid(name, visual)
        grid = TokenGrid.make(name, tokens, 1, rows, columns)
    return OpenClipBackbone(
        visual,
        grid=grid,
        name=name,
        weights=loaded.weights,
        dim=dim,
        transform=frame_transform(config),
        mean=config.mean,
        std=config.std,
        layer="image embedding" if grid is None else "last hidden state, normalised",
        pooling="the model's own, not normalised" if grid is None else grid.words,
    )


def _token_grid(name: str, visual: Any) -> tuple[int, int, int]:
    """Rows and columns of a tower's patch tokens, and the length of one."""
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None and not visual.final_ln_after_pool:
        visual.output_tokens = True
        rows, columns = visual.grid_size
        return rows, columns, visual.ln_post.normalized_shape[0]
    trunk = getattr(visual, "trunk", None)  # of timm
    if trunk is not None and hasattr(trunk, "num_prefix_tokens"):
        rows, columns = trunk.patch_embed.grid_size
        return rows, columns, trunk.num_features
    raise UsageError(f"backbone {name}: its visual tower is no plain ViT, so it has no patch tokens: leave out #tokens")


def _tokens(visual: Any, pixels: Tensor) -> Tensor:
    tokens: Tensor
    if isinstance(visual, VisionTransformer):
        _, tokens = visual(pixels)
    else:
        tokens = visual.trunk.forward_features(pixels)[:, visual.trunk.num_prefix_tokens :]
    return tokens


@dataclass(frozen=True)
class Loaded:
    """A model with both towers.

    Attributes
    ----------
    name : str
        Full name for the card, without folders.
    weights : str
        A tag, a hub name or the name of a file.
    network : Any
        open_clip's model.
    dim : int
        Length of an embedding.
    tokenizer : str
        The name for ``open_clip.get_tokenizer``.
    """

    name: str
    weights: str
    network: Any
    dim: int
    tokenizer: str


def load_model(model: str, path: Path | None = None, kind: str = "backbone") -> Loaded:
    """Load both towers by the names that :func:`load` takes; ``kind`` is what messages call them."""
    source = _source(model, path)
    if source.path is None:
        with from_hub(source.name, f"{source.name}@PATH", kind, source.place):
            network, dim = _from_hub(source)
        return Loaded(source.name, source.tag or source.hub, network, dim, source.hub or source.arch)
    with from_file(source.name, source.path, kind):
        network, dim = _from_path(source, source.path)
    published = source.path.is_dir() and (source.path / _CONFIG).exists()
    tokenizer = f"local-dir:{source.path}" if published else source.hub or source.arch
    return Loaded(source.name, source.path.name, network, dim, tokenizer)


def _source(model: str, path: Path | None) -> _Source:
    if model.startswith(_HUB):
        return _Source(hub=model, path=path)
    model, path = split_folder(model, path)
    if not model and path is not None and path.is_dir():
        return _Source(path=path)
    arch, _, weights = model.partition("/")
    if model.startswith(("/", "~", "./", "../")):
        raise UsageError(f"backbone open_clip:{model}: no such folder on this machine; weights in a file are ARCH@FILE")
    if arch not in open_clip.list_models():
        raise UsageError(
            f"backbone open_clip:{model}: open_clip has no architecture {arch!r}"
            f"{nearest(arch, open_clip.list_models())}: name it as ARCH/WEIGHTS, or give a folder"
        )
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if weights in tags:
        return _Source(arch, weights, path)
    if path is None and weights and Path(weights).expanduser().exists():
        return _Source(arch, "", Path(weights).expanduser())
    if weights or path is None:
        problem = f"{weights!r} is neither a pretrained tag of {arch} nor a path" if weights else "no weights are named"
        choice = f"choose one of {', '.join(tags)}" if tags else "no tag is published"
        raise UsageError(
            f"backbone open_clip:{model}: {problem}{nearest(weights, tags)}: {choice}, or name a file, {arch}@PATH"
        )
    return _Source(arch, "", path)


def _from_hub(source: _Source) -> tuple[Any, int]:
    if source.hub:
        network = open_clip.create_model(source.hub, require_pretrained=True)
        return network, open_clip.get_model_config(source.hub)["embed_dim"]
    quick = _needs_quick_gelu(source)
    network = open_clip.create_model(source.arch, source.tag, force_quick_gelu=quick, require_pretrained=True)
    return network, open_clip.get_model_config(source.arch)["embed_dim"]


def _needs_quick_gelu(source: _Source) -> bool:
    """Whether the activation must be switched; refuse a QuickGELU architecture for weights trained with GELU."""
    of_arch = bool(open_clip.get_model_config(source.arch).get("quick_gelu", False))
    of_tag = bool(get_pretrained_cfg(source.arch, source.tag).get("quick_gelu", False))
    if of_arch and not of_tag:
        raise UsageError(
            f"backbone {source.name}: these weights were trained with GELU, {source.arch} computes QuickGELU: "
            f"name the architecture without -quickgelu"
        )
    return of_tag and not of_arch


def _from_path(source: _Source, path: Path) -> tuple[Any, int]:
    if path.is_dir():
        if (path / _CONFIG).exists():
            return _from_folder(source, path)
        path = only_file(path)
    if not source.arch:
        raise ValueError(f"it holds no {_CONFIG}, so the architecture is unknown: name it, open_clip:ARCH@PATH")
    original = _openai_state(path)
    tag = source.tag or ("openai" if original is not None else _published_as(source.arch, path))
    quick = _needs_quick_gelu(_Source(source.arch, tag)) if tag else False
    if original is not None and not (quick or open_clip.get_model_config(source.arch).get("quick_gelu", False)):
        raise ValueError(f"it is OpenAI's own, trained with QuickGELU, which {source.arch}/{tag} is not")
    prepared = {key: value for key, value in _preparation(source.arch, tag, path).items() if key in _PREPARED}
    network: Any = open_clip.create_model(
        source.arch, None, force_quick_gelu=quick, force_preprocess_cfg=prepared, pretrained_text=False
    )
    if original is not None:
        fill(network, {key: value.float() for key, value in original.items()}, ignore=_OPENAI_ONLY)
    else:
        load_checkpoint(network, str(path), strict=True, weights_only=True)
    return network, open_clip.get_model_config(source.arch)["embed_dim"]


def _from_folder(source: _Source, folder: Path) -> tuple[Any, int]:
    """A folder as published on a hub: its configuration decides, and a name that contradicts it is refused."""
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))["model_cfg"]
    only_file(folder)
    if source.arch:
        named = open_clip.get_model_config(source.arch)
        tagged = get_pretrained_cfg(source.arch, source.tag) if source.tag else named
        quick = bool(named.get("quick_gelu", False) or tagged.get("quick_gelu", False))
        if named["vision_cfg"] != config["vision_cfg"] or named["embed_dim"] != config["embed_dim"]:
            raise ValueError(f"its {_CONFIG} describes another architecture")
        if quick != bool(config.get("quick_gelu", False)):
            raise ValueError(f"its {_CONFIG} says quick_gelu={not quick}, the name {source.name} the contrary")
    network = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True, weights_only=True)
    return network, config["embed_dim"]


def _published_as(arch: str, path: Path) -> str:
    """The tag under which a file of this name was published, if any. OpenAI's files have the model's name."""
    for tag in open_clip.list_pretrained_tags_by_model(arch):
        if tag != "openai" and path.name == str(get_pretrained_cfg(arch, tag).get("url", "")).rpartition("/")[2]:
            return tag
    return ""


def _preparation(arch: str, tag: str, path: Path) -> dict[str, Any]:
    """How the images of these weights are prepared: as their tag says, or as all tags of the architecture agree."""
    if tag:
        return get_pretrained_cfg(arch, tag)
    published = [get_pretrained_cfg(arch, other) for other in open_clip.list_pretrained_tags_by_model(arch)]
    ways = {str([config.get(key) for key in _PREPARED]) for config in published}
    activations = {bool(config.get("quick_gelu", False)) for config in published}
    if len(ways) > 1 or len(activations) > 1:
        getLogger(__name__).warning(
            "%s: published weights of %s differ in activation or preparation, and it is not known which these are; "
            "the architecture's own are used: name other weights, as open_clip:%s/TAG@PATH",
            path, arch, arch,
        )  # fmt: skip
    return published[0] if len(ways) == 1 else {}


def _openai_state(path: Path) -> dict[str, Tensor] | None:
    """The parameters of a file as OpenAI published it (TorchScript, half precision, QuickGELU); None for any other."""
    if not is_torchscript(path):
        return None
    return {name: value for name, value in read_state(path).items() if not name.endswith("attn_mask")}  # a constant


def frame_transform(config: PreprocessCfg) -> FrameTransform:
    """Repeat open_clip's evaluation transform (``image_transform_v2``) for one frame."""
    size = config.size
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    resize: Step
    if config.resize_mode == "squash":
        return FrameTransform((Resize(height, width, config.interpolation),), height, width)
    if config.resize_mode == "longest":
        resize = ResizeKeepRatio(height, width, True, config.interpolation)
    elif height == width:
        resize = ResizeShortest(height, config.interpolation)
    else:
        resize = ResizeKeepRatio(height, width, False)  # open_clip always resizes these with bicubic interpolation
    fill_colour = (int(config.fill_color),) if config.resize_mode == "longest" else (0,)
    return FrameTransform((resize, CenterCrop(height, width, fill=fill_colour)), height, width)
