"""RMSNorm with the cast behind it in one kernel each way; backward keeps the input and one number a row."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import on_device, power_of_two

# Programs of backward: each sums the gradient of the weight over its rows, always in the same order.
_PROGRAMS = 512


def forward(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x / sqrt(mean(x^2) + eps) * weight for x (..., D) float32, in ``dtype``; and a row's 1 / sqrt."""
    x = x.contiguous()
    width = x.shape[-1]
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    scale = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    if x.numel():
        kernel: Any = _forward
        block = power_of_two(width)
        with on_device(x.device):
            kernel[(x.numel() // width,)](
                x, weight, y, scale, width, eps, BLOCK=block, num_warps=_warps(block)
            )
    return y, scale


def backward(x: Tensor, weight: Tensor, scale: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the weight, float32, from that of the output."""
    x, gradient = x.contiguous(), gradient.contiguous()
    width = x.shape[-1]
    rows = x.numel() // width
    programs = max(1, min(_PROGRAMS, rows))
    of_x = torch.empty_like(x)
    parts = torch.zeros(programs, width, dtype=torch.float32, device=x.device)
    if rows:
        kernel: Any = _backward
        block = power_of_two(width)
        with on_device(x.device):
            kernel[(programs,)](
                x, weight, scale, gradient, of_x, parts, rows, width, BLOCK=block, num_warps=_warps(block)
            )
    return of_x, parts.sum(0)


def _warps(block: int) -> int:
    return max(1, min(8, block // 256))


@triton.jit
def _forward(x_pointer, weight_pointer, y_pointer, scale_pointer, width, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_pointer + row * width + column, mask=inside, other=0.0)
    weight = tl.load(weight_pointer + column, mask=inside, other=0.0)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / width + eps)
    y = x * scale * weight
    tl.store(y_pointer + row * width + column, y.to(y_pointer.dtype.element_ty), mask=inside)
    tl.store(scale_pointer + row, scale)


@triton.jit
def _backward(
    x_pointer,
    weight_pointer,
    scale_pointer,
    gradient_pointer,
    of_x_pointer,
    parts_pointer,
    rows,
    width,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    programs = tl.num_programs(0)
    column = tl.arange(0, BLOCK)
    inside = column < width
    weight = tl.load(weight_pointer + column, mask=inside, other=0.0)
    of_weight = tl.zeros((BLOCK,), tl.float32)
    for turn in range(tl.cdiv(rows, programs)):
        row = program + turn * programs
        # Compared once: the interpreters of some versions give what joins a block and a number a wrong type.
        here = column < tl.where(row < rows, width, 0)
        place = row * width + column
        x = tl.load(x_pointer + place, mask=here, other=0.0)
        gradient = tl.load(gradient_pointer + place, mask=here, other=0.0).to(tl.float32)
        # Past the end another row's, which meets zeros.
        scale = tl.load(scale_pointer + tl.minimum(row, rows - 1))
        unit = x * scale
        weighted = gradient * weight
        # The part of the gradient along x itself is lost: scaling x changes nothing.
        along = tl.sum(unit * weighted, 0) / width
        tl.store(of_x_pointer + place, (weighted - unit * along) * scale, mask=here)
        of_weight += gradient * unit
    tl.store(parts_pointer + program * width + column, of_weight, mask=inside)
