"""Inputs for operator tests: families, backends, and shapes that hypothesis draws."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from hypothesis import strategies as st
from torch import Tensor

from statemix import bdlru_scan, hlru_scan
from tests import truth

OPERATORS = {"bdlru": bdlru_scan, "hlru": hlru_scan}
FAMILIES = ("bdlru", "hlru")
TRUTHS = {family: partial(truth.scan, family) for family in FAMILIES}
BACKENDS = ("reference", "cpu")
NORMALIZATIONS = ("softmax", "sigmoid", "relu", "tanh", "linear", "none")


@dataclass(frozen=True)
class Shape:
    """B, T, M, N; ``lengths`` packs sequences; ``gates`` says which of batch and time are broadcast."""

    B: int
    T: int
    M: int
    N: int
    lengths: tuple[int, ...] | None = None
    gates: tuple[bool, bool] = (False, False)

    @property
    def cu_seqlens(self) -> Tensor | None:
        if self.lengths is None:
            return None
        return torch.tensor([0, *self.lengths]).cumsum(0).to(torch.int32)

    @property
    def states(self) -> int:
        return self.B if self.lengths is None else len(self.lengths)


@st.composite
def shapes(draw) -> Shape:
    M = draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8]))
    N = draw(st.sampled_from([1, 3, 8, 31, 33]))
    gates = draw(
        st.sampled_from([(False, False), (False, False), (True, True), (True, False), (False, True)])
    )
    if draw(st.booleans()):
        lengths = tuple(draw(st.lists(st.integers(0, 9), min_size=1, max_size=6)))
        return (
            Shape(1, sum(lengths), M, N, lengths, gates) if sum(lengths) else Shape(1, 5, M, N, (0, 5), gates)
        )
    return Shape(draw(st.integers(1, 3)), draw(st.integers(1, 40)), M, N, None, gates)


def inputs(
    family: str,
    shape: Shape,
    dtype: torch.dtype = torch.float64,
    *,
    scale: float = 2.0,
    state: bool = True,
    seed: int = 0,
    grad: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, values and initial state drawn from a normal distribution."""
    g = torch.Generator().manual_seed(seed)
    B, T, M, N = shape.B, shape.T, shape.M, shape.N
    gb, gt = (1 if shape.gates[0] else B), (1 if shape.gates[1] else T)
    rows = (M,) if family == "bdlru" else ()

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    logits = (draw(gb, gt, *rows, M + 1, N) * scale).to(dtype)
    values = draw(B, T, *rows, N).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    initial = draw(shape.states, M, N).to(wide) if state else None
    found = (logits, values, initial)
    return tuple(None if x is None else x.requires_grad_(grad) for x in found)  # type: ignore[return-value]
