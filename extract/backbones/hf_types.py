"""Which models of transformers are known, and what each type gives: one entry a type.

The visual backbones and the text towers read the same entries, so that both agree on which parameters are the visual
part: a feature card's ``weights_hash`` covers :func:`visual_state`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

_UNUSED = "pooler"  # a part that ViT creates, filled or not: the class token is taken before it


@dataclass(frozen=True)
class HfType:
    """How one ``model_type`` of transformers is loaded and read.

    Attributes
    ----------
    encode : callable
        (model, pixels) -> (N, dim): the library's own image or video embedding. Pixels are (N, 3, h, w), or
        (N, window, 3, h, w) for a clip model; of a model with ``patches`` they are the processor's three tensors.
    layer, pooling : str
        Which output that is, for the card.
    dim : callable
        config -> length of the embedding.
    keep : tuple of str
        The model's parts that the embedding depends on. Empty: all.
    window : callable
        (config, processor) -> frames of one step.
    model : str
        The class of transformers that loads it.
    config : callable
        The part of the configuration that this class takes.
    patches : bool
        Whether the model takes patches of frames of any shape with a mask (NaFlex).
    tokens : callable, optional
        (model, pixels) -> (N, V, width): the patch tokens of the last hidden state, by time, row and column.
    """

    encode: Callable[[Any, Any], Tensor]
    layer: str
    pooling: str
    dim: Callable[[Any], int]
    keep: tuple[str, ...] = ()
    window: Callable[[Any, Any], int] = lambda config, processor: 1
    model: str = "AutoModel"
    config: Callable[[Any], Any] = lambda config: config
    patches: bool = False
    tokens: Callable[[Any, Tensor], Tensor] | None = None


def token_grid(config: Any, window: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Return time slices, rows and columns of the patch tokens of a step, and the length of one.

    Parameters
    ----------
    config : Any
        Of the model.
    window, height, width : int
        Size of its input.
    """
    vision = _vision(config)
    tubelet = getattr(vision, "tubelet_size", 1)
    patch = tubelet[1:] if isinstance(tubelet, list | tuple) else getattr(vision, "patch_size", None)
    down, across = patch if isinstance(patch, list | tuple) else (patch, patch)
    along = tubelet[0] if isinstance(tubelet, list | tuple) else tubelet
    return window // along, height // down, width // across, vision.hidden_size


def load_network(source: str, config: Any) -> tuple[Any, set[str]]:
    """Load a model of a known type with all its parts, in float32, from a hub name or a folder.

    Returns
    -------
    network : Any
    missing : set of str
        Parameters that the files lack: they are random.
    """
    kind = TYPES[config.model_type]
    network, info = getattr(transformers, kind.model).from_pretrained(
        source,
        config=kind.config(config),
        dtype=torch.float32,  # transformers 5 would take the type of the file
        trust_remote_code=False,
        output_loading_info=True,
    )
    return network, set(info["missing_keys"])


def visual_state(network: nn.Module, model_type: str) -> dict[str, Tensor]:
    """Return the entries of a model's state that its visual features depend on.

    Their ``hash_state`` is the ``weights_hash`` of features that the model makes, whether its text tower is loaded or
    not.
    """
    keep = TYPES[model_type].keep
    return {name: value for name, value in network.state_dict().items() if _kept(name.partition(".")[0], keep)}


def strip(network: nn.Module, keep: tuple[str, ...]) -> None:
    """Remove what no feature depends on (the other tower, temperature, pooler): it is neither kept nor hashed."""
    for name, _ in list(network.named_children()) + list(network.named_parameters(recurse=False)):
        if not _kept(name, keep):
            setattr(network, name, None)


def _kept(part: str, keep: tuple[str, ...]) -> bool:
    return part in keep if keep else part != _UNUSED


def _pooled(output: Any) -> Tensor:
    """The embedding in what ``get_*_features`` returns: a tensor before transformers 5, an output object since."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _vision(config: Any) -> Any:
    return getattr(config, "vision_config", config)


def _after(prefix: Callable[[Any], int], part: str = "") -> Callable[[Any, Tensor], Tensor]:
    """The last hidden state of a model, or of a part of it, behind the tokens that are no patches."""

    def tokens(model: Any, pixels: Tensor) -> Tensor:
        network = getattr(model, part) if part and hasattr(model, part) else model
        state: Tensor = network(pixel_values=pixels).last_hidden_state[:, prefix(network.config) :]
        return state

    return tokens


def _one(config: Any) -> int:
    return 1


def _with_registers(config: Any) -> int:
    return 1 + int(config.num_register_tokens)


_TOKENS_OF_CLIP = _after(_one, "vision_model")
_TOKENS_OF_SIGLIP = _after(lambda config: 0, "vision_model")


def _of_video_encoder(model: Any, pixels: Tensor) -> Tensor:
    """PE-video's ``video_embeds``; its class has no function for them alone."""
    embedding: Tensor = model.video_head(model.video_encoder(pixel_values_videos=pixels).pooler_output)
    return embedding


_FRAMES_OF_PE = 16  # of the published models of fixed length; the others take any number


def _class_token(**options: Any) -> HfType:
    return HfType(
        lambda model, pixels: model(pixel_values=pixels).last_hidden_state[:, 0],
        "last hidden state", "class token", lambda config: config.hidden_size, **options,
    )  # fmt: skip


def _tower_of_clip(model: str) -> HfType:
    return HfType(
        lambda model, pixels: model(pixel_values=pixels).image_embeds,
        "image embedding", "class token, projected, not normalised", lambda config: config.projection_dim, model=model,
        tokens=_TOKENS_OF_CLIP,
    )  # fmt: skip


def _pe_video(config: Callable[[Any], Any] = lambda config: config) -> HfType:
    return HfType(
        _of_video_encoder,
        "video embedding", "class token, projected, not normalised", lambda config: config.text_config.hidden_size,
        ("video_encoder", "video_head"), lambda config, processor: processor.num_frames or _FRAMES_OF_PE,
        "PeVideoModel", config,
    )  # fmt: skip


_CLIP = HfType(
    lambda model, pixels: _pooled(model.get_image_features(pixel_values=pixels)),
    "image embedding", "class token, projected, not normalised", lambda config: config.projection_dim,
    ("vision_model", "visual_projection"), tokens=_TOKENS_OF_CLIP,
)  # fmt: skip

TYPES = {
    "clip": _CLIP,
    "clip_vision_model": _tower_of_clip("CLIPVisionModelWithProjection"),
    "metaclip_2": _CLIP,
    "metaclip_2_vision_model": _tower_of_clip("MetaClip2VisionModelWithProjection"),
    "siglip": HfType(
        lambda model, pixels: _pooled(model.get_image_features(pixel_values=pixels)),
        "image embedding", "attention pooling, not normalised", lambda config: _vision(config).hidden_size,
        ("vision_model",), tokens=_TOKENS_OF_SIGLIP,
    ),
    "siglip_vision_model": HfType(
        lambda model, pixels: model(pixel_values=pixels).pooler_output,
        "image embedding", "attention pooling, not normalised", lambda config: config.hidden_size,
        tokens=_TOKENS_OF_SIGLIP,
    ),
    "siglip2": HfType(
        lambda model, inputs: _pooled(model.get_image_features(**inputs)),
        "image embedding", "attention pooling, not normalised", lambda config: _vision(config).hidden_size,
        ("vision_model",), patches=True,
    ),
    "siglip2_vision_model": HfType(
        lambda model, inputs: model(**inputs).pooler_output,
        "image embedding", "attention pooling, not normalised", lambda config: config.hidden_size, patches=True,
    ),
    "dinov2": _class_token(tokens=_after(_one)),
    "dinov2_with_registers": _class_token(tokens=_after(_with_registers)),
    "dinov3_vit": HfType(
        lambda model, pixels: model(pixel_values=pixels).pooler_output,
        "pooled output", "class token", lambda config: config.hidden_size, tokens=_after(_with_registers),
    ),
    "vit": _class_token(tokens=_after(_one)),
    "videomae": HfType(
        lambda model, pixels: model(pixel_values=pixels).last_hidden_state.mean(1),
        "last hidden state", "mean of the patch tokens", lambda config: config.hidden_size,
        window=lambda config, processor: config.num_frames, tokens=_after(lambda config: 0),
    ),
    "timesformer": _class_token(window=lambda config, processor: config.num_frames),
    "vjepa2": HfType(
        lambda model, pixels: model.get_vision_features(pixels).mean(1),
        "last hidden state of the encoder", "mean of the patch tokens", lambda config: config.hidden_size,
        ("encoder",), lambda config, processor: config.frames_per_clip,
        tokens=lambda model, pixels: model.get_vision_features(pixels),
    ),
    "xclip": HfType(
        lambda model, pixels: _pooled(model.get_video_features(pixel_values=pixels)),
        "video embedding", "multi-frame integration, not normalised", lambda config: config.projection_dim,
        ("vision_model", "visual_projection", "mit"), lambda config, processor: _vision(config).num_frames,
    ),
    "videoprism": HfType(
        lambda model, pixels: _pooled(model.get_video_features(pixel_values_videos=pixels)).flatten(1),  # (N, 1, dim)
        "video embedding", "attention pooling, as the model gives it", lambda config: _vision(config).hidden_size,
        ("video_model",), lambda config, processor: _vision(config).num_frames,
        tokens=lambda model, pixels: model.get_video_features(pixel_values_videos=pixels).last_hidden_state,
    ),
    "videoprism_vision_model": HfType(
        lambda model, pixels: model(pixel_values_videos=pixels).last_hidden_state.mean(1),
        "last hidden state", "mean of the patch tokens", lambda config: config.hidden_size,
        window=lambda config, processor: config.num_frames,
        tokens=lambda model, pixels: model(pixel_values_videos=pixels).last_hidden_state,
    ),
    "pe_video": _pe_video(),
    "pe_audio_video": _pe_video(config=lambda config: config.video_config),  # as published: with an audio tower
}  # fmt: skip
