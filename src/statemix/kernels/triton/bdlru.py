"""BD-LRU in Triton: h_t[i] = sum_j a_t[i, j] h_{t-1}[j] + b_t[i] v_t[i].

Source: arXiv 2602.12021, block diagonal LRU. Tiles are (rows i, states j, blocks n).
"""

# Triton's language is not typed as Python is.
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from . import scan
from .normalization import logit_gradients, mix, weigh
from .walk import extent, kernel, sharers, start_of


def forward(
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    normalization: str,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence.

    Shapes: gate_logits (#B, #T, M, M+1, N), values (B, T, M, N), states (S, M, N) float32.
    """
    return scan.forward("bdlru", _forward, gate_logits, values, initial_state, cu_seqlens, normalization)


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
    """Gradients of logits (in their shape), values and initial state, exact for the stored ``hidden``."""
    return scan.backward(
        "bdlru", _carry, _gate_gradient, gate_logits, values, initial_state, cu_seqlens,
        hidden, grad_hidden, grad_final_state, normalization,
    )  # fmt: skip


@triton.jit
def _tile(lane_block, width, M: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr):
    """Indices i, j, n as 64-bit tiles, and which of them exist: of (i, j, n), of (i, n), of (j, n)."""
    i = tl.arange(0, ROWS)[:, None, None].to(tl.int64)
    j = tl.arange(0, ROWS)[None, :, None].to(tl.int64)
    n = (lane_block.to(tl.int64) * LANES + tl.arange(0, LANES))[None, None, :]
    inside = n < width
    return i, j, n, (i < M) & (j < M) & inside, (i < M) & inside, (j < M) & inside


@kernel
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
    z = tl.load(z_at + state_logits, mask=matrix, other=ABSENT)
    gate = tl.load(z_at + gate_logits, mask=rows, other=0.0)
    value = tl.load(v_at + in_values, mask=rows, other=0.0)
    for step in range(length):
        # The next step's inputs travel while this one is computed; the last step is read twice.
        ahead = tl.where(step + 1 < length, 1, 0)
        z_at += ahead * z_time
        v_at += ahead * v_time
        next_z = tl.load(z_at + state_logits, mask=matrix, other=ABSENT)
        next_gate = tl.load(z_at + gate_logits, mask=rows, other=0.0)
        next_value = tl.load(v_at + in_values, mask=rows, other=0.0)
        weights, gate_weight, total = weigh(z.to(tl.float32), gate.to(tl.float32), NORMALIZATION, 1)
        out = mix(weights, gate_weight, total, state, value.to(tl.float32), 1)
        tl.store(h_at + in_hidden, out, mask=rows)
        h_at += h_time
        state = tl.permute(out, (1, 0, 2))
        z, gate, value = next_z, next_gate, next_value
    tl.store(final + in_state, state, mask=columns)


@kernel
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
    last = tl.maximum(first + length - 1, 0)
    z_at = logits + batch * z_batch + last * z_time
    u_at = batch * u_batch + last * u_time
    g_at = batch * g_batch + last * g_time
    state_logits = i * z_row + j * z_column + n * z_lane
    gate_logits = i * z_row + M * z_column + n * z_lane
    in_carried = i * u_row + n * u_lane
    in_gradient = i * g_row + n * g_lane
    in_state = (sequence * M + j) * width + n

    if grad_final is None:
        carry = tl.zeros((1, ROWS, LANES), tl.float32)
    else:
        carry = tl.load(grad_final + in_state, mask=columns, other=0.0)
    z = tl.load(z_at + state_logits, mask=matrix, other=ABSENT)
    gate = tl.load(z_at + gate_logits, mask=rows, other=0.0)
    for step in range(length):
        z_at -= tl.where(step + 1 < length, 1, 0) * z_time
        next_z = tl.load(z_at + state_logits, mask=matrix, other=ABSENT)
        next_gate = tl.load(z_at + gate_logits, mask=rows, other=0.0)
        u = tl.permute(carry, (1, 0, 2))
        if grad_hidden is not None:
            u += tl.load(grad_hidden + g_at + in_gradient, mask=rows, other=0.0).to(tl.float32)
        weights, gate_weight, total = weigh(z.to(tl.float32), gate.to(tl.float32), NORMALIZATION, 1)
        scale = u / total
        tl.store(carried + u_at + in_carried, u, mask=rows)
        tl.store(grad_values + u_at + in_carried, gate_weight * scale, mask=rows)
        carry = tl.sum(weights * scale, 0, keep_dims=True)
        u_at -= u_time
        g_at -= g_time
        z, gate = next_z, next_gate
    tl.store(grad_initial + in_state, carry, mask=columns)


@kernel
def _gate_gradient(
    logits, values, initial, cu_seqlens, sequence_of, hidden, carried, grad_logits,
    batch, steps, width, logits_batch, logits_steps, parts,
    z_batch, z_time, z_row, z_column, z_lane, v_batch, v_time, v_row, v_lane,
    h_batch, h_time, h_row, h_lane, u_batch, u_time, u_row, u_lane,
    NORMALIZATION: tl.constexpr, ABSENT: tl.constexpr,
    M: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """dL/dz of the logits of a step: the sum over a part of the steps and batch rows that share them."""
    index = tl.program_id(0).to(tl.int64)
    row, step, shared_steps, start, stop = sharers(index, batch, steps, logits_batch, logits_steps, parts)
    i, j, n, matrix, rows, _ = _tile(tl.program_id(1), width, M, ROWS, LANES)
    z_at = logits + row * z_batch + step * z_time + n * z_lane
    z = tl.load(z_at + i * z_row + j * z_column, mask=matrix, other=ABSENT).to(tl.float32)
    gate = tl.load(z_at + i * z_row + M * z_column, mask=rows, other=0.0).to(tl.float32)
    dz = tl.zeros((ROWS, ROWS, LANES), tl.float32)
    dgate = tl.zeros((ROWS, 1, LANES), tl.float32)
    for term in range(start, stop):
        b = row + term // shared_steps
        t = step + term % shared_steps
        sequence, first = start_of(t, b, sequence_of, cu_seqlens)
        h_at = hidden + b * h_batch + (t - 1) * h_time
        before = (j < M) & (n < tl.where(t > first, width, 0))
        x = tl.load(h_at + j * h_row + n * h_lane, mask=before, other=0.0).to(tl.float32)
        if initial is not None:
            at_start = (j < M) & (n < tl.where(t > first, 0, width))
            in_state = (sequence * M + j) * width + n
            x = tl.where(t > first, x, tl.load(initial + in_state, mask=at_start, other=0.0))
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
