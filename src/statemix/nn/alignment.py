"""Blocks of zeros that bring a layer's products and kernels to a GPU's fast paths, and show nowhere else."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def padded_columns(columns: int, row: int) -> int:
    """The number of blocks that a GPU runs fastest: whole rows of 128 bytes where that costs next to nothing.

    ``row`` is the number of elements in 128 bytes. Odd sizes take half precision products off their
    fast path (2.7 times slower) and the scan to 40-75 % of its speed, since tiles then share sectors of 32
    bytes; whole sectors lose a tenth of the scan alone, itself a seventh of a layer, while every further
    block costs its part of all products.

    Examples:
        >>> padded_columns(1000, 64), padded_columns(146, 64), padded_columns(112, 64)
        (1008, 152, 112)
    """
    for multiple, worth in ((row, 1 / 64), (row // 4, 1 / 32), (8, 1.0)):
        extra = -columns % multiple
        if extra <= columns * worth:
            return columns + extra
    return -(-columns // 8) * 8


def grown(shape: tuple[int, ...], extra: int) -> tuple[int, ...]:
    """A shape (..., N) with ``extra`` further blocks."""
    return (*shape[:-1], shape[-1] + extra)


def padded(parameter: Tensor, shape: tuple[int, ...], extra: int) -> Tensor:
    """Rows of zeros for ``extra`` further blocks, put where the layout wants them."""
    if not extra:
        return parameter
    rows = parameter.unflatten(0, shape)
    trailing = rows.dim() - len(shape)
    return F.pad(rows, (0, 0) * trailing + (0, extra)).flatten(0, len(shape) - 1)
