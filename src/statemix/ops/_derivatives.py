"""Pieces of the derivative formulas that both families need, in differentiable operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from statemix.kernels.reference.normalization import normalize


def vjp(function: Callable[..., Any], *primals: Tensor) -> tuple[Any, Callable[..., Any]]:
    """``torch.func.vjp`` with the type that it has when nothing auxiliary is returned."""
    return cast(tuple[Any, Callable[..., Any]], torch.func.vjp(function, *primals))


def normalize_tangent(
    gate_logits: Tensor, d_logits: Tensor, dim: int, normalization: str
) -> tuple[Tensor, Tensor]:
    """Coefficients, and their derivative along ``d_logits``, by reverse mode alone.

    The pull-back is linear in its cotangent, so pulling back through it gives the push-forward.
    Forward mode itself cannot be nested, and this runs inside of it.
    """
    coefficients, pull = vjp(lambda z: normalize(z, dim, normalization), gate_logits)
    _, push = vjp(lambda cotangent: pull(cotangent)[0], torch.zeros_like(coefficients))
    return coefficients, push(d_logits)[0]


@dataclass(frozen=True)
class Layout:
    """Where the sequences lie in time: a batch of equal ones, or one row of packed ones.

    start, end, state: for each step, the bounds of its sequence and the state it belongs to, (T,).
    first, length: for each state, its first step and number of steps, (S,).
    """

    start: Tensor
    end: Tensor
    state: Tensor
    first: Tensor
    length: Tensor
    packed: bool

    @classmethod
    def of(cls, values: Tensor, cu_seqlens: Tensor | None) -> Layout:
        batch, time = values.shape[:2]
        device = values.device
        if cu_seqlens is None:
            zeros = torch.zeros(time, dtype=torch.long, device=device)
            lengths = torch.full((batch,), time, dtype=torch.long, device=device)
            return cls(zeros, zeros + time, zeros, torch.zeros_like(lengths), lengths, packed=False)
        bounds = cu_seqlens.long()
        # Under vmap with bounds of their own the search wants both dense, or copies them and warns. The first
        # bound is 0: adding it gives each of them its own steps.
        steps = torch.arange(time, device=device) + bounds[0]
        state = torch.searchsorted(bounds[1:].clone(), steps, right=True)
        return cls(
            bounds[state], bounds[state + 1], state, bounds[:-1], bounds[1:] - bounds[:-1], packed=True
        )

    @property
    def steps(self) -> Tensor:
        return torch.arange(self.start.shape[0], device=self.start.device)

    def of_state(self, states: Tensor, row: Tensor) -> Tensor:
        """Row ``row[t]`` of the state that step t belongs to: (S, M, N) -> (B, T, N)."""
        if self.packed:
            return states[self.state, row][None]
        return states[:, row]

    def at(self, sequence: Tensor, offset: int) -> tuple[Tensor, Tensor]:
        """The step ``offset`` after each sequence's first, (B, T, ...) -> (S, ...), and whether it exists."""
        exists = (self.length > offset).view(-1, *[1] * (sequence.dim() - 2))
        if sequence.shape[1] == 0:  # no step to take: none exists, and nothing is looked up
            return sequence.new_zeros(self.length.shape[0], *sequence.shape[2:]), exists
        if self.packed:
            index = (self.first + offset).clamp(max=sequence.shape[1] - 1)
            return sequence[0, index], exists
        return sequence[:, min(offset, sequence.shape[1] - 1)], exists


def along_time(mask: Tensor, dims: int) -> Tensor:
    """A (T,) mask shaped to broadcast against a tensor (B, T, ...) of ``dims`` dimensions."""
    return mask.view(1, -1, *[1] * (dims - 2))


def reverse_boundaries(cu_seqlens: Tensor | None) -> Tensor | None:
    """The boundaries of the same sequences when time runs backwards."""
    return None if cu_seqlens is None else (cu_seqlens[-1] - cu_seqlens).flip(0)
