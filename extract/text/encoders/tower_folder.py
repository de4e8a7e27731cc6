"""A text tower in a folder without its weights: whoever has these elsewhere builds it again, offline.

A trained run keeps its tower so: its weights lie with the run's others, in one file with one hash.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
from open_clip.model import QuickGELU
from transformers import AutoConfig, AutoModel

from supportset.extract.backbones.hf_types import strip
from supportset.extract.backbones.weights import no_remote_code, quiet_libraries
from supportset.extract.text.encoders.base import TextTower
from supportset.extract.text.encoders.families.open_clip import OpenClipTextTower, read_tokenizer, strip_to_text
from supportset.extract.text.encoders.hf_tokenizer import load_tokenizer
from supportset.extract.text.encoders.hf_tower import PAIRS, HfTextTower
from supportset.store.errors import UsageError

_FILE = "tower.json"
_OPEN_CLIP = "open_clip_config.json"  # as open_clip's "local-dir:" reads it
_FACTS = ("name", "weights", "dim", "visual_hash", "logit_scale", "logit_bias")
# A model of open_clip cannot be built without a visual half: the smallest one, which is taken off again.
_NO_VISION = {"image_size": 16, "patch_size": 16, "layers": 1, "width": 16, "head_width": 16}


def save_tower(tower: TextTower, folder: Path) -> None:
    """Write a tower's configuration and tokenizer as its library does, and what else is known of it as JSON.

    Raises
    ------
    UsageError
        The tower is of a plugin, whose files are not known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(tower, OpenClipTextTower):
        family, network = "open_clip", tower.model
        quick = any(isinstance(module, QuickGELU) for module in network.modules())
        text = tower.config["text_cfg"]
        here = {key: "." for key in ("hf_model_name", "hf_tokenizer_name") if text.get(key)}  # files of this folder
        model = tower.config | {"vision_cfg": _NO_VISION, "text_cfg": text | here, "quick_gelu": quick}
        (folder / _OPEN_CLIP).write_text(json.dumps({"model_cfg": model}, indent=2) + "\n", encoding="utf-8")
        if "hf_model_name" in here:
            half: Any = network.text
            half.config.save_pretrained(folder)
        tower.save_tokenizer(folder)
    elif isinstance(tower, HfTextTower):
        family, settings = "hf", tower.model.config
        settings.save_pretrained(folder)  # type: ignore[operator, union-attr]
        tower.save_tokenizer(folder)
    else:
        raise UsageError(
            f"text encoder {tower.name}: a {type(tower).__name__} cannot be kept in a run: train on its text features "
            "(extract-text, text.features)"
        )
    facts = {key: getattr(tower, key) for key in _FACTS}
    facts |= {"family": family, "max_tokens": tower.max_tokens, "tokenizer": tower.tokenizer_json}
    (folder / _FILE).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_tower_folder(folder: Path) -> TextTower:
    """Build the tower that `save_tower` wrote, with random weights.

    Raises
    ------
    OSError, ValueError, KeyError
        Files are absent or damaged.
    """
    facts = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    family, max_tokens = facts.pop("family"), facts.pop("max_tokens")
    with quiet_libraries(), no_remote_code():
        if family == "open_clip":
            return _open_clip(folder, facts)
        settings = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        network, pair = AutoModel.from_config(settings, trust_remote_code=False), PAIRS[settings.model_type]
        strip(network, pair.keep)
        return HfTextTower(network, pair=pair, reader=load_tokenizer(str(folder)), max_tokens=max_tokens, **facts)


def _open_clip(folder: Path, facts: dict[str, Any]) -> TextTower:
    config = json.loads((folder / _OPEN_CLIP).read_text(encoding="utf-8"))["model_cfg"]
    text = dict(config["text_cfg"])
    if text.get("hf_model_name"):
        text |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    place = f"local-dir:{folder}"
    network = open_clip.create_model(place, load_weights=False, pretrained_text=False, text_cfg=text)
    strip_to_text(network)
    return OpenClipTextTower(network, reader=read_tokenizer(place), config=config, **facts)
