"""What layers ask of their input, of a mask and of their options, before anything is computed."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from statemix.ops.checks import check_number, check_rank

from .transforms import is_autocast

# Autocast leaves float64 and integers as they are.
_CAST = (torch.float32, torch.bfloat16, torch.float16)


def check_input(layer: str, x: Tensor, dims: int, shape: str, width: int, weight: Tensor | None) -> None:
    """Raise ValueError or TypeError unless x has this rank and width, and fits the weights of the layer."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{layer}: x must be a torch.Tensor; got {type(x).__name__}: make it one with torch.as_tensor"
        )
    if x.is_nested:
        raise TypeError(
            f"{layer}: x must be {shape}, one dense tensor; got a nested one: give x.values()[None] and "
            f"cu_seqlens=x.offsets().to(torch.int32), or pad it and give a mask"
        )
    if x.layout is not torch.strided:
        raise TypeError(f"{layer}: x must be a dense tensor; got {x.layout}: call .to_dense()")
    if x.dim() != dims or x.shape[-1] != width:
        wanted = f"{shape} with D = d_model = {width}"
        check_rank(layer, "x", x, dims, wanted)
        raise ValueError(
            f"{layer}: x must be {wanted}; got {tuple(x.shape)}: project it to that width, or make the layer "
            f"with d_model={x.shape[-1]}"
        )
    if weight is None:
        return
    if x.dtype != weight.dtype and not (x.dtype in _CAST and weight.dtype in _CAST and is_autocast(x.device)):
        raise TypeError(
            f"{layer}: x must have the layer's dtype {weight.dtype}; got {x.dtype}: cast one of them"
            + (", or run under torch.autocast" if x.dtype in _CAST and weight.dtype in _CAST else "")
        )
    if x.device != weight.device:
        raise ValueError(
            f"{layer}: x must be on the layer's device {weight.device}; got {x.device}: move one with .to()"
        )


def check_mask(layer: str, x: Tensor, mask: Tensor, cu_seqlens: Tensor | None) -> None:
    """Raise ValueError or TypeError unless a mask is (B, T) bool, lies where x does, and stands alone."""
    if cu_seqlens is not None:
        raise ValueError(
            f"{layer}: mask and cu_seqlens cannot be given together: pack the real steps, or pad them"
        )
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(
            f"{layer}: mask must be a bool tensor, True where a step is real; got "
            f"{getattr(mask, 'dtype', type(mask).__name__)}: cast with .bool()"
        )
    if mask.shape != x.shape[:2]:
        raise ValueError(
            f"{layer}: mask must be (B, T) = {tuple(x.shape[:2])}; got {tuple(mask.shape)}: give one entry "
            f"for each step of x"
        )
    if mask.device != x.device:
        raise ValueError(
            f"{layer}: mask must be on {x.device} as x is; got {mask.device}: move it with .to()"
        )


def check_noise(name: str, *, gate_noise: float, block_dropout: float) -> None:
    """Refuse what training cannot draw."""
    check_number(name, "gate_noise", gate_noise, "a number from 0 on", lambda size: 0 <= size < inf)
    check_number(
        name, "block_dropout", block_dropout, "a share from 0 on, below 1", lambda share: 0 <= share < 1
    )
