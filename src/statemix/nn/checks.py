"""What every layer asks of its input, before anything is computed from it."""

from __future__ import annotations

import torch
from torch import Tensor


def check_input(layer: str, x: Tensor, dims: int, shape: str, width: int, weight: Tensor | None) -> None:
    """Raise ValueError or TypeError unless x has this rank and width, and fits the weights of the layer."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{layer}: x must be a torch.Tensor; got {type(x).__name__}")
    if x.dim() != dims or x.shape[-1] != width:
        raise ValueError(f"{layer}: x must be {shape} with D = d_model = {width}; got {tuple(x.shape)}")
    if weight is None:
        return
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(
            f"{layer}: x must have the layer's dtype {weight.dtype}; got {x.dtype}: cast one of them, or "
            f"run under torch.autocast"
        )
    if x.device != weight.device:
        raise ValueError(
            f"{layer}: x must be on the layer's device {weight.device}; got {x.device}: move one with .to()"
        )
