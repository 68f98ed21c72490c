"""What both families' launches share: tiles, strides, packed sequences, parts of a sum."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """``rows``: M as a power of two; ``lanes``: neighboring blocks or channels of a program; ``warps`` it has."""

    rows: int
    lanes: int
    warps: int


def scan_tile(family: str, size: int, width: int, device: torch.device) -> Tile:
    """One warp walks over time: each of its lanes holds a block or channel whole, as long as registers last.

    Many narrow programs hide the latency of a step better than few wide ones.
    """
    rows = triton.next_power_of_2(size)
    held = rows * rows if family == "bdlru" else rows
    return _tile(rows, held, warp_size(device), 1, width, device)


def gradient_tile(family: str, size: int, width: int, device: torch.device) -> Tile:
    """No step waits for another: a program is as wide as a thread block commonly is."""
    rows = triton.next_power_of_2(size)
    held = rows * rows if family == "bdlru" else rows
    return _tile(rows, held, 4 * warp_size(device), 4, width, device)


_HELD = 64  # numbers of one tile that a thread can hold without spilling the others that it needs


def _tile(rows: int, held: int, lanes: int, warps: int, width: int, device: torch.device) -> Tile:
    if device.type == "cpu":  # the interpreter: an operation costs the same for any number of lanes
        return Tile(rows, triton.next_power_of_2(width), 1)
    while held * lanes > _HELD * warps * warp_size(device) and lanes > 8:
        lanes //= 2
    while held * lanes > _HELD * warps * warp_size(device) and warps < 8:
        warps *= 2
    return Tile(rows, lanes, warps)


@lru_cache(maxsize=64)
def warp_size(device: torch.device) -> int:
    """Lanes of a warp (AMD: wavefront) of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).warp_size
    return 32


def device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device: make it the tensor's."""
    device = tensor.device
    return nullcontext() if device.type == "cpu" else torch.get_device_module(device).device(device)


def logit_strides(gate_logits: Tensor) -> tuple[int, ...]:
    """Strides in elements; 0 along batch and time of size 1, which are broadcast."""
    batch, time, *rest = gate_logits.stride()
    return (0 if gate_logits.shape[0] == 1 else batch, 0 if gate_logits.shape[1] == 1 else time, *rest)


def count_of_states(values: Tensor, cu_seqlens: Tensor | None) -> int:
    """S: the batch, or the number of packed sequences."""
    return values.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


def sequence_of_steps(cu_seqlens: Tensor | None, steps: int) -> Tensor | None:
    """(T,) int32: the packed sequence that a step belongs to."""
    if cu_seqlens is None:
        return None
    time = torch.arange(steps, dtype=torch.int32, device=cu_seqlens.device)
    return torch.searchsorted(cu_seqlens[1:].contiguous(), time, right=True, out_int32=True)


_PROGRAMS = 4096  # enough to fill any GPU
_TERMS = 16  # of a sum, below which another part costs more than it saves


def parts_of_sum(gate_logits: Tensor, values: Tensor, lanes: int) -> int:
    """Into how many parts the gradient of each logit is summed: 1 where no steps or batch rows share it."""
    results = gate_logits.shape[0] * gate_logits.shape[1]
    terms = values.shape[0] * values.shape[1] // results
    programs = results * triton.cdiv(values.shape[-1], lanes)
    return max(1, min(triton.cdiv(_PROGRAMS, programs), terms // _TERMS))
