"""RMSNorm ahead of a mixer or an MLP, in the number format that their products read."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.nn.transforms import is_autocast

from .fusion import runs_fused

_WIDEST = 8192


def rms_norm(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """``norm(x)``, cast to autocast's number format where that is on: once, and not by each product after it.

    Shapes: x, y (..., D). Eagerly on a GPU norm and cast are one Triton kernel each way, which sums in
    float32; elsewhere PyTorch's operations do the same.

    Examples:
        >>> norm = nn.RMSNorm(4)
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     rms_norm(norm, torch.ones(2, 4)).dtype
        torch.bfloat16

    Source: Zhang and Sennrich 2019, arXiv 1910.07467.
    """
    dtype = _dtype(x)
    if _fuses(norm, x):
        return cast(Tensor, _Fused.apply(x, norm.weight, norm.eps, dtype))
    return norm(x).to(dtype)


def _dtype(x: Tensor) -> torch.dtype:
    if x.dtype == torch.float32 and is_autocast(x.device):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def _fuses(norm: nn.RMSNorm, x: Tensor) -> bool:
    if norm.weight is None or norm.weight.dtype != torch.float32 or norm.eps is None:
        return False
    return x.dtype == torch.float32 and x.shape[-1] <= _WIDEST and runs_fused(x)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        from statemix.kernels.triton import rms_norm as kernels

        y, scale = kernels.forward(x, weight, eps, dtype)
        ctx.save_for_backward(x, weight, scale)
        ctx.eps, ctx.dtype = eps, dtype
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        from statemix.kernels.triton import rms_norm as kernels

        x, weight, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            with torch.autocast(x.device.type, enabled=False):
                y = F.rms_norm(x, weight.shape, weight, ctx.eps).to(ctx.dtype)
                of_x, of_weight = torch.autograd.grad(y, (x, weight), gradient, create_graph=True)
        else:
            of_x, of_weight = kernels.backward(x, weight, scale, gradient)
        return of_x, of_weight, None, None
