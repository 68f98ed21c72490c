"""Both families' forward and backward: memory, plan, launch. The families differ in their kernels alone.

A BD-LRU has M rows of logits and values a step, an H-LRU one: what the kernels are told of that are strides.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..precision import state_dtype
from ._dtypes import TAGS
from ._layout import as_rows, byte_strides, gate_gradient, rows_or_zeros, state_strides, unrolled
from ._memory import new_tensor
from ._normalization import CODES
from ._plan import make_plan
from ._threads import run


def forward(
    kernel: Any,
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    normalization: str,
) -> tuple[Tensor, Tensor]:
    """Run a family's forward; shapes as in ``bdlru.forward`` and ``hlru.forward``."""
    size = gate_logits.shape[-2] - 1
    z, v = as_rows(gate_logits), as_rows(values)
    start = None if initial_state is None else as_rows(initial_state)
    plan = make_plan(values.shape, math.prod(gate_logits.shape[2:-1]), cu_seqlens)
    hidden = new_tensor(values.shape, values.dtype)
    final = new_tensor((plan.states, size, values.shape[-1]), state_dtype(values.dtype))
    arguments = (
        unrolled(size), TAGS[values.dtype], CODES[normalization], size, plan.segments,
        *byte_strides(z, values.shape), *byte_strides(v), *byte_strides(hidden),
        *state_strides(start), *byte_strides(final),
    )  # fmt: skip
    run(kernel, arguments, plan, (z, v, start, hidden, final))
    return hidden, final


def backward(
    kernel: Any,
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    hidden: Tensor,
    grad_hidden: Tensor | None,
    grad_final_state: Tensor | None,
    normalization: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a family's backward; shapes as in ``bdlru.backward`` and ``hlru.backward``."""
    size = gate_logits.shape[-2] - 1
    z, v, h = as_rows(gate_logits), as_rows(values), as_rows(hidden)
    start = None if initial_state is None else as_rows(initial_state)
    dh = rows_or_zeros(grad_hidden, values)
    dfinal = None if grad_final_state is None else as_rows(grad_final_state)
    dz = gate_gradient(gate_logits, values, values.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1)
    # Logits are read, and their gradients written.
    plan = make_plan(values.shape, 2 * math.prod(gate_logits.shape[2:-1]), cu_seqlens, dz.sums)
    dv = new_tensor(values.shape, values.dtype)
    dinitial = new_tensor((plan.states, size, values.shape[-1]), state_dtype(values.dtype))
    arguments = (
        unrolled(size), TAGS[values.dtype], CODES[normalization], size, plan.segments,
        *byte_strides(z, values.shape), *byte_strides(v), *byte_strides(h), *byte_strides(dh),
        *state_strides(start), *state_strides(dfinal),
        dz.adds, *dz.strides, *byte_strides(dv), *byte_strides(dinitial),
    )  # fmt: skip
    run(kernel, arguments, plan, (z, v, h, dh, start, dfinal, dz.target, dv, dinitial))
    return dz.finish(), dv, dinitial
