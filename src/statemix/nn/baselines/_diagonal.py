"""Diagonal recurrences, run by the package's own scans."""

from __future__ import annotations

import torch
from torch import Tensor

from statemix.ops import bdlru_scan, hlru_scan


def decaying_scan(
    decay: Tensor, inputs: Tensor, state: Tensor, real: Tensor | None, *, backend: str
) -> tuple[Tensor, Tensor]:
    """h_t = a_t h_{t-1} + u_t in every channel: an H-LRU of order 1 whose gates are not normalised.

    Args:
        decay, inputs: (B, T, N), float32 or float64. state: (B, 1, N). real: (B, T) or None.

    Returns:
        h (B, T, N) and the state after the last real step.
    """
    if real is not None:
        decay = torch.where(real[..., None], decay, 1.0)
        inputs = torch.where(real[..., None], inputs, 0.0)
    gates = torch.stack([decay, torch.ones_like(decay)], 2)
    return hlru_scan(gates, inputs, state, normalization="none", backend=backend)


def turning_scan(
    transition: tuple[Tensor, Tensor], inputs: Tensor, state: Tensor, real: Tensor | None, *, backend: str
) -> tuple[Tensor, Tensor]:
    """Complex h_t = a_t h_{t-1} + u_t in every channel: a BD-LRU whose blocks of 2 turn and shrink.

    Args:
        transition: real and imaginary part of a, (#B, #T, N), where sizes of 1 are broadcast.
        inputs: u, (B, T, 2, N), real and imaginary part. state: (B, 2, N). real: (B, T) or None.

    Returns:
        h (B, T, 2, N) and the state after the last real step.
    """
    a, b = transition
    if real is not None:
        a, b = torch.where(real[..., None], a, 1.0), torch.where(real[..., None], b, 0.0)
        inputs = torch.where(real[..., None, None], inputs, 0.0)
    one = torch.ones_like(a)
    gates = torch.stack([torch.stack([a, -b, one], 2), torch.stack([b, a, one], 2)], 2)
    return bdlru_scan(gates, inputs, state, normalization="none", backend=backend)


def input_scale(log_size: Tensor) -> Tensor:
    """sqrt(1 - |a|^2) from log |a|, which keeps the size of h; its derivative stays finite at |a| = 1."""
    return (-torch.expm1(2 * log_size)).clamp(min=1e-12).sqrt()
