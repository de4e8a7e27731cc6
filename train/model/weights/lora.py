"""Low-rank adapters (LoRA, Hu et al., ICLR 2022) in a pretrained network, by `peft`; saved models hold them merged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supportset.store.errors import UsageError

_ADAPTER = "default"


def add_lora(network: nn.Module, rank: int) -> None:
    """Freeze a network and put adapters of a rank beside its linear layers, in place; at first they add nothing.

    PyTorch's fused attention (open_clip's towers have it) keeps its projections as they are: `peft` would have to
    write over its weights in every forward. There the feed-forward layers are adapted.

    Raises
    ------
    UsageError
        `peft` is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UsageError(
            f"text.lora = {rank} needs peft: pip install 'supportset[lora]', or set text.lora = 0"
        ) from None
    layers = [name for name, module in network.named_modules() if type(module) is nn.Linear]
    network.requires_grad_(False)
    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=rank, target_modules=layers, lora_dropout=0.0), network, adapter_name=_ADAPTER
    )


def is_adapter(name: str) -> bool:
    """Whether a parameter of that name is an adapter's."""
    return ".lora_" in name


@torch.no_grad()
def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """State of a model with its adapters added to the layers that they adapt, by the names of a model without any."""
    state: dict[str, Tensor] = model.state_dict()
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            state[f"{name}.base_layer.weight"] = module.get_base_layer().weight + module.get_delta_weight(_ADAPTER)
    return {name.replace(".base_layer.", "."): value for name, value in state.items() if not is_adapter(name)}
