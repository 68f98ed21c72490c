"""What each recurrent layer of a model was given, while the model ran once as it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from statemix.nn import RecurrentLayer
from statemix.nn.plain import is_plain


def record_inputs(
    model: nn.Module, *arguments: Any, **options: Any
) -> dict[str, tuple[RecurrentLayer, Tensor]]:
    """Run ``model(*arguments, **options)`` without gradients; the recurrent layers in it, and their inputs.

    Keys are the dotted names of the layers (``""`` for the model itself), in the order in which the
    layers ran; a layer that ran several times keeps its last input. Inputs are copies in the dtype of the
    layer, which autocast inside the model may have changed: ``layer(x)`` runs by itself.

    Raises:
        ValueError: the model holds no recurrent layer of statemix, or none of them ran.
        TypeError: the model is no module.

    Examples:
        >>> from statemix.nn import BDLRU
        >>> stack = nn.Sequential(BDLRU(8, num_blocks=4, block_size=2), nn.GELU())
        >>> [(name, x.shape) for name, (_, x) in record_inputs(stack, torch.zeros(2, 5, 8)).items()]
        [('0', torch.Size([2, 5, 8]))]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"record_inputs: model must be a torch.nn.Module, to look into; got {type(model).__name__}: give "
            f"the module itself, and what it is called with behind it"
        )
    recorded: dict[str, tuple[RecurrentLayer, Tensor]] = {}
    layers = {name: m for name, m in model.named_modules() if isinstance(m, RecurrentLayer)}
    names = {layer: name for name, layer in layers.items()}

    def record(layer: RecurrentLayer, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = inputs[0] if inputs else named.get("x")
        if isinstance(x, Tensor):  # else the layer itself says what is wrong
            # A copy: a model may add to its input in place.
            recorded[names[layer]] = (layer, x.detach().to(_own_dtype(layer, x), copy=True))

    hooks = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers.values()]
    try:
        with torch.no_grad():
            model(*arguments, **options)
    finally:
        for hook in hooks:
            hook.remove()
    if not recorded:
        raise ValueError(
            f"record_inputs: {type(model).__name__} holds {len(layers)} recurrent layers of statemix and "
            f"none of them ran; it must call a BDLRU or an HLRU on sequences, and not its step"
        )
    return recorded


def _own_dtype(layer: RecurrentLayer, x: Tensor) -> torch.dtype:
    """The dtype that a layer takes outside of autocast; a wrapped projection takes what it is given."""
    return layer.value.weight.dtype if is_plain(layer.value) else x.dtype
