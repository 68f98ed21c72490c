"""Cross entropy of rows of logits, and its gradient in their place: each logit is read from memory once.

A row of one program fits the caches, so that the second pass over it costs no memory traffic: four bytes of
bfloat16 a logit in all, where PyTorch's own operations move twenty.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import on_device, power_of_two


def cross_entropy_(
    logits: Tensor, targets: Tensor, ignore_index: int, *, gradient: bool
) -> tuple[Tensor, Tensor]:
    """Loss of each row, and whether its target has the largest logit; logits become the loss's gradient.

    Args:
        logits: (R, V), rows dense; overwritten with softmax minus one at the target where ``gradient``.
        targets: (R,) int64; rows of ``ignore_index`` lose nothing and get a gradient of zero.

    Returns:
        (R,) float32, and (R,) int32: 1 where the first of the largest logits is the target's.
    """
    rows, vocabulary = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    right = torch.empty(rows, dtype=torch.int32, device=logits.device)
    block = min(8192, power_of_two(vocabulary))
    # Elements of a lane stay in its registers: 32 of them, 64 at the most.
    warps = max(1, min(8, block // 1024))
    kernel: Any = _cross_entropy
    with on_device(logits.device):
        kernel[(rows,)](
            logits, targets, losses, right, vocabulary, logits.stride(0), ignore_index,
            BLOCK=block, GRADIENT=gradient, num_warps=warps,
        )  # fmt: skip
    return losses, right


@triton.jit
def _cross_entropy(
    logits_pointer,
    targets_pointer,
    losses_pointer,
    right_pointer,
    vocabulary,
    row_stride,
    ignore_index,
    BLOCK: tl.constexpr,
    GRADIENT: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits_pointer += row * row_stride
    target = tl.load(targets_pointer + row)
    asked = target != ignore_index
    place = tl.where(asked, target, 0)
    of_target = tl.load(logits_pointer + place).to(tl.float32)
    columns = tl.arange(0, BLOCK)

    largest = tl.full((), float("-inf"), tl.float32)
    first = tl.full((), 0, tl.int32)
    total = tl.full((), 0.0, tl.float32)
    for start in range(0, vocabulary, BLOCK):
        here = start + columns
        x = tl.load(logits_pointer + here, mask=here < vocabulary, other=float("-inf")).to(tl.float32)
        top = tl.max(x, 0)
        first_here = tl.min(tl.where(x == top, here, vocabulary), 0)
        first = tl.where(top > largest, first_here, first)
        larger = tl.maximum(largest, top)
        total = total * tl.exp(largest - larger) + tl.sum(tl.exp(x - larger), 0)
        largest = larger

    loss = tl.log(total) + largest - of_target
    tl.store(losses_pointer + row, tl.where(asked, loss, 0.0))
    tl.store(right_pointer + row, (asked & (first == place)).to(tl.int32))
    if GRADIENT:
        for start in range(0, vocabulary, BLOCK):
            here = start + columns
            inside = here < vocabulary
            x = tl.load(logits_pointer + here, mask=inside, other=float("-inf")).to(tl.float32)
            p = tl.exp(x - largest) / total - (here == place).to(tl.float32)
            p = tl.where(asked, p, 0.0)
            tl.store(logits_pointer + here, p.to(logits_pointer.dtype.element_ty), mask=inside)
