"""Where a program is: which sequence it walks over, which terms of a sum are its own."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def extent(sequence, cu_seqlens, steps):
    """Batch row, first step and number of steps of a sequence, as 64-bit numbers."""
    if cu_seqlens is None:
        batch = sequence
        first = sequence * 0
        length = first + steps
    else:
        batch = sequence * 0
        first = tl.load(cu_seqlens + sequence).to(tl.int64)
        length = tl.load(cu_seqlens + sequence + 1).to(tl.int64) - first
    return batch, first, length


@triton.jit
def shared_terms(result, batch, steps, logits_batch, logits_steps):
    """The batch rows and steps that share the logits of number ``result``: first row, first step, rows, steps."""
    row = (result // logits_steps) % logits_batch
    step = result % logits_steps
    return row, step, batch // logits_batch, steps // logits_steps


@triton.jit
def start_of(t, b, sequence_of, cu_seqlens):
    """Sequence and first step of the sequence that step ``t`` of batch row ``b`` belongs to."""
    if sequence_of is None:
        sequence = b
        first = t * 0
    else:
        sequence = tl.load(sequence_of + t).to(tl.int64)
        first = tl.load(cu_seqlens + sequence).to(tl.int64)
    return sequence, first
