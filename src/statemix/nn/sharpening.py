"""Sharper gates for a trained model: what nearly selects one source selects it when logits are larger."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from statemix.ops.checks import check_number

from .layer import RecurrentLayer
from .plain import is_plain

SHARPENED = ("softmax", "sigmoid", "tanh")
"""Normalizations that larger logits make sharper: the others only see how logits compare, or nothing else."""


def sharpen_gates(model: nn.Module, factor: float) -> int:
    """Multiply the gate logits of every BD-LRU and H-LRU in ``model`` by ``factor``, in the weights.

    A gate that selects one of its sources in training leaks a little to the others, as much as the trained
    length forgives; the margin between its logits times 1.5 or 2 makes that leak vanish, and what is tracked
    holds far longer. Where a model mixes on purpose a factor hurts: compare on validation data.

    Args:
        model: a layer, or a model of any kind that holds some. Its weights change in place.
        factor: above 0; 1 changes nothing.

    Returns:
        How many layers there were.

    Raises:
        ValueError: no such layer in the model, a factor that is no positive number, or gates that a factor
            does not make sharper (relu, linear, none).
        TypeError: gates that are more than their parameters (an adapter, a parametrization, pruning): merge
            that first.

    Examples:
        >>> from statemix.nn import BDLRU
        >>> layer = BDLRU(8, num_blocks=4, block_size=2)
        >>> before = layer.gate.weight.clone()
        >>> sharpen_gates(layer, 2.0), bool((layer.gate.weight == 2 * before).all())
        (1, True)
    """
    check_number("sharpen_gates", "factor", factor, "a number above 0", lambda by: 0 < by < math.inf)
    parameters = gate_parameters(model)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.mul_(factor)
    return sum(isinstance(module, RecurrentLayer) for module in model.modules())


def can_be_sharpened(model: nn.Module) -> bool:
    """Whether :func:`sharpen_gates` would make gates of ``model`` sharper."""
    try:
        return bool(gate_parameters(model))
    except (ValueError, TypeError):
        return False


def gate_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters, each once by its first name, that gate logits grow with in proportion.

    Raises:
        ValueError, TypeError: as in :func:`sharpen_gates`.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    layers = {name: m for name, m in model.named_modules() if isinstance(m, RecurrentLayer)}
    if not layers:
        raise ValueError(
            f"sharpen_gates: {type(model).__name__} must hold a BD-LRU or an H-LRU layer; got none"
        )
    for name, layer in layers.items():
        if layer.normalization not in SHARPENED:
            raise ValueError(
                f"sharpen_gates: layer {name or type(layer).__name__} must normalize with one of "
                f"{SHARPENED}, which a factor makes sharper; got {layer.normalization!r}"
            )
        if layer.selective:
            what, wanted, gates = "gate projection", "plain linear layer", layer.gate
            plain = is_plain(gates)
        else:
            what, wanted, gates = "gate_logits", "parameter", layer.gate_logits
            plain = isinstance(gates, nn.Parameter)
        if not plain:
            raise TypeError(
                f"sharpen_gates: the {what} of layer {name or type(layer).__name__} must be a {wanted}; got "
                f"{type(gates).__name__}: merge what was added to it first"
            )
        owner, prefix = (layer.gate, f"{name}.gate") if layer.selective else (layer, name)
        names = ("weight", "bias") if layer.selective else ("gate_logits",)
        for part in names:
            parameter = getattr(owner, part)
            if id(parameter) not in seen:  # layers may share their gates
                seen.add(id(parameter))
                found[f"{prefix}.{part}".lstrip(".")] = parameter
    return found
