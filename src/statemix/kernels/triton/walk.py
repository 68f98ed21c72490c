"""How kernels are compiled, and where in the sequences a program is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

_SIZES = ("batch", "steps", "logits_batch", "logits_steps", "parts")


def kernel(function: Callable[..., Any]) -> Any:
    """``triton.jit`` that knows nothing of sizes and alignment.

    So another length compiles nothing anew, and each lane gets one column, whose block or channel it then
    holds whole. Told of the alignment, Triton gives a lane several columns, spreads the blocks over the warp,
    and every step pays for shuffles and barriers.
    """
    names = [name for name in inspect.signature(function).parameters if not name.isupper()]
    sizes = [name for name in names if name in _SIZES]
    return triton.jit(do_not_specialize=sizes, do_not_specialize_on_alignment=names)(function)


@triton.jit
def extent(sequence, cu_seqlens, steps):
    """Batch row, first step and number of steps of a sequence, as 64-bit numbers.

    The first step is one that exists, so that a program may read it even if the sequence has none.
    """
    if cu_seqlens is None:
        batch = sequence
        first = sequence * 0
        length = first + steps
    else:
        batch = sequence * 0
        first = tl.load(cu_seqlens + sequence).to(tl.int64)
        length = tl.load(cu_seqlens + sequence + 1).to(tl.int64) - first
        first = tl.minimum(first, steps - 1)
    return batch, first, length


@triton.jit
def sharers(index, batch, steps, logits_batch, logits_steps, parts):
    """What has the logits that program ``index`` sums for, and which part of it is the program's own.

    Returns the first batch row and step, the number of steps for each row, and the bounds of its terms.
    """
    results = logits_batch.to(tl.int64) * logits_steps
    row = (index // logits_steps) % logits_batch
    step = index % logits_steps
    shared_steps = steps // logits_steps
    terms = (batch // logits_batch).to(tl.int64) * shared_steps
    part = index // results
    return row, step, shared_steps, terms * part // parts, terms * (part + 1) // parts


@triton.jit
def start_of(t, b, sequence_of, cu_seqlens):
    """Number and first step of the sequence that step ``t`` of batch row ``b`` belongs to."""
    if sequence_of is None:
        sequence = b
        first = t * 0
    else:
        sequence = tl.load(sequence_of + t).to(tl.int64)
        first = tl.load(cu_seqlens + sequence).to(tl.int64)
    return sequence, first
