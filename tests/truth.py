"""Independent truths: the recurrences written once more, in float64, index by index."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def coefficients(logits: Tensor, normalization: str) -> Tensor:
    """One row of logits (last dimension) to one row of coefficients."""
    if normalization == "softmax":
        e = (logits - logits.amax(-1, keepdim=True)).exp()
        return e / e.sum(-1, keepdim=True)
    if normalization == "sigmoid":
        s = 1 / (1 + (-logits).exp())
        return s / s.sum(-1, keepdim=True)
    if normalization == "relu":
        r = logits.clamp(min=0)
        return r / (r.sum(-1, keepdim=True) + 1e-3)
    if normalization == "tanh":
        t = logits.tanh()
        return t / (t.abs().sum(-1, keepdim=True) + 1e-6)
    if normalization == "linear":
        return logits / (logits.abs().sum(-1, keepdim=True) + 1e-6)
    return logits


def pieces(length: int, cu_seqlens) -> list[tuple[int, int]]:
    bounds = [0, length] if cu_seqlens is None else list(map(int, cu_seqlens))
    return list(pairwise(bounds))


def bdlru(logits, values, initial=None, *, normalization="softmax", cu_seqlens=None):
    """h_t = A_t h_{t-1} + b_t v_t for every sequence on its own."""
    B, T, M, N = values.shape
    c = coefficients(logits.double().expand(B, T, -1, -1, -1).transpose(3, 4), normalization)
    sequences = range(B) if cu_seqlens is None else [0] * (len(cu_seqlens) - 1)
    bounds = pieces(T, cu_seqlens) * (B if cu_seqlens is None else 1)
    hidden, finals = [], []
    for state, (row, (start, stop)) in enumerate(zip(sequences, bounds, strict=True)):
        h = torch.zeros(M, N, dtype=torch.float64) if initial is None else initial[state].double()
        steps = []
        for t in range(start, stop):
            a, b = c[row, t, :, :, :M], c[row, t, :, :, M]
            h = torch.einsum("inj,jn->in", a, h) + b * values[row, t].double()
            steps.append(h)
        hidden.append(torch.stack(steps) if steps else torch.zeros(0, M, N, dtype=torch.float64))
        finals.append(h)
    return _join(hidden, cu_seqlens), torch.stack(finals)


def hlru(logits, values, initial=None, *, normalization="softmax", cu_seqlens=None):
    """h_t = sum_i a_i h_{t-i} + a_0 v_t for every sequence on its own."""
    B, T, N = values.shape
    M = logits.shape[2] - 1
    c = coefficients(logits.double().expand(B, T, -1, -1).transpose(2, 3), normalization)
    sequences = range(B) if cu_seqlens is None else [0] * (len(cu_seqlens) - 1)
    bounds = pieces(T, cu_seqlens) * (B if cu_seqlens is None else 1)
    hidden, finals = [], []
    for state, (row, (start, stop)) in enumerate(zip(sequences, bounds, strict=True)):
        window = torch.zeros(M, N, dtype=torch.float64) if initial is None else initial[state].double()
        past = list(window.flip(0))
        for t in range(start, stop):
            new = c[row, t, :, M] * values[row, t].double()
            for lag in range(M):
                new = new + c[row, t, :, lag] * past[-1 - lag]
            past.append(new)
        steps = past[M:]
        hidden.append(torch.stack(steps) if steps else torch.zeros(0, N, dtype=torch.float64))
        finals.append(torch.stack(past[::-1][:M]))
    return _join(hidden, cu_seqlens), torch.stack(finals)


def _join(hidden, cu_seqlens):
    return torch.stack(hidden) if cu_seqlens is None else torch.cat(hidden)[None]


def relative_error(got: Tensor, want: Tensor) -> float:
    """Norm of the difference over the norm of the truth, in float64; NaN never passes."""
    got, want = got.double(), want.double()
    scale = want.norm().item()
    return (got - want).norm().item() / (scale if scale > 0 else 1.0)
