"""What the two loops share: walking over packed sequences, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..precision import state_dtype


class Segment(NamedTuple):
    """One stretch of time that starts from a state of its own."""

    state: int
    start: int
    stop: int


def segments(cu_seqlens: Tensor | None, length: int) -> list[Segment]:
    """The stretches between the boundaries; the whole length (state 0) when there are none."""
    if cu_seqlens is None:
        return [Segment(0, 0, length)]
    bounds = cu_seqlens.tolist()
    return [Segment(i, *pair) for i, pair in enumerate(pairwise(bounds))]


def run_segments(
    step: Callable[[int, Tensor], tuple[Tensor, Tensor]],
    initial_state: Tensor,
    cu_seqlens: Tensor | None,
    values: Tensor,
) -> tuple[Tensor, Tensor]:
    """Walk ``step(t, state) -> (hidden_t, state)`` over every segment; stack outputs and last states."""
    outputs: list[Tensor] = []
    finals: list[Tensor] = []
    for index, start, stop in segments(cu_seqlens, values.shape[1]):
        state = initial_state if cu_seqlens is None else initial_state[index : index + 1]
        for t in range(start, stop):
            hidden, state = step(t, state)
            outputs.append(hidden)
        finals.append(state)
    hidden = torch.stack(outputs, 1).to(values.dtype) if outputs else torch.zeros_like(values)
    final_state = torch.cat(finals) if finals else initial_state
    return hidden, final_state


def start_state(initial_state: Tensor | None, values: Tensor, cu_seqlens: Tensor | None, rows: int) -> Tensor:
    """The state before the first step: the one given, or zeros (S, rows, N)."""
    if initial_state is not None:
        return initial_state
    states = values.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    wide = state_dtype(values.dtype)
    return torch.zeros(states, rows, values.shape[-1], dtype=wide, device=values.device)


def run_segments_backward(
    step: Callable[[int, Tensor], tuple[Tensor, Tensor]],
    grad_final_state: Tensor,
    cu_seqlens: Tensor | None,
    length: int,
) -> tuple[Tensor, Tensor]:
    """Walk ``step(t, carry) -> (u_t, carry)`` back over every segment, from the final states' gradient.

    Returns the derivatives u of every step, (B, T, ...), and what is left for the initial states.
    """
    steps: list[Tensor | None] = [None] * length
    left: list[Tensor] = []
    for index, start, stop in segments(cu_seqlens, length):
        carry = grad_final_state if cu_seqlens is None else grad_final_state[index : index + 1]
        for t in range(stop - 1, start - 1, -1):
            steps[t], carry = step(t, carry)
        left.append(carry)
    return torch.stack([u for u in steps if u is not None], 1), torch.cat(left)
