"""The recurrences and their gradients as loops in float64, independent of the package's own reference.

Gradients are those of the states that forward stored: backward of the kernels starts from them too.
"""

import itertools

import torch


def coefficients(logits, normalization):
    """Normalized gates over the axis before the last."""
    z = logits
    if normalization == "none":
        return z
    if normalization == "softmax":
        return torch.softmax(z, -2)
    if normalization == "sigmoid":
        return torch.softmax(torch.nn.functional.logsigmoid(z), -2)
    if normalization == "relu":
        return torch.relu(z) / (torch.relu(z).sum(-2, keepdim=True) + 1e-3)
    phi = torch.tanh(z) if normalization == "tanh" else z
    return phi / (phi.abs().sum(-2, keepdim=True) + 1e-6)


def _sequences(values, cu_seqlens):
    """(batch slice, time slice, state slice) of each sequence."""
    if cu_seqlens is None:
        everything = slice(None)
        return [(everything, everything, everything)]
    ends = cu_seqlens.tolist()
    return [(slice(None), slice(a, b), slice(i, i + 1)) for i, (a, b) in enumerate(itertools.pairwise(ends))]


def _step(family, a, b, v, state):
    if family == "bdlru":
        return (a * state.unsqueeze(1)).sum(2) + b * v
    new = (a * state).sum(1) + b * v
    return torch.cat([new.unsqueeze(1), state[:, :-1]], 1)


def forward(family, gate_logits, values, initial_state, cu_seqlens, normalization):
    """hidden and final_state in float64."""
    m, width = gate_logits.shape[-2] - 1, values.shape[-1]
    p = coefficients(gate_logits.double(), normalization)
    p = p.expand(*values.shape[:2], *p.shape[2:])
    v = values.double()
    count = values.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    final = torch.zeros(count, m, width, dtype=torch.float64, device=values.device)
    if initial_state is not None:
        final += initial_state.double()
    hidden = torch.zeros_like(v)
    for batch, time, which in _sequences(values, cu_seqlens):
        a, b, x = (
            p[batch, time, ..., :m, :].unbind(1),
            p[batch, time, ..., m, :].unbind(1),
            v[batch, time].unbind(1),
        )
        state, out = final[which].clone(), []
        for t in range(len(x)):
            state = _step(family, a[t], b[t], x[t], state)
            out.append(state if family == "bdlru" else state[:, 0])
        final[which] = state
        if out:
            hidden[batch, time] = torch.stack(out, 1)
    return hidden, final


def backward(
    family,
    gate_logits,
    values,
    initial_state,
    cu_seqlens,
    hidden,
    grad_hidden,
    grad_final_state,
    normalization,
):
    """Gradients of logits (in their shape), values and initial state, in float64."""
    m = gate_logits.shape[-2] - 1
    z = gate_logits.double().requires_grad_()
    p = coefficients(z, normalization)
    p = p.expand(*values.shape[:2], *p.shape[2:])
    v, h = values.double(), hidden.double()
    g = torch.zeros_like(v) if grad_hidden is None else grad_hidden.double()
    count = values.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    zeros = torch.zeros(count, m, values.shape[-1], dtype=torch.float64, device=values.device)
    start = zeros if initial_state is None else initial_state.double()
    carry_all = zeros.clone() if grad_final_state is None else grad_final_state.double().clone()
    u = torch.zeros_like(v)
    x = torch.zeros(*v.shape[:2], m, v.shape[-1], dtype=torch.float64, device=v.device)
    with torch.no_grad():
        for batch, time, which in _sequences(values, cu_seqlens):
            a, gs, hs = (
                p[batch, time, ..., :m, :].unbind(1),
                g[batch, time].unbind(1),
                h[batch, time].unbind(1),
            )
            carry, us, xs, state = carry_all[which], [], [], start[which]
            for t in reversed(range(len(gs))):
                if family == "bdlru":
                    us.append(gs[t] + carry)
                    carry = (a[t] * us[-1].unsqueeze(2)).sum(1)
                else:
                    us.append(gs[t] + carry[:, 0])
                    carry = torch.cat([carry[:, 1:], torch.zeros_like(carry[:, :1])], 1)
                    carry = carry + a[t] * us[-1].unsqueeze(1)
            carry_all[which] = carry
            for t in range(len(gs)):
                xs.append(state)
                state = hs[t] if family == "bdlru" else torch.cat([hs[t].unsqueeze(1), state[:, :-1]], 1)
            if us:
                u[batch, time] = torch.stack(us[::-1], 1)
                x[batch, time] = torch.stack(xs, 1)
    if family == "bdlru":
        new = (p[..., :m, :] * x.unsqueeze(2)).sum(3) + p[..., m, :] * v
    else:
        new = (p[..., :m, :] * x).sum(2) + p[..., m, :] * v
    (dz,) = torch.autograd.grad((u * new).sum(), z)
    return dz, u * p[..., m, :].detach(), carry_all


def relative_error(actual, expected):
    """Norm of the difference over the norm of what is expected, in float64; infinite where anything is not finite."""
    if actual.shape != expected.shape or not torch.isfinite(actual).all():
        return float("inf")
    scale = expected.norm().item()
    return (actual.double() - expected).norm().item() / scale if scale else actual.double().norm().item()
