"""H-LRU on CPUs: h_t = sum_i a_{i,t} h_{t-i} + a_{0,t} v_t, gates normalized on the way.

Source: arXiv 2602.12021, higher-order LRU. A kernel walks over time for a tile of neighboring channels; the
window of the last M states slides through scratch memory and the companion matrix is never built.
Everything is computed and summed in float32 (float64 for float64 inputs).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from . import _scan
from ._compile import inlined, kernel
from ._normalization import mix, mix_backward
from ._rows import ALIGNMENT, aligned, clear_row, copy_lanes, copy_row, read_state
from ._simd import (
    LANES,
    load,
    prefetch,
    prefetch_write,
    static_size,
    store,
    stored_size,
    vector_bytes,
    widened,
)


def forward(
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    normalization: str,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence.

    Shapes: gate_logits (#B, #T, M+1, N), values (B, T, N), states (S, M, N), newest first.
    """
    return _scan.forward(_forward, gate_logits, values, initial_state, cu_seqlens, normalization)


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
    """Gradients of logits, values and initial window, exact for the ``hidden`` that was stored.

    Shapes: as in :func:`forward`; each gradient has the shape of its input.
    """
    return _scan.backward(
        _backward, gate_logits, values, initial_state, cu_seqlens,
        hidden, grad_hidden, grad_final_state, normalization,
    )  # fmt: skip


@kernel
def _forward(
    unroll, tag, normalization, order, segments,
    z, z_batch, z_time, z_step, v, v_batch, v_time, h, h_batch, h_time,
    initial, initial_state, initial_row, final, final_state, final_row,
    first, last, column, count,
):  # fmt: skip
    m = static_size(unroll, order)
    wide = widened(tag)
    here, line = vector_bytes(tag), vector_bytes(wide)
    groups = (count + LANES - 1) // LANES
    pitch = groups * line
    memory = np.empty(2 * order * pitch + (order + 3) * here + ALIGNMENT, np.uint8)
    # Row r and row r + M hold the same state, so that the window is M rows in a row wherever it starts.
    ring = aligned(memory.ctypes.data)
    tail_z = ring + 2 * order * pitch
    tail_v = tail_z + (order + 1) * here
    tail_h = tail_v + here
    offset, wide_offset = column * stored_size(tag), column * stored_size(wide)
    z, v, h, final = z + offset, v + offset, h + offset, final + wide_offset
    if initial != 0:
        initial += wide_offset

    for index in range(first, last):
        batch, start, stop, state = (
            segments[index, 0],
            segments[index, 1],
            segments[index, 2],
            segments[index, 3],
        )
        origin = initial + state * initial_state if initial != 0 else 0
        read_state(wide, origin, initial_row, ring, pitch, order, count)
        read_state(wide, origin, initial_row, ring + order * pitch, pitch, order, count)
        newest = 0
        for t in range(start, stop):
            z_now = z + batch * z_batch + t * z_time
            v_now = v + batch * v_batch + t * v_time
            h_now = h + batch * h_batch + t * h_time
            window = ring + newest * pitch
            newest = order - 1 if newest == 0 else newest - 1
            place = ring + newest * pitch
            for group in range(groups):
                lanes = min(LANES, count - group * LANES)
                gates, gates_step = z_now + group * here, z_step
                inputs, outputs = v_now + group * here, h_now + group * here
                if lanes < LANES:
                    for j in range(order + 1):
                        copy_lanes(tag, gates + j * z_step, tail_z + j * here, lanes)
                    copy_lanes(tag, inputs, tail_v, lanes)
                    gates, gates_step, inputs, outputs = tail_z, here, tail_v, tail_h
                for j in range(m + 1):
                    prefetch(gates + j * gates_step + z_time)
                prefetch(inputs + v_time)
                prefetch_write(outputs + h_time)
                mixed = mix(
                    normalization, tag, wide, gates, gates_step, window + group * line, pitch,
                    load(tag, inputs), m, order,
                )  # fmt: skip
                store(wide, place + group * line, mixed)
                store(wide, place + order * pitch + group * line, mixed)
                store(tag, outputs, mixed)
                if lanes < LANES:
                    copy_lanes(tag, tail_h, h_now + group * here, lanes)
        for i in range(order):
            source = ring + (newest + i) * pitch
            copy_row(wide, source, final + state * final_state + i * final_row, count)
    memory[0] = 0  # the last use: until here it must not be freed


@kernel
def _backward(
    unroll, tag, normalization, order, segments,
    z, z_batch, z_time, z_step, v, v_batch, v_time, h, h_batch, h_time, dh, dh_batch, dh_time,
    initial, initial_state, initial_row, dfinal, dfinal_state, dfinal_row,
    adds, dz, dz_batch, dz_time, dz_step, dv, dv_batch, dv_time,
    dinitial, dinitial_state, dinitial_row,
    first, last, column, count,
):  # fmt: skip
    m = static_size(unroll, order)
    wide = widened(tag)
    here, line = vector_bytes(tag), vector_bytes(wide)
    out = line if adds else here
    groups = (count + LANES - 1) // LANES
    pitch = groups * line
    # Two windows slide through 2M + 1 rows, and are moved back when they reach the end: the states
    # h_{t-1} .. h_{t-M}, and what has been sent to the times t .. t-M so far.
    rows = 2 * order + 1
    memory = np.empty(2 * rows * pitch + (3 * order + 7) * line + ALIGNMENT, np.uint8)
    states = aligned(memory.ctypes.data)
    sent = states + rows * pitch
    weights = sent + rows * pitch
    tail_z = weights + (order + 1) * line
    tail_dz = tail_z + (order + 1) * line
    tail_v = tail_dz + (order + 1) * line
    tail_h = tail_v + line
    tail_dh = tail_h + line
    tail_dv = tail_dh + line
    offset, wide_offset = column * stored_size(tag), column * stored_size(wide)
    z, v, h, dh, dv = z + offset, v + offset, h + offset, dh + offset, dv + offset
    dz += wide_offset if adds else offset
    dinitial += wide_offset
    if initial != 0:
        initial += wide_offset
    if dfinal != 0:
        dfinal += wide_offset

    for index in range(first, last):
        batch, start, stop, state = (
            segments[index, 0],
            segments[index, 1],
            segments[index, 2],
            segments[index, 3],
        )
        origin = dfinal + state * dfinal_state if dfinal != 0 else 0
        read_state(wide, origin, dfinal_row, sent, pitch, order, count)
        h_start = h + batch * h_batch
        first_state = initial + state * initial_state if initial != 0 else 0
        for i in range(order):
            _read_hidden(
                tag, wide, h_start, h_time, stop - 2 - i, start, first_state, initial_row,
                states + i * pitch, tail_h, count,
            )  # fmt: skip
        at = 0
        for t in range(stop - 1, start - 1, -1):
            z_now = z + batch * z_batch + t * z_time
            v_now = v + batch * v_batch + t * v_time
            dh_now = dh + batch * dh_batch + t * dh_time
            # Sums over time or batch: the fifth number of a segment is its place in the table of sums.
            dz_now = dz + segments[index, 4] * dz_batch + t * dz_time
            dv_now = dv + batch * dv_batch + t * dv_time
            clear_row(wide, sent + (at + order) * pitch, count)
            for group in range(groups):
                lanes = min(LANES, count - group * LANES)
                gates, gates_step = z_now + group * here, z_step
                inputs, from_output = v_now + group * here, dh_now + group * here
                to_gates, to_gates_step = dz_now + group * out, dz_step
                to_inputs = dv_now + group * here
                if lanes < LANES:
                    for j in range(order + 1):
                        copy_lanes(tag, gates + j * z_step, tail_z + j * line, lanes)
                        if adds:
                            copy_lanes(wide, to_gates + j * dz_step, tail_dz + j * line, lanes)
                    copy_lanes(tag, inputs, tail_v, lanes)
                    copy_lanes(tag, from_output, tail_dh, lanes)
                    gates, gates_step, inputs, from_output = tail_z, line, tail_v, tail_dh
                    to_gates, to_gates_step, to_inputs = tail_dz, line, tail_dv
                for j in range(m + 1):
                    prefetch(gates + j * gates_step - z_time)
                    prefetch_write(to_gates + j * to_gates_step - dz_time)
                prefetch(inputs - v_time)
                prefetch_write(to_inputs - dv_time)
                prefetch(from_output - dh_time)
                place = at * pitch + group * line
                part = mix_backward(
                    normalization, tag, wide, gates, gates_step, states + place, pitch,
                    load(tag, inputs), load(tag, from_output) + load(wide, sent + place),
                    sent + place + pitch, pitch, to_gates, to_gates_step, adds, weights, m, order,
                )  # fmt: skip
                store(tag, to_inputs, part)
                if lanes < LANES:
                    for j in range(order + 1):
                        target = dz_now + group * out + j * dz_step
                        if adds:
                            copy_lanes(wide, tail_dz + j * line, target, lanes)
                        else:
                            copy_lanes(tag, tail_dz + j * line, target, lanes)
                    copy_lanes(tag, tail_dv, dv_now + group * here, lanes)
            at += 1
            if at > order:
                for i in range(order):
                    copy_row(wide, sent + (at + i) * pitch, sent + i * pitch, groups * LANES)
                    if i < order - 1:
                        copy_row(wide, states + (at + i) * pitch, states + i * pitch, groups * LANES)
                at = 0
            _read_hidden(
                tag, wide, h_start, h_time, t - 1 - order, start, first_state, initial_row,
                states + (at + order - 1) * pitch, tail_h, count,
            )  # fmt: skip
        for i in range(order):
            source = sent + (at + i) * pitch
            copy_row(wide, source, dinitial + state * dinitial_state + i * dinitial_row, count)
    memory[0] = 0  # the last use: until here it must not be freed


@inlined
def _read_hidden(tag, wide, h, h_time, t, start, first_state, initial_row, target, tail, count):
    """Read h_t of a row of channels, widened: the stored one, or one of the window before ``start``."""
    if t < start:
        read_state(
            wide,
            first_state + (start - 1 - t) * initial_row if first_state != 0 else 0,
            0,
            target,
            0,
            1,
            count,
        )
        return
    source = h + t * h_time
    prefetch(source - h_time)
    for group in range((count + LANES - 1) // LANES):
        here = source + group * vector_bytes(tag)
        lanes = min(LANES, count - group * LANES)
        if lanes < LANES:
            copy_lanes(tag, here, tail, lanes)
            here = tail
        store(wide, target + group * vector_bytes(wide), load(tag, here))
