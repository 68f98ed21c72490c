"""BD-LRU as a loop: h_t = A_t h_{t-1} + b_t * v_t, with a dense A_t for every block."""

from __future__ import annotations

import torch
from torch import Tensor

from ..precision import wide
from ._loop import run_segments, run_segments_backward, segments, start_state
from .normalization import normalize, row_gradient, sum_to_shape


def forward(
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    normalization: str,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence; differentiable to any order by autograd.

    Shapes: gate_logits (#B, #T, M, M+1, N), values (B, T, M, N), states (S, M, N).

    Source: arXiv 2602.12021, block diagonal LRU.
    """
    _, time, block_size, _ = values.shape
    coefficients = normalize(gate_logits, 3, normalization)
    # unbind, never [:, t]: the backward of an index writes a whole tensor of zeros for each step.
    transition = coefficients[:, :, :, :block_size].expand(-1, time, -1, -1, -1).unbind(1)
    driven = (coefficients[:, :, :, block_size] * wide(values)).unbind(1)

    def step(t: int, state: Tensor) -> tuple[Tensor, Tensor]:
        state = (transition[t] * state[:, None]).sum(2) + driven[t]
        return state, state

    start = start_state(initial_state, values, cu_seqlens, block_size)
    return run_segments(step, start, cu_seqlens, values)


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

    u_{t-1} = g_{t-1} + A_t^T u_t backwards in time, then the local terms of every row. The output of a
    row is computed again from the stored states, since h_t rounded to half precision would cancel.
    """
    _, time, block_size, _ = values.shape
    coefficients = normalize(gate_logits, 3, normalization)
    transition = coefficients[:, :, :, :block_size].expand(-1, time, -1, -1, -1).unbind(1)
    gradients = None if grad_hidden is None else wide(grad_hidden).unbind(1)
    start = start_state(initial_state, values, cu_seqlens, block_size)

    def step(t: int, carry: Tensor) -> tuple[Tensor, Tensor]:
        u = carry if gradients is None else gradients[t] + carry
        return u, (transition[t] * u[:, :, None]).sum(1)

    final = torch.zeros_like(start) if grad_final_state is None else grad_final_state
    u, grad_initial = run_segments_backward(step, final, cu_seqlens, time)

    previous = wide(hidden).roll(1, 1)
    for index, first, stop in segments(cu_seqlens, time):
        if stop > first:
            previous[:, first] = start if cu_seqlens is None else start[index]
    mixed = torch.cat(
        [previous[:, :, None].expand(-1, -1, block_size, -1, -1), wide(values)[:, :, :, None]], 3
    )
    out = (coefficients * mixed).sum(3, keepdim=True)
    grad_logits = row_gradient(gate_logits, mixed, out, u[:, :, :, None], 3, normalization)
    grad_values = u * coefficients[:, :, :, block_size]
    return sum_to_shape(grad_logits, gate_logits), grad_values.to(values.dtype), grad_initial
