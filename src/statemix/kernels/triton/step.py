"""One step of a recurrence from logits and values: gates, mixing and the new state in one kernel.

An H-LRU channel is one row of a block whose state then moves on by one place: both families share the kernel.
"""

# Triton's language is not typed as Python is.
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import triton.language as tl
from torch import Tensor

from . import scan
from .launch import ceil_div, on_device
from .normalization import mix, weigh
from .walk import kernel


def advance(
    family: str,
    gate_logits: Tensor,
    values: Tensor,
    state: Tensor | None,
    normalization: str,
    *,
    new_state: Tensor,
    read: Tensor,
) -> None:
    """Write the state after one step to ``new_state``, which may be ``state``, and what is read of it.

    Args:
        family: "bdlru" or "hlru".
        gate_logits: (#B, M, M+1, N) or (#B, M+1, N).
        values: (B, M, N) or (B, N).
        state: (B, M, N) float32; None where it is zero.
        normalization: any of the six.
        new_state: (B, M, N) float32, dense.
        read: (B, R, N) in any dtype, dense: the first R rows of the new state (BD-LRU: all M).
    """
    size, width = gate_logits.shape[-2] - 1, values.shape[-1]
    tile = scan.walking_tile(family, size, width, values.device)
    window = family == "hlru"
    gate_logits, values, state = gate_logits.contiguous(), values.contiguous(), dense_rows(state)
    with on_device(values.device):
        _advance[(values.shape[0], ceil_div(width, tile.lanes))](
            gate_logits, values, state, new_state, read, width,
            0 if gate_logits.shape[0] == 1 else gate_logits.stride(0),
            0 if state is None else state.stride(0),
            WINDOW=window, KEPT=read.shape[1], **scan.constants(tile, size, normalization),
        )  # fmt: skip


def dense_rows(state: Tensor | None) -> Tensor | None:
    """The state with dense rows; sequences may share one."""
    if state is None or state[0].is_contiguous():
        return state
    return state.contiguous()


@kernel
def _advance(
    logits, values, state, new_state, read, width, z_batch, s_batch,
    WINDOW: tl.constexpr, KEPT: tl.constexpr, NORMALIZATION: tl.constexpr, ABSENT: tl.constexpr,
    M: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    OUT: tl.constexpr = 1 if WINDOW else M
    OUT_ROWS: tl.constexpr = 1 if WINDOW else ROWS
    sequence = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, OUT_ROWS)[:, None, None]
    j = tl.arange(0, ROWS)[None, :, None]
    n = (tl.program_id(1) * LANES + tl.arange(0, LANES))[None, None, :]
    rows = (i < OUT) & (n < width)
    columns = (j < M) & (n < width)
    z_at = logits + sequence * z_batch + i * (M + 1) * width + n
    z = tl.load(z_at + j * width, mask=rows & columns, other=ABSENT).to(tl.float32)
    gate = tl.load(z_at + M * width, mask=rows, other=0.0).to(tl.float32)
    in_rows = i * width + n
    value = tl.load(values + sequence * OUT * width + in_rows, mask=rows, other=0.0).to(tl.float32)
    if state is None:
        x = tl.zeros((1, ROWS, LANES), tl.float32)
    else:
        x = tl.load(state + sequence * s_batch + j * width + n, mask=columns, other=0.0)
        # The new state may lie where this one does: all lanes have read before one writes.
        tl.debug_barrier()
    weights, gate_weight, total = weigh(z, gate, NORMALIZATION, 1)
    h = mix(weights, gate_weight, total, x, value, 1)
    new_at = new_state + sequence * M * width
    read_at = read + sequence * KEPT * width
    tl.store(new_at + in_rows, h, mask=rows)
    tl.store(read_at + in_rows, h.to(read.dtype.element_ty), mask=rows)
    if WINDOW:
        older = (j + 1) * width + n
        tl.store(new_at + older, x, mask=(j + 1 < M) & (n < width))
        tl.store(read_at + older, x.to(read.dtype.element_ty), mask=(j + 1 < KEPT) & (n < width))
