"""BD-LRU on CPUs: h_t[i] = sum_j a_t[i, j] h_{t-1}[j] + b_t[i] v_t[i], gates normalized on the way.

Source: arXiv 2602.12021, block diagonal LRU. A kernel walks over time for a tile of neighboring blocks and
reads and writes every tensor once; the coefficients live in registers. Lanes are blocks, so nothing is
reshaped. Everything is computed and summed in float32 (float64 for float64 inputs).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from . import _scan
from ._compile import kernel
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

    Shapes: gate_logits (#B, #T, M, M+1, N), values (B, T, M, N), states (S, M, N).
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
    """Gradients of logits, values and initial state, exact for the ``hidden`` that was stored.

    Shapes: as in :func:`forward`; each gradient has the shape of its input.
    """
    return _scan.backward(
        _backward, gate_logits, values, initial_state, cu_seqlens,
        hidden, grad_hidden, grad_final_state, normalization,
    )  # fmt: skip


@kernel
def _forward(
    unroll, tag, normalization, block, segments,
    z, z_batch, z_time, z_row, z_step, v, v_batch, v_time, v_row, h, h_batch, h_time, h_row,
    initial, initial_state, initial_row, final, final_state, final_row,
    first, last, column, count,
):  # fmt: skip
    m = static_size(unroll, block)
    wide = widened(tag)
    here, line = vector_bytes(tag), vector_bytes(wide)
    groups = (count + LANES - 1) // LANES
    pitch = groups * line
    memory = np.empty(2 * block * pitch + block * (block + 3) * here + ALIGNMENT, np.uint8)
    old = aligned(memory.ctypes.data)
    new = old + block * pitch
    tail_z = old + 2 * block * pitch
    tail_v = tail_z + block * (block + 1) * here
    tail_h = tail_v + block * here
    z, v, h = z + column * stored_size(tag), v + column * stored_size(tag), h + column * stored_size(tag)
    final += column * stored_size(wide)
    if initial != 0:
        initial += column * stored_size(wide)

    for index in range(first, last):
        batch, start, stop, state = (
            segments[index, 0],
            segments[index, 1],
            segments[index, 2],
            segments[index, 3],
        )
        origin = initial + state * initial_state if initial != 0 else 0
        read_state(wide, origin, initial_row, old, pitch, block, count)
        for t in range(start, stop):
            z_now = z + batch * z_batch + t * z_time
            v_now = v + batch * v_batch + t * v_time
            h_now = h + batch * h_batch + t * h_time
            for group in range(groups):
                lanes = min(LANES, count - group * LANES)
                gates, gates_row, gates_step = z_now + group * here, z_row, z_step
                inputs, inputs_row = v_now + group * here, v_row
                outputs, outputs_row = h_now + group * here, h_row
                if lanes < LANES:
                    for i in range(block):
                        for j in range(block + 1):
                            copy_lanes(
                                tag,
                                gates + i * z_row + j * z_step,
                                tail_z + (i * (block + 1) + j) * here,
                                lanes,
                            )
                        copy_lanes(tag, inputs + i * v_row, tail_v + i * here, lanes)
                    gates, gates_row, gates_step = tail_z, (block + 1) * here, here
                    inputs, inputs_row = tail_v, here
                    outputs, outputs_row = tail_h, here
                states = old + group * line
                for i in range(block):
                    row = gates + i * gates_row
                    for j in range(m + 1):
                        prefetch(row + j * gates_step + z_time)
                    prefetch(inputs + i * inputs_row + v_time)
                    prefetch_write(outputs + i * outputs_row + h_time)
                    mixed = mix(
                        normalization, tag, wide, row, gates_step, states, pitch,
                        load(tag, inputs + i * inputs_row), m, block,
                    )  # fmt: skip
                    store(wide, new + group * line + i * pitch, mixed)
                    store(tag, outputs + i * outputs_row, mixed)
                if lanes < LANES:
                    for i in range(block):
                        copy_lanes(tag, tail_h + i * here, h_now + group * here + i * h_row, lanes)
            old, new = new, old
        for i in range(block):
            copy_row(wide, old + i * pitch, final + state * final_state + i * final_row, count)
    memory[0] = 0  # the last use: until here it must not be freed


@kernel
def _backward(
    unroll, tag, normalization, block, segments,
    z, z_batch, z_time, z_row, z_step, v, v_batch, v_time, v_row,
    h, h_batch, h_time, h_row, dh, dh_batch, dh_time, dh_row,
    initial, initial_state, initial_row, dfinal, dfinal_state, dfinal_row,
    adds, dz, dz_batch, dz_time, dz_row, dz_step, dv, dv_batch, dv_time, dv_row,
    dinitial, dinitial_state, dinitial_row,
    first, last, column, count,
):  # fmt: skip
    m = static_size(unroll, block)
    wide = widened(tag)
    here, line = vector_bytes(tag), vector_bytes(wide)
    out = line if adds else here
    groups = (count + LANES - 1) // LANES
    pitch = groups * line
    memory = np.empty(
        2 * block * pitch + (2 * block * (block + 1) + 7 * block + 1) * line + ALIGNMENT, np.uint8
    )
    carry = aligned(memory.ctypes.data)
    start_rows = carry + block * pitch
    sources = start_rows + block * pitch
    passed = sources + block * line
    weights = passed + block * line
    tail_z = weights + (block + 1) * line
    tail_dz = tail_z + block * (block + 1) * line
    tail_v = tail_dz + block * (block + 1) * line
    tail_h = tail_v + block * line
    tail_dh = tail_h + block * line
    tail_dv = tail_dh + block * line
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
        origin = initial + state * initial_state if initial != 0 else 0
        read_state(wide, origin, initial_row, start_rows, pitch, block, count)
        origin = dfinal + state * dfinal_state if dfinal != 0 else 0
        read_state(wide, origin, dfinal_row, carry, pitch, block, count)
        for t in range(stop - 1, start - 1, -1):
            z_now = z + batch * z_batch + t * z_time
            v_now = v + batch * v_batch + t * v_time
            h_before = h + batch * h_batch + (t - 1) * h_time
            dh_now = dh + batch * dh_batch + t * dh_time
            # Sums over time or batch: the fifth number of a segment is its place in the table of sums.
            dz_now = dz + segments[index, 4] * dz_batch + t * dz_time
            dv_now = dv + batch * dv_batch + t * dv_time
            for group in range(groups):
                lanes = min(LANES, count - group * LANES)
                gates, gates_row, gates_step = z_now + group * here, z_row, z_step
                inputs, inputs_row = v_now + group * here, v_row
                before, before_row = h_before + group * here, h_row
                from_output, from_output_row = dh_now + group * here, dh_row
                to_gates, to_gates_row, to_gates_step = dz_now + group * out, dz_row, dz_step
                to_inputs, to_inputs_row = dv_now + group * here, dv_row
                if lanes < LANES:
                    for i in range(block):
                        for j in range(block + 1):
                            place = (i * (block + 1) + j) * line
                            copy_lanes(tag, gates + i * z_row + j * z_step, tail_z + place, lanes)
                            if adds:
                                copy_lanes(wide, to_gates + i * dz_row + j * dz_step, tail_dz + place, lanes)
                        copy_lanes(tag, inputs + i * v_row, tail_v + i * line, lanes)
                        copy_lanes(tag, from_output + i * dh_row, tail_dh + i * line, lanes)
                        if t > start:
                            copy_lanes(tag, before + i * h_row, tail_h + i * line, lanes)
                    gates, gates_row, gates_step = tail_z, (block + 1) * line, line
                    inputs, inputs_row = tail_v, line
                    before, before_row = tail_h, line
                    from_output, from_output_row = tail_dh, line
                    to_gates, to_gates_row, to_gates_step = tail_dz, (block + 1) * line, line
                    to_inputs, to_inputs_row = tail_dv, line
                for i in range(block):
                    if t > start:
                        store(wide, sources + i * line, load(tag, before + i * before_row))
                    else:
                        store(wide, sources + i * line, load(wide, start_rows + i * pitch + group * line))
                    clear_row(wide, passed + i * line, LANES)
                for i in range(block):
                    row = gates + i * gates_row
                    for j in range(m + 1):
                        prefetch(row + j * gates_step - z_time)
                        prefetch_write(to_gates + i * to_gates_row + j * to_gates_step - dz_time)
                    prefetch(inputs + i * inputs_row - v_time)
                    prefetch_write(to_inputs + i * to_inputs_row - dv_time)
                    prefetch(before + i * before_row - h_time)
                    prefetch(from_output + i * from_output_row - dh_time)
                    u = load(tag, from_output + i * from_output_row) + load(
                        wide, carry + i * pitch + group * line
                    )
                    part = mix_backward(
                        normalization, tag, wide, row, gates_step, sources, line,
                        load(tag, inputs + i * inputs_row), u, passed, line,
                        to_gates + i * to_gates_row, to_gates_step, adds, weights, m, block,
                    )  # fmt: skip
                    store(tag, to_inputs + i * to_inputs_row, part)
                for i in range(block):
                    store(wide, carry + i * pitch + group * line, load(wide, passed + i * line))
                if lanes < LANES:
                    for i in range(block):
                        for j in range(block + 1):
                            place = (i * (block + 1) + j) * line
                            target = dz_now + group * out + i * dz_row + j * dz_step
                            if adds:
                                copy_lanes(wide, tail_dz + place, target, lanes)
                            else:
                                copy_lanes(tag, tail_dz + place, target, lanes)
                        copy_lanes(tag, tail_dv + i * line, dv_now + group * here + i * dv_row, lanes)
        for i in range(block):
            copy_row(wide, carry + i * pitch, dinitial + state * dinitial_state + i * dinitial_row, count)
    memory[0] = 0  # the last use: until here it must not be freed
