"""The gated nonlinearity of the MLP: fused on GPUs, PyTorch's operations elsewhere."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .fusion import runs_fused


def swiglu(hidden: Tensor) -> Tensor:
    """silu(gate) * value for ``hidden`` (..., 2 H) = [gate, value]: (..., H).

    Eagerly on a GPU, one Triton kernel each way, which keep ``hidden`` alone for backward.

    Examples:
        >>> swiglu(torch.tensor([[0.0, 1.0, 5.0, 2.0]]))
        tensor([[0.0000, 1.4621]])

    Source: Shazeer 2020, arXiv 2002.05202.
    """
    return cast(Tensor, _Fused.apply(hidden)) if _fuses(hidden) else _plain(hidden)


def _plain(hidden: Tensor) -> Tensor:
    gate, value = hidden.chunk(2, -1)
    return F.silu(gate) * value


def _fuses(hidden: Tensor) -> bool:
    return hidden.dtype != torch.float64 and runs_fused(hidden)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor) -> Tensor:
        from statemix.kernels.triton import swiglu as kernels

        ctx.save_for_backward(hidden)
        return kernels.forward(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        from statemix.kernels.triton import swiglu as kernels

        (hidden,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            return torch.autograd.grad(_plain(hidden), hidden, gradient, create_graph=True)[0]
        return kernels.backward(hidden, gradient)
