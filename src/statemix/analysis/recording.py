"""What each recurrent layer of a model was given, while the model ran once as it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from statemix.nn import RecurrentLayer


def record_inputs(model: nn.Module, *arguments: Any) -> dict[str, tuple[RecurrentLayer, Tensor]]:
    """Run ``model(*arguments)`` without gradients; the recurrent layers in it, and their inputs.

    Keys are the dotted names of the layers (``""`` for the model itself), in the order in which the
    layers ran; a layer that ran several times keeps its last input.

    Raises:
        ValueError: the model holds no recurrent layer of statemix, or none of them ran.

    Examples:
        >>> from statemix.nn import BDLRU
        >>> stack = nn.Sequential(BDLRU(8, num_blocks=4, block_size=2), nn.GELU())
        >>> [(name, x.shape) for name, (_, x) in record_inputs(stack, torch.zeros(2, 5, 8)).items()]
        [('0', torch.Size([2, 5, 8]))]
    """
    recorded: dict[str, tuple[RecurrentLayer, Tensor]] = {}
    layers = {name: m for name, m in model.named_modules() if isinstance(m, RecurrentLayer)}
    names = {layer: name for name, layer in layers.items()}

    def record(layer: RecurrentLayer, inputs: tuple[Tensor, ...]) -> None:
        recorded[names[layer]] = (layer, inputs[0].detach())

    hooks = [layer.register_forward_pre_hook(record) for layer in layers.values()]
    try:
        with torch.no_grad():
            model(*arguments)
    finally:
        for hook in hooks:
            hook.remove()
    if not recorded:
        raise ValueError(
            f"record_inputs: {type(model).__name__} holds {len(layers)} recurrent layers of statemix and "
            f"none of them ran; it must call a BDLRU or an HLRU"
        )
    return recorded
