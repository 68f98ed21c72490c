"""Memory for large outputs, used again once the tensors that lived in it are gone.

The first touch of fresh memory costs more than all arithmetic of a scan: the kernel of the operating system
clears every page. A block therefore goes back to a list when the last tensor over it dies, and the next
output of about that size takes it from there. New blocks come from numpy, which asks for huge pages.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SMALLEST = 1 << 20
"""Bytes below which an output is an ordinary tensor."""

KEPT = 1 << 30
"""Bytes of unused blocks that are kept, at most: the ones that were free for longest are given back first."""

IDLE = 256
"""Outputs after which a block that none of them took is given back."""

_ALIGNMENT = 64
_PAGE = 2 << 20


class _Free(NamedTuple):
    since: int
    memory: np.ndarray


_free: dict[int, _Free] = {}  # every access is a single dictionary operation, which threads may interleave
_outputs = 0


class _Block(np.ndarray):
    """The view that a tensor holds on to; its end is the end of the tensor's storage."""

    memory: np.ndarray | None = None

    def __del__(self) -> None:
        if self.memory is not None and _free is not None:  # None while the interpreter shuts down
            _keep(self.memory)


def new_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialized contiguous tensor whose rows start on cache lines as far as their length allows."""
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size < SMALLEST:
        return torch.empty(shape, dtype=dtype, device="cpu")  # whatever torch.set_default_device says
    memory = _take(size + _ALIGNMENT)
    start = -memory.ctypes.data % _ALIGNMENT
    block = memory[start : start + size].view(_Block)
    block.memory = memory
    return torch.frombuffer(block, dtype=dtype, count=count).view(shape)


def kept_bytes() -> int:
    """Bytes of unused blocks that wait for the next output."""
    return sum(free.memory.nbytes for free in list(_free.values()))


def release_memory() -> None:
    """Give all unused blocks back to the operating system."""
    _free.clear()


def _take(size: int) -> np.ndarray:
    global _outputs
    _outputs += 1
    fitting = None
    for key, free in list(_free.items()):
        if _outputs - free.since > IDLE:
            _free.pop(key, None)
        elif size <= free.memory.nbytes <= size + size // 4 + _PAGE:
            fitting = key  # the last one: most recently freed, and most likely still in a cache
    taken = _free.pop(fitting, None) if fitting is not None else None
    if taken is not None:
        return taken.memory
    return np.empty(-(-size // _PAGE) * _PAGE if size >= 2 * _PAGE else size, np.uint8)


def _keep(memory: np.ndarray) -> None:
    _free[id(memory)] = _Free(_outputs, memory)
    excess = kept_bytes() - KEPT
    for key in list(_free):
        if excess <= 0:
            return
        oldest = _free.pop(key, None)
        if oldest is not None:
            excess -= oldest.memory.nbytes
