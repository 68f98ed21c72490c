"""H-LRU in Triton: h_t = sum_i a_{i,t} h_{t-i} + a_{0,t} v_t, one scalar state a channel.

Source: arXiv 2602.12021, higher-order LRU. Tiles are (slots, channels). The last M states of a channel lie in
a ring: slot s holds the step that is s modulo M, counted from the start of the sequence, so that nothing
moves when the window slides. Logits are read in the order of the slots instead.
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

    Shapes: gate_logits (#B, #T, M+1, N), values (B, T, N), states (S, M, N) float32, newest first.
    """
    return scan.forward("hlru", _forward, gate_logits, values, initial_state, cu_seqlens, normalization)


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
    """Gradients of logits (in their shape), values and initial window, exact for the stored ``hidden``."""
    return scan.backward(
        "hlru", _carry, _gate_gradient, gate_logits, values, initial_state, cu_seqlens,
        hidden, grad_hidden, grad_final_state, normalization,
    )  # fmt: skip


@triton.jit
def _tile(lane_block, width, M: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr):
    """Slots or lags, and channels, as 64-bit tiles; which exist of (slot, channel), and of the channels."""
    slot = tl.arange(0, ROWS)[:, None].to(tl.int64)
    n = (lane_block.to(tl.int64) * LANES + tl.arange(0, LANES))[None, :]
    inside = n < width
    return slot, n, (slot < M) & inside, inside


@triton.jit
def _lag(slot, at, M: tl.constexpr):
    """Which of the last M states a slot holds, 0 the newest, when slot ``at`` is the next to be written."""
    lag = at - 1 - slot
    return tl.where(lag < 0, lag + M, lag)


@kernel
def _forward(
    logits, values, initial, cu_seqlens, hidden, final, steps, width,
    z_batch, z_time, z_column, z_lane, v_batch, v_time, v_lane, h_batch, h_time, h_lane,
    NORMALIZATION: tl.constexpr, ABSENT: tl.constexpr,
    M: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    batch, first, length = extent(sequence, cu_seqlens, steps)
    slot, n, exists, inside = _tile(tl.program_id(1), width, M, ROWS, LANES)
    z_at = logits + batch * z_batch + first * z_time + n * z_lane
    v_at = values + batch * v_batch + first * v_time + n * v_lane
    h_at = hidden + batch * h_batch + first * h_time + n * h_lane
    state_row = sequence * M * width + n

    at = sequence * 0
    if initial is None:
        window = tl.zeros((ROWS, LANES), tl.float32)
    else:
        window = tl.load(initial + state_row + _lag(slot, at, M) * width, mask=exists, other=0.0)
    z = tl.load(z_at + _lag(slot, at, M) * z_column, mask=exists, other=ABSENT)
    gate = tl.load(z_at + M * z_column, mask=inside, other=0.0)
    value = tl.load(v_at, mask=inside, other=0.0)
    for step in range(length):
        # The next step's inputs travel while this one is computed; the last step is read twice.
        ahead = tl.where(step + 1 < length, 1, 0)
        next_at = tl.where(at + 1 == M, 0, at + 1)
        z_at += ahead * z_time
        v_at += ahead * v_time
        next_z = tl.load(z_at + _lag(slot, next_at, M) * z_column, mask=exists, other=ABSENT)
        next_gate = tl.load(z_at + M * z_column, mask=inside, other=0.0)
        next_value = tl.load(v_at, mask=inside, other=0.0)
        weights, gate_weight, total = weigh(z.to(tl.float32), gate.to(tl.float32), NORMALIZATION, 0)
        out = mix(weights, gate_weight, total, window, value.to(tl.float32), 0)
        tl.store(h_at, out, mask=inside)
        h_at += h_time
        window = tl.where(slot == at, out, window)
        at, z, gate, value = next_at, next_z, next_gate, next_value
    tl.store(final + state_row + _lag(slot, at, M) * width, window, mask=exists)


@kernel
def _carry(
    logits, grad_hidden, grad_final, cu_seqlens, carried, grad_values, grad_initial, steps, width,
    z_batch, z_time, z_column, z_lane, g_batch, g_time, g_lane, u_batch, u_time, u_lane,
    NORMALIZATION: tl.constexpr, ABSENT: tl.constexpr,
    M: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """u_t = g_t + sum_i a_{i,t+i} u_{t+i} backwards in time; dL/dv_t beside it (in u's layout).

    A slot of ``sent`` holds what later steps have sent so far to one of the M steps that are next.
    """
    sequence = tl.program_id(0).to(tl.int64)
    batch, first, length = extent(sequence, cu_seqlens, steps)
    slot, n, exists, inside = _tile(tl.program_id(1), width, M, ROWS, LANES)
    last = tl.maximum(first + length - 1, 0)
    z_at = logits + batch * z_batch + last * z_time + n * z_lane
    u_at = batch * u_batch + last * u_time + n * u_lane
    g_at = batch * g_batch + last * g_time + n * g_lane
    state_row = sequence * M * width + n

    at = length % M  # the slot after that of the last step
    if grad_final is None:
        sent = tl.zeros((ROWS, LANES), tl.float32)
    else:
        sent = tl.load(grad_final + state_row + _lag(slot, at, M) * width, mask=exists, other=0.0)
    at = tl.where(at == 0, M, at) - 1
    z = tl.load(z_at + _lag(slot, at, M) * z_column, mask=exists, other=ABSENT)
    gate = tl.load(z_at + M * z_column, mask=inside, other=0.0)
    for step in range(length):
        next_at = tl.where(at == 0, M, at) - 1
        z_at -= tl.where(step + 1 < length, 1, 0) * z_time
        next_z = tl.load(z_at + _lag(slot, next_at, M) * z_column, mask=exists, other=ABSENT)
        next_gate = tl.load(z_at + M * z_column, mask=inside, other=0.0)
        u = tl.sum(tl.where(slot == at, sent, 0.0), 0, keep_dims=True)
        if grad_hidden is not None:
            u += tl.load(grad_hidden + g_at, mask=inside, other=0.0).to(tl.float32)
        weights, gate_weight, total = weigh(z.to(tl.float32), gate.to(tl.float32), NORMALIZATION, 0)
        scale = u / total
        tl.store(carried + u_at, u, mask=inside)
        tl.store(grad_values + u_at, gate_weight * scale, mask=inside)
        sent = tl.where(slot == at, 0.0, sent) + weights * scale
        u_at -= u_time
        g_at -= g_time
        at, z, gate = next_at, next_z, next_gate
    tl.store(grad_initial + state_row + _lag(slot, sequence * 0, M) * width, sent, mask=exists)


@kernel
def _gate_gradient(
    logits, values, initial, cu_seqlens, sequence_of, hidden, carried, grad_logits,
    batch, steps, width, logits_batch, logits_steps, parts,
    z_batch, z_time, z_column, z_lane, v_batch, v_time, v_lane,
    h_batch, h_time, h_lane, u_batch, u_time, u_lane,
    NORMALIZATION: tl.constexpr, ABSENT: tl.constexpr,
    M: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """dL/dz of the logits of a step: the sum over a part of the steps and batch rows that share them."""
    index = tl.program_id(0).to(tl.int64)
    row, step, shared_steps, start, stop = sharers(index, batch, steps, logits_batch, logits_steps, parts)
    lag, n, exists, inside = _tile(tl.program_id(1), width, M, ROWS, LANES)
    z_at = logits + row * z_batch + step * z_time + n * z_lane
    z = tl.load(z_at + lag * z_column, mask=exists, other=ABSENT).to(tl.float32)
    gate = tl.load(z_at + M * z_column, mask=inside, other=0.0).to(tl.float32)
    dz = tl.zeros((ROWS, LANES), tl.float32)
    dgate = tl.zeros((1, LANES), tl.float32)
    for term in range(start, stop):
        b = row + term // shared_steps
        t = step + term % shared_steps
        sequence, first = start_of(t, b, sequence_of, cu_seqlens)
        before = t - 1 - lag
        earlier = before < first  # than the sequence: these are of the initial window
        h_at = hidden + b * h_batch + before * h_time + n * h_lane
        x = tl.load(h_at, mask=exists & (before >= first), other=0.0).to(tl.float32)
        if initial is not None:
            in_state = (sequence * M + (first - 1 - before)) * width + n
            x = tl.where(earlier, tl.load(initial + in_state, mask=exists & earlier, other=0.0), x)
        value = tl.load(values + b * v_batch + t * v_time + n * v_lane, mask=inside, other=0.0)
        u = tl.load(carried + b * u_batch + t * u_time + n * u_lane, mask=inside, other=0.0)
        more, more_gate = logit_gradients(z, gate, x, value.to(tl.float32), u, NORMALIZATION, 0)
        dz += more
        dgate += more_gate
    out = grad_logits + (index * (M + 1)) * width + n
    tl.store(out + lag * width, dz, mask=exists)
    tl.store(out + M * width, dgate, mask=inside)
