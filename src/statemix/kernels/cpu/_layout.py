"""How tensors reach the kernels: addresses, strides in bytes, and the few cases that need a copy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..precision import state_dtype
from ._memory import new_tensor
from ._plan import SUMS

UNROLLED = 4
"""Block sizes and orders up to this one get a kernel of their own; larger ones gain nothing from it."""

_copies = 0


def copies() -> int:
    """How many tensors were copied so far, because their last dimension has not unit stride."""
    return _copies


def as_rows(tensor: Tensor) -> Tensor:
    """The tensor itself if its last dimension has unit stride, else a copy; expanded dimensions stay so."""
    global _copies
    if tensor.stride(-1) == 1 or tensor.shape[-1] == 1:
        return tensor
    _copies += 1
    distinct = tensor
    for dimension in range(tensor.dim() - 1):
        if tensor.stride(dimension) == 0:
            distinct = distinct.narrow(dimension, 0, 1)
    return distinct.contiguous().expand(tensor.shape)


def rows_or_zeros(gradient: Tensor | None, like: Tensor) -> Tensor:
    """The gradient; when there is none, zeros that take the memory of one row."""
    if gradient is None:
        return torch.zeros(like.shape[-1], dtype=like.dtype, device=like.device).expand(like.shape)
    return as_rows(gradient)


def byte_strides(tensor: Tensor, broadcast: torch.Size | None = None) -> tuple[int, ...]:
    """Address and strides in bytes, the last dimension left out; 0 where it is ``broadcast`` from size 1."""
    size = tensor.element_size()
    strides = [stride * size for stride in tensor.stride()[:-1]]
    if broadcast is not None:
        for dimension in (0, 1):
            if tensor.shape[dimension] == 1:
                strides[dimension] = 0
    return tensor.data_ptr(), *strides


def state_strides(state: Tensor | None) -> tuple[int, ...]:
    """Address and strides in bytes of a state; address 0 for none."""
    return (0, 0, 0) if state is None else byte_strides(state)


def unrolled(size: int) -> tuple[int, ...] | None:
    """Makes ``size`` a constant of the kernel, for the sizes that get one."""
    return (0,) * size if size <= UNROLLED else None


@dataclass(frozen=True)
class GateGradient:
    """Where a kernel puts dL/d(gate_logits): the tensor itself, or a table of sums in the computing width."""

    target: Tensor
    sums: int | None
    strides: tuple[int, ...]
    like: Tensor

    @property
    def adds(self) -> bool:
        """Whether the kernel adds to what is there."""
        return self.sums is not None

    def finish(self) -> Tensor:
        """The gradient in the logits' shape and dtype: partial sums are added up in their order."""
        if not self.adds:
            return self.target
        total = self.target
        if total.shape[0] > self.like.shape[0]:
            total = total[0]
            for part in self.target[1:]:
                total = total + part
        return total.reshape(self.like.shape).to(self.like.dtype)


def gate_gradient(gate_logits: Tensor, values: Tensor, segments: int) -> GateGradient:
    """Memory for dL/d(gate_logits); for broadcast logits partial sums, never the whole tensor.

    The number of partial sums depends on shapes alone, so that the result has the same bits on any number
    of threads.
    """
    over_batch = gate_logits.shape[0] < values.shape[0]
    over_time = gate_logits.shape[1] < values.shape[1]
    if not over_batch and not over_time:
        target = new_tensor(gate_logits.shape, gate_logits.dtype)
        return GateGradient(target, None, byte_strides(target), gate_logits)
    if not over_time:
        sums = 1
    elif gate_logits.shape[0] == 1:
        sums = min(segments, SUMS)
    else:
        sums = segments
    shape = (sums, *gate_logits.shape[1:])
    target = torch.zeros(shape, dtype=state_dtype(gate_logits.dtype), device=gate_logits.device)
    address, over, time, *rest = byte_strides(target)
    return GateGradient(target, sums, (address, over, 0 if over_time else time, *rest), gate_logits)
