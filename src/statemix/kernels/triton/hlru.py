"""H-LRU in Triton: h_t = sum_i a_{i,t} h_{t-i} + a_{0,t} v_t (arXiv 2602.12021, higher-order LRU).

Tiles are (slots, channels). The last M states of a channel lie in a ring: slot s holds the step that is s modulo
M, counted from the start of the sequence, so that nothing moves when the window slides. Logits are read in the
order of the slots instead. ``_forward`` and ``_carry`` walk over one sequence; ``_gate_gradient`` needs no
walk, since ``_carry`` has left u = dL/dh for every step.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import (
    count_of_states,
    device_of,
    gradient_tile,
    logit_strides,
    parts_of_sum,
    scan_tile,
    sequence_of_steps,
)
from ._walk import extent, shared_terms, start_of
from .normalization import absent, logit_gradients, mix, weigh


def forward(
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    normalization: str,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence.

    Shapes: gate_logits (#B, #T, M+1, N), values (B, T, N), states (S, M, N) float32, newest first. Any strides.
    """
    _, steps, width = values.shape
    order = gate_logits.shape[2] - 1
    states = count_of_states(values, cu_seqlens)
    hidden = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    final = torch.empty((states, order, width), dtype=torch.float32, device=values.device)
    tile = scan_tile("hlru", order, width, values.device)
    if states == 0:
        return hidden, final
    with device_of(values):
        _forward[(states, triton.cdiv(width, tile.lanes))](
            gate_logits, values, None if initial_state is None else initial_state.contiguous(),
            None if cu_seqlens is None else cu_seqlens.contiguous(), hidden, final, steps, width,
            *logit_strides(gate_logits), *values.stride(), *hidden.stride(),
            NORMALIZATION=normalization, ABSENT=absent(normalization), M=order, ROWS=tile.rows, LANES=tile.lanes,
            num_warps=tile.warps,
        )  # fmt: skip
    return hidden, final


def backward(
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    hidden: Tensor,
    grad_hidden: Tensor | None,
    grad_final_state: Tensor | None,
    normalization: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of logits (in their own shape), values and initial window, exact for the ``hidden`` stored."""
    batch, steps, width = values.shape
    order = gate_logits.shape[2] - 1
    states = count_of_states(values, cu_seqlens)
    device = values.device
    initial_state = None if initial_state is None else initial_state.contiguous()
    cu_seqlens = None if cu_seqlens is None else cu_seqlens.contiguous()
    grad_values = torch.empty(values.shape, dtype=values.dtype, device=device)
    grad_initial = torch.empty((states, order, width), dtype=torch.float32, device=device)
    carried = torch.empty(values.shape, dtype=torch.float32, device=device)  # u = dL/dh
    tile = scan_tile("hlru", order, width, device)
    wide = gradient_tile("hlru", order, width, device)
    parts = parts_of_sum(gate_logits, values, wide.lanes)
    kind = gate_logits.dtype if parts == 1 else torch.float32
    grad_logits = torch.empty((parts, *gate_logits.shape), dtype=kind, device=device)
    gradient_strides = (0, 0, 0) if grad_hidden is None else grad_hidden.stride()
    with device_of(values):
        _carry[(states, triton.cdiv(width, tile.lanes))](
            gate_logits, grad_hidden, None if grad_final_state is None else grad_final_state.contiguous(),
            cu_seqlens, carried, grad_values, grad_initial, steps, width,
            *logit_strides(gate_logits), *gradient_strides, *carried.stride(),
            NORMALIZATION=normalization, ABSENT=absent(normalization), M=order, ROWS=tile.rows, LANES=tile.lanes,
            num_warps=tile.warps,
        )  # fmt: skip
        results = gate_logits.shape[0] * gate_logits.shape[1]
        _gate_gradient[(parts * results, triton.cdiv(width, wide.lanes))](
            gate_logits, values, initial_state, cu_seqlens, sequence_of_steps(cu_seqlens, steps), hidden, carried,
            grad_logits, batch, steps, width, gate_logits.shape[0], gate_logits.shape[1], parts,
            *gate_logits.stride(), *values.stride(), *hidden.stride(), *carried.stride(),
            NORMALIZATION=normalization, ABSENT=absent(normalization), M=order, ROWS=wide.rows, LANES=wide.lanes,
            num_warps=wide.warps,
        )  # fmt: skip
    total = grad_logits[0] if parts == 1 else grad_logits.sum(0).to(gate_logits.dtype)
    return total, grad_values, grad_initial


@triton.jit
def _tile(lane_block, width, ROWS: tl.constexpr, LANES: tl.constexpr):
    """Slots or lags, and channels, as 64-bit tiles; which channels exist."""
    slot = tl.arange(0, ROWS)[:, None].to(tl.int64)
    n = (lane_block.to(tl.int64) * LANES + tl.arange(0, LANES))[None, :]
    return slot, n, n < width


@triton.jit
def _lag(slot, at, M: tl.constexpr):
    """Which of the last M states a slot holds (0 the newest), before the step that goes to slot ``at``."""
    lag = at - 1 - slot
    return tl.where(lag < 0, lag + M, lag)


@triton.jit(do_not_specialize=["steps"])
def _forward(
    logits, values, initial, cu_seqlens, hidden, final, steps, width,
    z_batch, z_time, z_column, z_lane, v_batch, v_time, v_lane, h_batch, h_time, h_lane,
    NORMALIZATION: tl.constexpr, ABSENT: tl.constexpr,
    M: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    batch, first, length = extent(sequence, cu_seqlens, steps)
    slot, n, inside = _tile(tl.program_id(1), width, ROWS, LANES)
    window_mask = (slot < M) & inside
    z_at = logits + batch * z_batch + first * z_time + n * z_lane
    v_at = values + batch * v_batch + first * v_time + n * v_lane
    h_at = hidden + batch * h_batch + first * h_time + n * h_lane

    at = first * 0
    if initial is None:
        window = tl.zeros((ROWS, LANES), tl.float32)
    else:
        in_state = (sequence * M + _lag(slot, at, M)) * width + n
        window = tl.load(initial + in_state, mask=window_mask, other=0.0)
    for _ in range(length):
        z = tl.load(z_at + _lag(slot, at, M) * z_column, mask=window_mask, other=ABSENT).to(tl.float32)
        gate = tl.load(z_at + M * z_column, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(v_at, mask=inside, other=0.0).to(tl.float32)
        weights, gate_weight, total = weigh(z, gate, NORMALIZATION, 0)
        out = mix(weights, gate_weight, total, window, value, 0)
        tl.store(h_at, out, mask=inside)
        window = tl.where(slot == at, out, window)
        at = tl.where(at + 1 == M, 0, at + 1)
        z_at += z_time
        v_at += v_time
        h_at += h_time
    tl.store(final + (sequence * M + _lag(slot, at, M)) * width + n, window, mask=window_mask)


@triton.jit(do_not_specialize=["steps"])
def _carry(
    logits, grad_hidden, grad_final, cu_seqlens, carried, grad_values, grad_initial, steps, width,
    z_batch, z_time, z_column, z_lane, g_batch, g_time, g_lane, u_batch, u_time, u_lane,
    NORMALIZATION: tl.constexpr, ABSENT: tl.constexpr,
    M: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """u_t = g_t + sum_i a_{i,t+i} u_{t+i} backwards in time; dL/dv_t beside it (in u's layout).

    Slot s holds what later steps have sent so far to the one of the next M steps that is s modulo M.
    """
    sequence = tl.program_id(0).to(tl.int64)
    batch, first, length = extent(sequence, cu_seqlens, steps)
    slot, n, inside = _tile(tl.program_id(1), width, ROWS, LANES)
    window_mask = (slot < M) & inside
    last = first + length - 1
    z_at = logits + batch * z_batch + last * z_time + n * z_lane
    u_at = carried + batch * u_batch + last * u_time + n * u_lane
    dv_at = grad_values + batch * u_batch + last * u_time + n * u_lane
    if grad_hidden is not None:
        g_at = grad_hidden + batch * g_batch + last * g_time + n * g_lane

    at = length % M
    if grad_final is None:
        sent = tl.zeros((ROWS, LANES), tl.float32)
    else:
        in_state = (sequence * M + _lag(slot, at, M)) * width + n
        sent = tl.load(grad_final + in_state, mask=window_mask, other=0.0)
    for _ in range(length):
        at = tl.where(at == 0, M, at) - 1
        z = tl.load(z_at + _lag(slot, at, M) * z_column, mask=window_mask, other=ABSENT).to(tl.float32)
        gate = tl.load(z_at + M * z_column, mask=inside, other=0.0).to(tl.float32)
        u = tl.sum(tl.where(slot == at, sent, 0.0), 0, keep_dims=True)
        if grad_hidden is not None:
            u += tl.load(g_at, mask=inside, other=0.0).to(tl.float32)
            g_at -= g_time
        weights, gate_weight, total = weigh(z, gate, NORMALIZATION, 0)
        scale = u / total
        tl.store(u_at, u, mask=inside)
        tl.store(dv_at, gate_weight * scale, mask=inside)
        sent = tl.where(slot == at, 0.0, sent) + weights * scale
        z_at -= z_time
        u_at -= u_time
        dv_at -= u_time
    left = (sequence * M + _lag(slot, first * 0, M)) * width + n
    tl.store(grad_initial + left, sent, mask=window_mask)


@triton.jit(do_not_specialize=["batch", "steps", "logits_batch", "logits_steps", "parts"])
def _gate_gradient(
    logits, values, initial, cu_seqlens, sequence_of, hidden, carried, grad_logits,
    batch, steps, width, logits_batch, logits_steps, parts,
    z_batch, z_time, z_column, z_lane, v_batch, v_time, v_lane, h_batch, h_time, h_lane, u_batch, u_time, u_lane,
    NORMALIZATION: tl.constexpr, ABSENT: tl.constexpr,
    M: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """dL/dz of one step's logits: the sum over a part of the steps and batch rows that share them, in order."""
    index = tl.program_id(0).to(tl.int64)
    results = logits_batch.to(tl.int64) * logits_steps
    part = index // results
    row, step, shared_rows, shared_steps = shared_terms(index, batch, steps, logits_batch, logits_steps)
    lag, n, inside = _tile(tl.program_id(1), width, ROWS, LANES)
    exists = (lag < M) & inside
    z_at = logits + row * z_batch + step * z_time + n * z_lane
    z = tl.load(z_at + lag * z_column, mask=exists, other=ABSENT).to(tl.float32)
    gate = tl.load(z_at + M * z_column, mask=inside, other=0.0).to(tl.float32)
    dz = tl.zeros((ROWS, LANES), tl.float32)
    dgate = tl.zeros((1, LANES), tl.float32)
    terms = shared_rows.to(tl.int64) * shared_steps
    for term in range(terms * part // parts, terms * (part + 1) // parts):
        b = row + term // shared_steps
        t = step + term % shared_steps
        sequence, first = start_of(t, b, sequence_of, cu_seqlens)
        before = t - 1 - lag
        x_at = hidden + b * h_batch + before * h_time + n * h_lane
        x = tl.load(x_at, mask=exists & (before >= first), other=0.0).to(tl.float32)
        if initial is not None:
            in_state = (sequence * M + (first - 1 - before)) * width + n
            at_start = tl.load(initial + in_state, mask=exists & (before < first), other=0.0)
            x = tl.where(before < first, at_start, x)
        value = tl.load(values + b * v_batch + t * v_time + n * v_lane, mask=inside, other=0.0).to(tl.float32)
        u = tl.load(carried + b * u_batch + t * u_time + n * u_lane, mask=inside, other=0.0)
        more, more_gate = logit_gradients(z, gate, x, value, u, NORMALIZATION, 0)
        dz += more
        dgate += more_gate
    out = grad_logits + (index * (M + 1)) * width + n
    tl.store(out + lag * width, dz, mask=exists)
    tl.store(out + M * width, dgate, mask=inside)
