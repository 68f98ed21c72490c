"""Both families' forward and backward: memory, tiles, launches. The families differ in their kernels alone.

Backward is two kernels. The first walks back over time for u = dL/dh, with as little work a step as can be.
The second has every u and so no order to keep: it makes the gradients of the logits, summed where steps or
batch rows share them, in a fixed order; for shared logits no tensor of the size of unshared ones is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .launch import ceil_div, on_device, power_of_two

Kernel = Any  # what triton.jit returns; its interpreter returns another type


def forward(
    family: str,
    kernel: Kernel,
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    normalization: str,
) -> tuple[Tensor, Tensor]:
    """Run a family's forward; shapes as in ``bdlru.forward`` and ``hlru.forward``, any strides."""
    size, width = gate_logits.shape[-2] - 1, values.shape[-1]
    states = values.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    hidden = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    final = torch.empty((states, size, width), dtype=torch.float32, device=values.device)
    tile = walking_tile(family, size, width, values.device)
    with on_device(values.device):
        kernel[(states, ceil_div(width, tile.lanes))](
            gate_logits, values, _contiguous(initial_state), _contiguous(cu_seqlens), hidden, final,
            values.shape[1], width, *_logit_strides(gate_logits), *values.stride(), *hidden.stride(),
            **constants(tile, size, normalization),
        )  # fmt: skip
    return hidden, final


def backward(
    family: str,
    carry_kernel: Kernel,
    gradient_kernel: Kernel,
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    hidden: Tensor,
    grad_hidden: Tensor | None,
    grad_final_state: Tensor | None,
    normalization: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a family's backward; shapes as in ``bdlru.backward`` and ``hlru.backward``, any strides."""
    (batch, steps), device = values.shape[:2], values.device
    size, width = gate_logits.shape[-2] - 1, values.shape[-1]
    states = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    bounds = _contiguous(cu_seqlens)
    walking, standing = (tile(family, size, width, device) for tile in (walking_tile, standing_tile))
    rows_of_logits = gate_logits.shape[0] * gate_logits.shape[1]
    parts = _parts(rows_of_logits, batch * steps // rows_of_logits, ceil_div(width, standing.lanes))
    grad_values = torch.empty(values.shape, dtype=values.dtype, device=device)
    grad_initial = torch.empty((states, size, width), dtype=torch.float32, device=device)
    carried = torch.empty(values.shape, dtype=torch.float32, device=device)  # u = dL/dh
    grad_logits = torch.empty(
        (parts, *gate_logits.shape), dtype=gate_logits.dtype if parts == 1 else torch.float32, device=device
    )
    gradient_strides = (0,) * values.dim() if grad_hidden is None else grad_hidden.stride()
    with on_device(device):
        carry_kernel[(states, ceil_div(width, walking.lanes))](
            gate_logits, grad_hidden, _contiguous(grad_final_state), bounds,
            carried, grad_values, grad_initial, steps, width,
            *_logit_strides(gate_logits), *gradient_strides, *carried.stride(),
            **constants(walking, size, normalization),
        )  # fmt: skip
        gradient_kernel[(parts * rows_of_logits, ceil_div(width, standing.lanes))](
            gate_logits, values, _contiguous(initial_state), bounds, _sequence_of_steps(bounds, steps),
            hidden, carried, grad_logits,
            batch, steps, width, gate_logits.shape[0], gate_logits.shape[1], parts,
            *gate_logits.stride(), *values.stride(), *hidden.stride(), *carried.stride(),
            **constants(standing, size, normalization),
        )  # fmt: skip
    total = grad_logits[0] if parts == 1 else grad_logits.sum(0).to(gate_logits.dtype)
    return total, grad_values, grad_initial


@dataclass(frozen=True)
class Tile:
    """``rows`` is M as a power of two; a program has ``lanes`` blocks or channels, and ``warps``.

    In the interpreter an operation costs the same for any number of lanes: there a program takes them all.
    """

    rows: int
    lanes: int
    warps: int


_HELD = 64
"""Numbers of one tile that a lane can hold in registers beside the others that it needs."""


def walking_tile(family: str, size: int, width: int, device: torch.device) -> Tile:
    """The tile of a program that walks over time: one warp, whose lanes hold a block or channel each.

    A step costs its latency, which more programs hide and wider ones do not. What is too large for a lane is
    spread over several, and then over several warps.
    """
    rows, held, warp = power_of_two(size), _held(family, size), _warp_size(device)
    if device.type == "cpu":
        return Tile(rows, power_of_two(width), 1)
    if held <= _HELD:
        return Tile(rows, _wide_enough(warp, width), 1)
    return Tile(rows, _wide_enough(8, width), max(1, min(8, held // (2 * warp))))


def standing_tile(family: str, size: int, width: int, device: torch.device) -> Tile:
    """The tile of a program that waits for no other step: as wide as thread blocks commonly are."""
    rows, held, warp = power_of_two(size), _held(family, size), _warp_size(device)
    if device.type == "cpu":
        return Tile(rows, power_of_two(width), 1)
    room = 4 * warp * _HELD // 2  # gradients stand beside what they are of
    lanes = max(8, min(4 * warp, room // held))
    return Tile(rows, _wide_enough(lanes, width), 4 if held * lanes <= room else 8)


def _wide_enough(lanes: int, width: int) -> int:
    """A grid has at most 65,535 programs along its second axis."""
    return max(lanes, power_of_two(ceil_div(width, 65_535)))


def _held(family: str, size: int) -> int:
    """Numbers of a block's or channel's tile."""
    rows = power_of_two(size)
    return rows * rows if family == "bdlru" else rows


@lru_cache(maxsize=64)
def _warp_size(device: torch.device) -> int:
    """Lanes of a warp of NVIDIA's, a wavefront of AMD's, a sub-group of Intel's."""
    return torch.cuda.get_device_properties(device).warp_size if device.type == "cuda" else 32


_PROGRAMS = 4096
"""Enough to fill any GPU."""
_TERMS = 16
"""Of a sum: with fewer, another part costs more than it saves."""


def _parts(results: int, terms: int, tiles: int) -> int:
    """Into how many parts a sum of ``terms`` is cut, by shapes alone; 1 where nothing is shared."""
    return max(1, min(ceil_div(_PROGRAMS, results * tiles), terms // _TERMS))


def constants(tile: Tile, size: int, normalization: str) -> dict[str, Any]:
    """What a kernel is compiled for. A logit of ABSENT weighs exactly nothing: it fills up the tile."""
    absent = float("-inf") if normalization in ("softmax", "sigmoid") else 0.0
    return {
        "NORMALIZATION": normalization,
        "ABSENT": absent,
        "M": size,
        "ROWS": tile.rows,
        "LANES": tile.lanes,
        "num_warps": tile.warps,
    }


def _logit_strides(gate_logits: Tensor) -> tuple[int, ...]:
    """Strides in elements; 0 along batch and time of size 1, which are broadcast."""
    batch, time, *rest = gate_logits.stride()
    return (0 if gate_logits.shape[0] == 1 else batch, 0 if gate_logits.shape[1] == 1 else time, *rest)


def _sequence_of_steps(cu_seqlens: Tensor | None, steps: int) -> Tensor | None:
    """(T,) int32: the packed sequence that a step belongs to."""
    if cu_seqlens is None:
        return None
    time = torch.arange(steps, dtype=torch.int32, device=cu_seqlens.device)
    return torch.searchsorted(cu_seqlens[1:], time, right=True, out_int32=True)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()
