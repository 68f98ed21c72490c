"""BD-LRU in Triton: h_t[i] = sum_j a_t[i, j] h_{t-1}[j] + b_t[i] v_t[i] (arXiv 2602.12021, block diagonal LRU).

Tiles are (rows i, states j, blocks n). ``_forward`` and ``_carry`` walk over one sequence, for a tile of blocks;
``_gate_gradient`` needs no walk, since ``_carry`` has left u = dL/dh for every step.
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

    Shapes: gate_logits (#B, #T, M, M+1, N), values (B, T, M, N), states (S, M, N) float32. Any strides.
    """
    _, steps, size, width = values.shape
    states = count_of_states(values, cu_seqlens)
    hidden = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    final = torch.empty((states, size, width), dtype=torch.float32, device=values.device)
    tile = scan_tile("bdlru", size, width, values.device)
    if states == 0:
        return hidden, final
    with device_of(values):
        _forward[(states, triton.cdiv(width, tile.lanes))](
            gate_logits, values, None if initial_state is None else initial_state.contiguous(),
            None if cu_seqlens is None else cu_seqlens.contiguous(), hidden, final, steps, width,
            *logit_strides(gate_logits), *values.stride(), *hidden.stride(),
            NORMALIZATION=normalization, ABSENT=absent(normalization), M=size, ROWS=tile.rows, LANES=tile.lanes,
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
    """Gradients of logits (in their own shape), values and initial state, exact for the ``hidden`` stored."""
    batch, steps, size, width = values.shape
    states = count_of_states(values, cu_seqlens)
    device = values.device
    initial_state = None if initial_state is None else initial_state.contiguous()
    cu_seqlens = None if cu_seqlens is None else cu_seqlens.contiguous()
    grad_values = torch.empty(values.shape, dtype=values.dtype, device=device)
    grad_initial = torch.empty((states, size, width), dtype=torch.float32, device=device)
    carried = torch.empty(values.shape, dtype=torch.float32, device=device)  # u = dL/dh
    tile = scan_tile("bdlru", size, width, device)
    wide = gradient_tile("bdlru", size, width, device)
    parts = parts_of_sum(gate_logits, values, wide.lanes)
    kind = gate_logits.dtype if parts == 1 else torch.float32
    grad_logits = torch.empty((parts, *gate_logits.shape), dtype=kind, device=device)
    gradient_strides = (0, 0, 0, 0) if grad_hidden is None else grad_hidden.stride()
    with device_of(values):
        _carry[(states, triton.cdiv(width, tile.lanes))](
            gate_logits, grad_hidden, None if grad_final_state is None else grad_final_state.contiguous(),
            cu_seqlens, carried, grad_values, grad_initial, steps, width,
            *logit_strides(gate_logits), *gradient_strides, *carried.stride(),
            NORMALIZATION=normalization, ABSENT=absent(normalization), M=size, ROWS=tile.rows, LANES=tile.lanes,
            num_warps=tile.warps,
        )  # fmt: skip
        results = gate_logits.shape[0] * gate_logits.shape[1]
        _gate_gradient[(parts * results, triton.cdiv(width, wide.lanes))](
            gate_logits, values, initial_state, cu_seqlens, sequence_of_steps(cu_seqlens, steps), hidden, carried,
            grad_logits, batch, steps, width, gate_logits.shape[0], gate_logits.shape[1], parts,
            *gate_logits.stride(), *values.stride(), *hidden.stride(), *carried.stride(),
            NORMALIZATION=normalization, ABSENT=absent(normalization), M=size, ROWS=wide.rows, LANES=wide.lanes,
            num_warps=wide.warps,
        )  # fmt: skip
    total = grad_logits[0] if parts == 1 else grad_logits.sum(0).to(gate_logits.dtype)
    return total, grad_values, grad_initial


@triton.jit
def _tile(lane_block, width, M: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr):
    """Indices i, j, n as 64-bit tiles, and which of them exist: of (i, j, n), of (i, n), of (j, n)."""
    i = tl.arange(0, ROWS)[:, None, None].to(tl.int64)
    j = tl.arange(0, ROWS)[None, :, None].to(tl.int64)
    n = (lane_block.to(tl.int64) * LANES + tl.arange(0, LANES))[None, None, :]
    inside = n < width
    return i, j, n, (i < M) & (j < M) & inside, (i < M) & inside, (j < M) & inside


@triton.jit(do_not_specialize=["steps"])
def _forward(
    logits, values, initial, cu_seqlens, hidden, final, steps, width,
    z_batch, z_time, z_row, z_column, z_lane, v_batch, v_time, v_row, v_lane, h_batch, h_time, h_row, h_lane,
    NORMALIZATION: tl.constexpr, ABSENT: tl.constexpr,
    M: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    batch, first, length = extent(sequence, cu_seqlens, steps)
    i, j, n, matrix, rows, columns = _tile(tl.program_id(1), width, M, ROWS, LANES)
    z_at = logits + batch * z_batch + first * z_time
    v_at = values + batch * v_batch + first * v_time
    h_at = hidden + batch * h_batch + first * h_time
    state_logits = i * z_row + j * z_column + n * z_lane
    gate_logits = i * z_row + M * z_column + n * z_lane
    in_values = i * v_row + n * v_lane
    in_hidden = i * h_row + n * h_lane
    in_state = (sequence * M + j) * width + n

    if initial is None:
        state = tl.zeros((1, ROWS, LANES), tl.float32)
    else:
        state = tl.load(initial + in_state, mask=columns, other=0.0)
    for _ in range(length):
        z = tl.load(z_at + state_logits, mask=matrix, other=ABSENT).to(tl.float32)
        gate = tl.load(z_at + gate_logits, mask=rows, other=0.0).to(tl.float32)
        value = tl.load(v_at + in_values, mask=rows, other=0.0).to(tl.float32)
        weights, gate_weight, total = weigh(z, gate, NORMALIZATION, 1)
        out = mix(weights, gate_weight, total, state, value, 1)
        tl.store(h_at + in_hidden, out, mask=rows)
        state = tl.permute(out, (1, 0, 2))
        z_at += z_time
        v_at += v_time
        h_at += h_time
    tl.store(final + in_state, state, mask=columns)


@triton.jit(do_not_specialize=["steps"])
def _carry(
    logits, grad_hidden, grad_final, cu_seqlens, carried, grad_values, grad_initial, steps, width,
    z_batch, z_time, z_row, z_column, z_lane, g_batch, g_time, g_row, g_lane, u_batch, u_time, u_row, u_lane,
    NORMALIZATION: tl.constexpr, ABSENT: tl.constexpr,
    M: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """u_t = g_t + A_{t+1}^T u_{t+1} backwards in time; dL/dv_t = b_t u_t beside it (in u's layout)."""
    sequence = tl.program_id(0).to(tl.int64)
    batch, first, length = extent(sequence, cu_seqlens, steps)
    i, j, n, matrix, rows, columns = _tile(tl.program_id(1), width, M, ROWS, LANES)
    last = first + length - 1
    z_at = logits + batch * z_batch + last * z_time
    u_at = carried + batch * u_batch + last * u_time
    dv_at = grad_values + batch * u_batch + last * u_time
    state_logits = i * z_row + j * z_column + n * z_lane
    gate_logits = i * z_row + M * z_column + n * z_lane
    in_carried = i * u_row + n * u_lane
    in_state = (sequence * M + j) * width + n
    if grad_hidden is not None:
        g_at = grad_hidden + batch * g_batch + last * g_time
        in_gradient = i * g_row + n * g_lane

    if grad_final is None:
        carry = tl.zeros((1, ROWS, LANES), tl.float32)
    else:
        carry = tl.load(grad_final + in_state, mask=columns, other=0.0)
    for _ in range(length):
        z = tl.load(z_at + state_logits, mask=matrix, other=ABSENT).to(tl.float32)
        gate = tl.load(z_at + gate_logits, mask=rows, other=0.0).to(tl.float32)
        u = tl.permute(carry, (1, 0, 2))
        if grad_hidden is not None:
            u += tl.load(g_at + in_gradient, mask=rows, other=0.0).to(tl.float32)
            g_at -= g_time
        weights, gate_weight, total = weigh(z, gate, NORMALIZATION, 1)
        scale = u / total
        tl.store(u_at + in_carried, u, mask=rows)
        tl.store(dv_at + in_carried, gate_weight * scale, mask=rows)
        carry = tl.sum(weights * scale, 0, keep_dims=True)
        z_at -= z_time
        u_at -= u_time
        dv_at -= u_time
    tl.store(grad_initial + in_state, carry, mask=columns)


@triton.jit(do_not_specialize=["batch", "steps", "logits_batch", "logits_steps", "parts"])
def _gate_gradient(
    logits, values, initial, cu_seqlens, sequence_of, hidden, carried, grad_logits,
    batch, steps, width, logits_batch, logits_steps, parts,
    z_batch, z_time, z_row, z_column, z_lane, v_batch, v_time, v_row, v_lane,
    h_batch, h_time, h_row, h_lane, u_batch, u_time, u_row, u_lane,
    NORMALIZATION: tl.constexpr, ABSENT: tl.constexpr,
    M: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """dL/dz of one step's logits: the sum over a part of the steps and batch rows that share them, in order."""
    index = tl.program_id(0).to(tl.int64)
    results = logits_batch.to(tl.int64) * logits_steps
    part = index // results
    row, step, shared_rows, shared_steps = shared_terms(index, batch, steps, logits_batch, logits_steps)
    i, j, n, matrix, rows, columns = _tile(tl.program_id(1), width, M, ROWS, LANES)
    z_at = logits + row * z_batch + step * z_time
    z = tl.load(z_at + i * z_row + j * z_column + n * z_lane, mask=matrix, other=ABSENT).to(tl.float32)
    gate = tl.load(z_at + i * z_row + M * z_column + n * z_lane, mask=rows, other=0.0).to(tl.float32)
    dz = tl.zeros((ROWS, ROWS, LANES), tl.float32)
    dgate = tl.zeros((ROWS, 1, LANES), tl.float32)
    terms = shared_rows.to(tl.int64) * shared_steps
    for term in range(terms * part // parts, terms * (part + 1) // parts):
        b = row + term // shared_steps
        t = step + term % shared_steps
        sequence, first = start_of(t, b, sequence_of, cu_seqlens)
        before = hidden + b * h_batch + (t - 1) * h_time + j * h_row + n * h_lane
        x = tl.load(before, mask=columns & (t > first), other=0.0).to(tl.float32)
        if initial is not None:
            at_start = tl.load(
                initial + (sequence * M + j) * width + n, mask=columns & (t == first), other=0.0
            )
            x = tl.where(t == first, at_start, x)
        v_at = values + b * v_batch + t * v_time
        u_at = carried + b * u_batch + t * u_time
        value = tl.load(v_at + i * v_row + n * v_lane, mask=rows, other=0.0).to(tl.float32)
        u = tl.load(u_at + i * u_row + n * u_lane, mask=rows, other=0.0)
        more, more_gate = logit_gradients(z, gate, x, value, u, NORMALIZATION, 1)
        dz += more
        dgate += more_gate
    out = grad_logits + ((index * M + i) * (M + 1)) * width + n
    tl.store(out + j * width, dz, mask=matrix)
    tl.store(out + M * width, dgate, mask=rows)
