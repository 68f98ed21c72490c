"""Products of a few rows that read each weight once, each with all that stands around it in one kernel.

A step of a small batch waits for memory and for launches. Here a mixer is two kernels and an MLP two:

    project   RMSNorm, both projections, the gates, the recurrence
    product   RMSNorm before, activation or residual after: W_y, the MLP's two matrices, the head

One row is multiplied lane by lane in float32; up to sixteen meet the weights in tensor cores, each warp with
its own part of a row, and are rounded to bfloat16 before. RMSNorm costs no pass of its own: its scale is
one number a row, which multiplies what comes out.

Weights and the state do not depend on the kernel before. With ``early`` a kernel starts while that one still
runs, reads the state and its first weights, and only then waits (programmatic dependent launch, from Hopper
on). No kernel since the last one without ``early`` may have written them: meant for a captured step.
"""

# Triton's language is not typed as Python is.
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import ceil_div, on_device, power_of_two
from .normalization import mix, weigh
from .step import dense_rows

MOST_ROWS = 16
"""Rows of a batch beyond which a general product is faster."""


def streams(batch: int, dtype: torch.dtype, size: int = 1) -> bool:
    """Whether products of ``batch`` rows run here, with blocks or an order of ``size``.

    Several rows are bfloat16's alone: float32 has no exact tensor cores, and float16 could overflow between
    the weight of a norm and its scale.
    """
    if batch == 1:
        return dtype in (torch.float32, torch.bfloat16, torch.float16) and _groups(size) <= 32
    return 1 < batch <= MOST_ROWS and dtype == torch.bfloat16 and _groups(size) <= 16


def project(
    family: str,
    x: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    value_weight: Tensor,
    state: Tensor | None,
    normalization: str,
    *,
    new_state: Tensor,
    read: Tensor,
    norm_weight: Tensor | None = None,
    eps: float = 0.0,
    early: bool = False,
) -> None:
    """Write the state after one step to ``new_state``, and what is read of it, from the layer's input.

    Args:
        family: "bdlru" or "hlru".
        x: (B, D), unit stride along D.
        gate_weight: (M*(M+1)*N, D) or ((M+1)*N, D), dense as all weights.
        gate_bias: the same without D.
        value_weight: (M*N, D) or (N, D).
        state: (B, M, N) float32; None where it is zero.
        normalization: any of the six.
        new_state: (B, M, N) float32, dense; not ``state``, which programs still read when others write.
        read: (B, R, N), dense: the first R rows of the new state (BD-LRU: all M).
        norm_weight: (D,): x is normed first.
        eps: of the norm.
        early: start before the kernel in front has ended.
    """
    size, width = new_state.shape[1:]
    window = family == "hlru"
    rows = 1 if window else size
    tile = tile_for(x.shape[0], _groups(size), rows * width, x)
    state = dense_rows(state)
    with on_device(x.device):
        _project[(ceil_div(width, tile.lanes), rows)](
            x, norm_weight, gate_weight, gate_bias, value_weight, state, new_state, read,
            x.shape[0], width, x.stride(0), 0 if state is None else state.stride(0), eps,
            NORMALIZATION=normalization, ABSENT=float("-inf") if normalization in _SMOOTH else 0.0,
            WINDOW=window, KEPT=read.shape[1], M=size, ALIGNED=_aligned(gate_weight, value_weight),
            **_constants(tile, x, early),
        )  # fmt: skip


def product(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    norm_weight: Tensor | None = None,
    eps: float = 0.0,
    activation: str = "none",
    add: bool = False,
    carry: tuple[Tensor, Tensor] | None = None,
    early: bool = False,
) -> None:
    """out = activation(norm(x) W^T), or with ``add`` out + that.

    Args:
        x: (B, D), unit stride along D.
        weight: (R, D), dense; (2 R, D) for "swiglu", gates first.
        out: (B, R), unit stride along R.
        norm_weight: (D,): x is normed first.
        eps: of the norm.
        activation: "none", "swiglu" or "gelu".
        add: add to what ``out`` holds.
        carry: copy the first, dense, to the second meanwhile.
        early: start before the kernel in front has ended.
    """
    groups = 2 if activation == "swiglu" else 1
    tile = tile_for(x.shape[0], groups, out.shape[1], x)
    source, target = carry or (None, None)
    with on_device(x.device):
        _product[(ceil_div(out.shape[1], tile.lanes),)](
            x, norm_weight, weight, out, source, target, 0 if source is None else source.numel(),
            x.shape[0], out.shape[1], x.stride(0), out.stride(0), eps,
            ACTIVATION=activation, ADD=add, COPIED=128, **_constants(tile, x, early),
        )  # fmt: skip


_SMOOTH = ("softmax", "sigmoid")


def _aligned(*weights: Tensor) -> bool:
    """Whether every row begins at a multiple of 16 bytes."""
    return all(w.data_ptr() % 16 == 0 and w.stride(0) * w.element_size() % 16 == 0 for w in weights)


@dataclass(frozen=True)
class Tile:
    """What a program has: ``groups`` rows of weights for each of ``lanes`` outputs, ``block`` columns a turn.

    ``batch`` rows of x are cut into ``split`` parts along the columns.
    """

    batch: int
    groups: int
    lanes: int
    block: int
    split: int
    warps: int


def tile_for(batch: int, groups: int, outputs: int, x: Tensor) -> Tile:
    """Tiles large enough to keep memory busy, and programs enough to fill a GPU."""
    columns = power_of_two(x.shape[1])
    if batch == 1:
        room, programs, least, widest, split, warps = 2**14 // x.element_size(), 256, 1, 2048, 1, 4
    else:
        room, programs, least, widest, split, warps = 2**15 // x.element_size(), 128, 8, 1024, 8, 8
    if x.device.type == "cpu":  # in the interpreter an operation costs the same for any number of lanes
        programs = 4
    lanes = max(1, least // groups, min(_floor(outputs // programs), 64 // groups))
    block = min(columns, widest, room // (groups * lanes))
    while batch == 1 and lanes > 1 and block < min(columns, 1024):
        lanes, block = lanes // 2, block * 2
    return Tile(1 if batch == 1 else 16, groups, lanes, max(16 * split, block), split, warps)


def _floor(number: int) -> int:
    """The power of two at or below a number; 1 below it."""
    return 1 << max(0, number.bit_length() - 1)


def _groups(size: int) -> int:
    """Rows of logits and of the value, as a power of two."""
    return power_of_two(size + 2)


def _constants(tile: Tile, x: Tensor, early: bool) -> dict[str, Any]:
    # The interpreter multiplies bfloat16 as if it were integers.
    factors = tl.float32 if x.device.type == "cpu" or x.dtype == torch.float32 else tl.bfloat16
    constants: dict[str, Any] = {
        "FACTORS": factors,
        "WIDTH": x.shape[1],
        "EARLY": early,
        "BATCH": tile.batch,
        "GROUPS": tile.groups,
        "LANES": tile.lanes,
        "BLOCK": tile.block,
        "SPLIT": tile.split,
        "num_warps": tile.warps,
        "num_stages": 1,
    }
    return constants | ({"launch_pdl": True} if early else {})


@triton.jit
def _first_weights(
    rows, present, WIDTH: tl.constexpr, EARLY: tl.constexpr, BLOCK: tl.constexpr, SPLIT: tl.constexpr
):
    """The first columns of the weight rows that start at ``rows``; then the kernel before has ended."""
    down = _columns(1, BLOCK, SPLIT)
    w = tl.load(rows[None, None, :] + down, mask=present[None, None, :] & (down < WIDTH), other=0.0)
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    return w


@triton.jit
def _products(
    w, rows, present, x, x_batch, batch, norm_weight, eps,
    FACTORS: tl.constexpr, WIDTH: tl.constexpr,
    BATCH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """norm(x) W^T in float32, (BATCH, ROWS), for the rows of weights whose first columns are ``w``."""
    PART: tl.constexpr = BLOCK // SPLIT
    down = _columns(1, BLOCK, SPLIT)
    at = rows[None, None, :] + down
    here = present[None, None, :]
    if BATCH == 1:
        total = tl.zeros((1, PART, ROWS), tl.float32)
        squares = tl.zeros((1, PART, 1), tl.float32)
    else:
        b = tl.arange(0, BATCH)[None, :, None]
        along = _columns(2, BLOCK, SPLIT)
        total = tl.zeros((SPLIT, BATCH, ROWS), tl.float32)
        squares = tl.zeros((SPLIT, BATCH, 1), tl.float32)
    for start in range(0, WIDTH, BLOCK):
        # The next weights travel while these are multiplied.
        next_w = tl.load(at + (start + BLOCK), mask=here & (down + start < WIDTH - BLOCK), other=0.0)
        if BATCH == 1:
            column = down + start
            v = tl.load(x + column, mask=column < WIDTH, other=0.0).to(tl.float32)
            if norm_weight is not None:
                squares += v * v
                v *= tl.load(norm_weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
            total += w.to(tl.float32) * v
        else:
            column = along + start
            v = tl.load(x + b * x_batch + column, mask=(b < batch) & (column < WIDTH), other=0.0)
            if norm_weight is not None:
                v = v.to(tl.float32)
                squares += tl.sum(v * v, 2, keep_dims=True)
                v *= tl.load(norm_weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
            total = tl.dot(v.to(FACTORS), w.to(FACTORS), total, input_precision="ieee")
        w = next_w
    # Along the columns of lanes where there is one row, else over the parts.
    found = tl.sum(total, 1 if BATCH == 1 else 0)
    if norm_weight is not None:
        mean = tl.sum(squares, 1 if BATCH == 1 else 0) / WIDTH
        found *= 1.0 / tl.sqrt(mean + eps)
    return found


@triton.jit
def _columns(AXIS: tl.constexpr, BLOCK: tl.constexpr, SPLIT: tl.constexpr):
    """Columns 0 ... BLOCK of SPLIT parts, which lie along the first axis, in parts along ``AXIS``."""
    PART: tl.constexpr = BLOCK // SPLIT
    part = tl.arange(0, SPLIT)[:, None, None] * PART
    if AXIS == 1:
        column = part + tl.arange(0, PART)[None, :, None]
    else:
        column = part + tl.arange(0, PART)[None, None, :]
    return column


@triton.jit
def _project(
    x, norm_weight, gate_weight, gate_bias, value_weight, state, new_state, read,
    batch, width, x_batch, s_batch, eps,
    NORMALIZATION: tl.constexpr, ABSENT: tl.constexpr, WINDOW: tl.constexpr, KEPT: tl.constexpr,
    M: tl.constexpr, ALIGNED: tl.constexpr, FACTORS: tl.constexpr, WIDTH: tl.constexpr,
    EARLY: tl.constexpr, BATCH: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr,
    BLOCK: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Row ``i`` of the blocks of a tile: M + 1 logits and a value for each, group by group."""
    i = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * LANES
    row = tl.arange(0, GROUPS * LANES)
    group = row // LANES
    lane = first + row % LANES
    inside = lane < width
    of_gate = (i * (M + 1) + group) * width + lane
    of_value = i * width + lane
    at = tl.where(group == M + 1, value_weight + of_value * WIDTH, gate_weight + of_gate * WIDTH)
    if ALIGNED:  # which newer versions of Triton do not see through the choice between two pointers
        at = tl.multiple_of(at, [16])
    present = inside & (group <= M + 1)
    bias = tl.load(gate_bias + of_gate, mask=inside & (group <= M), other=0.0).to(tl.float32)
    b = tl.arange(0, BATCH)[:, None, None]
    j = tl.arange(0, GROUPS)[None, :, None]
    n = first + tl.arange(0, LANES)[None, None, :]
    one = (b < batch) & (n < width)
    if state is None:
        h = tl.zeros((BATCH, GROUPS, LANES), tl.float32)
    else:
        h = tl.load(state + b * s_batch + j * width + n, mask=one & (j < M), other=0.0)
    w = _first_weights(at, present, WIDTH, EARLY, BLOCK, SPLIT)
    z = _products(
        w, at, present, x, x_batch, batch, norm_weight, eps,
        FACTORS, WIDTH, BATCH, GROUPS * LANES, BLOCK, SPLIT,
    )  # fmt: skip
    z = tl.reshape(z + bias[None, :], (BATCH, GROUPS, LANES))
    gate = tl.sum(tl.where(j == M, z, 0.0), 1, keep_dims=True)
    value = tl.sum(tl.where(j == M + 1, z, 0.0), 1, keep_dims=True)
    weights, weight, total = weigh(tl.where(j < M, z, ABSENT), gate, NORMALIZATION, 1)
    newest = mix(weights, weight, total, h, value, 1)

    new_at = new_state + b * M * width + n
    read_at = read + b * KEPT * width + n
    tl.store(new_at + i * width, newest, mask=one)
    tl.store(read_at + i * width, newest.to(read.dtype.element_ty), mask=one)
    if WINDOW:
        older = (j + 1) * width
        tl.store(new_at + older, h, mask=one & (j + 1 < M))
        tl.store(read_at + older, h.to(read.dtype.element_ty), mask=one & (j + 1 < KEPT))


@triton.jit
def _product(
    x, norm_weight, weight, out, source, target, count, batch, outputs, x_batch, out_batch, eps,
    ACTIVATION: tl.constexpr, ADD: tl.constexpr, COPIED: tl.constexpr,
    FACTORS: tl.constexpr, WIDTH: tl.constexpr, EARLY: tl.constexpr, BATCH: tl.constexpr,
    GROUPS: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * LANES
    row = tl.arange(0, GROUPS * LANES)
    lane = first + row % LANES
    at = weight + ((row // LANES).to(tl.int64) * outputs + lane) * WIDTH
    b = tl.arange(0, BATCH)[:, None]
    n = first + tl.arange(0, LANES)[None, :]
    one = (b < batch) & (n < outputs)
    out_at = out + b * out_batch + n
    w = _first_weights(at, lane < outputs, WIDTH, EARLY, BLOCK, SPLIT)
    if ADD:
        before = tl.load(out_at, mask=one, other=0.0).to(tl.float32)
    y = _products(
        w, at, lane < outputs, x, x_batch, batch, norm_weight, eps,
        FACTORS, WIDTH, BATCH, GROUPS * LANES, BLOCK, SPLIT,
    )  # fmt: skip
    if GROUPS == 2:
        y = tl.reshape(y, (BATCH, GROUPS, LANES))
        group = tl.arange(0, GROUPS)[None, :, None]
        gate = tl.sum(tl.where(group == 0, y, 0.0), 1)
        y = tl.sum(tl.where(group == 1, y, 0.0), 1) * gate / (1.0 + tl.exp(-gate))
    if ACTIVATION == "gelu":
        y = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
    if ADD:
        y += before
    tl.store(out_at, y.to(out.dtype.element_ty), mask=one)
    if source is not None:
        for start in range(tl.program_id(0) * COPIED, count, tl.num_programs(0) * COPIED):
            place = start + tl.arange(0, COPIED)
            tl.store(target + place, tl.load(source + place, mask=place < count), mask=place < count)
