"""H-LRU as a loop: h_t = sum_i a_{i,t} h_{t-i} + a_{0,t} v_t, one scalar state a channel."""

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

    Shapes: gate_logits (#B, #T, M+1, N), values (B, T, N), states (S, M, N), newest first.

    Source: arXiv 2602.12021, higher-order LRU.
    """
    time = values.shape[1]
    order = gate_logits.shape[2] - 1
    coefficients = normalize(gate_logits, 2, normalization)
    lags = coefficients[:, :, :order].expand(-1, time, -1, -1).unbind(1)
    driven = (coefficients[:, :, order] * wide(values)).unbind(1)

    def step(t: int, window: Tensor) -> tuple[Tensor, Tensor]:
        newest = (lags[t] * window).sum(1) + driven[t]
        return newest, torch.cat([newest[:, None], window[:, :-1]], 1)

    start = start_state(initial_state, values, cu_seqlens, gate_logits.shape[2] - 1)
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
    """Gradients of logits, values and initial window, exact for the ``hidden`` that was stored.

    u_t = g_t + sum_i a_{i,t+i} u_{t+i} backwards in time: the carry holds what the last M steps still
    owe to the ones before them. Then the local terms of every channel.
    """
    time = values.shape[1]
    order = gate_logits.shape[2] - 1
    coefficients = normalize(gate_logits, 2, normalization)
    lags = coefficients[:, :, :order].expand(-1, time, -1, -1).unbind(1)
    gradients = None if grad_hidden is None else wide(grad_hidden).unbind(1)
    start = start_state(initial_state, values, cu_seqlens, order)

    def step(t: int, carry: Tensor) -> tuple[Tensor, Tensor]:
        u = carry[:, 0] if gradients is None else gradients[t] + carry[:, 0]
        moved = torch.cat([carry[:, 1:], torch.zeros_like(carry[:, :1])], 1)
        return u, moved + lags[t] * u[:, None]

    final = torch.zeros_like(start) if grad_final_state is None else grad_final_state
    u, grad_initial = run_segments_backward(step, final, cu_seqlens, time)

    windows = []
    for index, first, stop in segments(cu_seqlens, time):
        window = start if cu_seqlens is None else start[index : index + 1]
        for t in range(first, stop):
            windows.append(window)
            window = torch.cat([wide(hidden[:, t, None]), window[:, :-1]], 1)
    mixed = torch.cat([torch.stack(windows, 1), wide(values)[:, :, None]], 2)
    out = (coefficients * mixed).sum(2, keepdim=True)
    grad_logits = row_gradient(gate_logits, mixed, out, u[:, :, None], 2, normalization)
    grad_values = u * coefficients[:, :, order]
    return sum_to_shape(grad_logits, gate_logits), grad_values.to(values.dtype), grad_initial
