"""The recurrences once more, in float64 and as slowly as they are defined, with no code of the package."""

from __future__ import annotations

import torch
from torch import Tensor


def coefficients(logits: Tensor, dim: int, normalization: str) -> Tensor:
    """Rows of gate logits as coefficients."""
    if normalization == "softmax":
        return torch.softmax(logits, dim)
    if normalization == "sigmoid":
        return torch.softmax(torch.nn.functional.logsigmoid(logits), dim)
    if normalization == "relu":
        positive = torch.relu(logits)
        return positive / (positive.sum(dim, keepdim=True) + 1e-3)
    if normalization == "tanh":
        signed = torch.tanh(logits)
        return signed / (signed.abs().sum(dim, keepdim=True) + 1e-6)
    if normalization == "linear":
        return logits / (logits.abs().sum(dim, keepdim=True) + 1e-6)
    assert normalization == "none"
    return logits


def one_step(family: str, z: Tensor, state: Tensor, value: Tensor, normalization: str) -> Tensor:
    """The new hidden state from one step's logits, the state before it and the value."""
    if family == "bdlru":  # z (M, M+1, N), state (M, N), value (M, N)
        c = coefficients(z, 1, normalization)
        return torch.stack([(c[i, :-1] * state).sum(0) + c[i, -1] * value[i] for i in range(len(state))])
    c = coefficients(z, 0, normalization)  # z (M+1, N), state (M, N) newest first, value (N)
    return (c[:-1] * state).sum(0) + c[-1] * value


def next_state(family: str, state: Tensor, hidden: Tensor) -> Tensor:
    """What the following step starts from."""
    return hidden if family == "bdlru" else torch.cat([hidden[None], state[:-1]])


def segments(batch: int, time: int, cu_seqlens: Tensor | None) -> list[tuple[int, int, int, int]]:
    """(state, batch row, start, stop) of every stretch of time."""
    if cu_seqlens is None:
        return [(b, b, 0, time) for b in range(batch)]
    bounds = cu_seqlens.tolist()
    return [(s, 0, bounds[s], bounds[s + 1]) for s in range(len(bounds) - 1)]


def run(
    family: str, z: Tensor, v: Tensor, initial: Tensor, cu_seqlens: Tensor | None, normalization: str
) -> tuple[Tensor, Tensor]:
    """Hidden and final states, differentiable."""
    batch, time = v.shape[:2]
    z = z.expand(batch, time, *z.shape[2:])
    outputs: dict[tuple[int, int], Tensor] = {}
    finals = []
    for s, b, start, stop in segments(batch, time, cu_seqlens):
        state = initial[s]
        for t in range(start, stop):
            hidden = one_step(family, z[b, t], state, v[b, t], normalization)
            outputs[b, t] = hidden
            state = next_state(family, state, hidden)
        finals.append(state)
    hidden = torch.stack([torch.stack([outputs[b, t] for t in range(time)]) for b in range(batch)])
    return hidden, torch.stack(finals)


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
            out = one_step(family, *inputs, normalization)
            after = next_state(family, inputs[1], out)
            total = (out * grad_hidden[b, t]).sum() + (after * carry).sum()
            dz[b, t], carry, dv[b, t] = torch.autograd.grad(total, inputs)
        dinitial[b] = carry
    return dz, dv, dinitial


def error(got: Tensor, want: Tensor) -> float:
    """Norm of the difference over the norm of the truth."""
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm().clamp_min(1e-30))
