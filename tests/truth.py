"""Independent truths: the recurrences written once more, in float64, step by step, with no code of the package."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def coefficients(logits: Tensor, normalization: str) -> Tensor:
    """Rows of gate logits, along the axis before the last, as coefficients."""
    if normalization == "softmax":
        e = (logits - logits.amax(-2, keepdim=True)).exp()
        return e / e.sum(-2, keepdim=True)
    if normalization == "sigmoid":
        s = torch.sigmoid(logits)
        return s / s.sum(-2, keepdim=True)
    if normalization == "relu":
        r = torch.relu(logits)
        return r / (r.sum(-2, keepdim=True) + 1e-3)
    if normalization == "tanh":
        t = logits.tanh()
        return t / (t.abs().sum(-2, keepdim=True) + 1e-6)
    if normalization == "linear":
        return logits / (logits.abs().sum(-2, keepdim=True) + 1e-6)
    assert normalization == "none"
    return logits


def hidden_of(family: str, c: Tensor, state: Tensor, value: Tensor) -> Tensor:
    """One step: c (M, M+1, N), state (M, N), value (M, N); or c (M+1, N), state newest first, value (N)."""
    if family == "bdlru":
        return torch.einsum("ijn,jn->in", c[:, :-1], state) + c[:, -1] * value
    return torch.einsum("in,in->n", c[:-1], state) + c[-1] * value


def next_state(family: str, state: Tensor, hidden: Tensor) -> Tensor:
    """What the following step starts from."""
    return hidden if family == "bdlru" else torch.cat([hidden[None], state[:-1]])


def scan(family, logits, values, initial=None, *, normalization="softmax", cu_seqlens=None):
    """Hidden and final states of every sequence on its own, differentiable; arguments as the operators take them."""
    B, T = values.shape[:2]
    c = coefficients(logits.double().expand(B, T, *logits.shape[2:]), normalization)
    v = values.double()
    if cu_seqlens is None:
        sequences = [(row, 0, T) for row in range(B)]
    else:
        sequences = [(0, *bounds) for bounds in pairwise(map(int, cu_seqlens))]
    if initial is None:
        initial = torch.zeros(len(sequences), logits.shape[-2] - 1, values.shape[-1])
    hidden, finals = [], []
    for start, (row, first, stop) in zip(initial.double(), sequences, strict=True):
        state, steps = start, [v[row, :0]]
        for t in range(first, stop):
            h = hidden_of(family, c[row, t], state, v[row, t])
            state = next_state(family, state, h)
            steps.append(h[None])
        hidden.append(torch.cat(steps))
        finals.append(state)
    return torch.stack(hidden) if cu_seqlens is None else torch.cat(hidden)[None], torch.stack(finals)


def gradients_at_stored_states(
    family: str,
    z: Tensor,
    v: Tensor,
    initial: Tensor,
    hidden: Tensor,
    grad_hidden: Tensor,
    normalization: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The chain rule through ``hidden`` as it was stored, one step at a time, everything float64."""
    dz, dv, dinitial = torch.zeros_like(z), torch.zeros_like(v), torch.zeros_like(initial)
    for b in range(v.shape[0]):
        states = [initial[b]]
        for t in range(v.shape[1]):
            states.append(next_state(family, states[-1], hidden[b, t]))
        carry = torch.zeros_like(initial[b])
        for t in reversed(range(v.shape[1])):
            inputs = [x.clone().requires_grad_() for x in (z[b, t], states[t], v[b, t])]
            out = hidden_of(family, coefficients(inputs[0], normalization), *inputs[1:])
            after = next_state(family, inputs[1], out)
            total = (out * grad_hidden[b, t]).sum() + (after * carry).sum()
            dz[b, t], carry, dv[b, t] = torch.autograd.grad(total, inputs)
        dinitial[b] = carry
    return dz, dv, dinitial


def relative_error(got: Tensor, want: Tensor) -> float:
    """Norm of the difference over the norm of the truth, in float64; NaN never passes."""
    got, want = got.double(), want.double()
    scale = want.norm().item()
    return (got - want).norm().item() / (scale if scale > 0 else 1.0)
