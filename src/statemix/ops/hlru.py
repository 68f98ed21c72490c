"""``hlru_scan``: mixing over the last M states of a channel."""

from __future__ import annotations

import torch
from torch import Tensor

from statemix.kernels.precision import wide
from statemix.kernels.reference.normalization import normalize
from statemix.shapes import Boundaries, GateLogitsH, State, ValuesH

from ._derivatives import Layout, along_time, normalize_tangent, reverse_boundaries, vjp
from .checks import check_scan
from .dispatch import resolve_backend
from .registration import Formulas, register_scan


def hlru_scan(
    gate_logits: GateLogitsH,
    values: ValuesH,
    initial_state: State | None = None,
    *,
    normalization: str = "softmax",
    cu_seqlens: Boundaries | None = None,
    backend: str = "auto",
) -> tuple[ValuesH, State]:
    """Run h_t = sum_i a_{i,t} h_{t-i} + a_{0,t} v_t over time, gates normalised on the way.

    Args:
        gate_logits: (#B, #T, M+1, N); lags 1 to M, then the input gate. Sizes of 1 are broadcast over
            batch or time, and get their gradient in that shape.
        values: (B, T, N), of the dtype of the logits: float32, bfloat16, float16 or float64.
        initial_state: (B, M, N), the window before the first step, newest first; (num_sequences, M, N)
            with ``cu_seqlens``; float32 (float64 for float64 inputs). Zeros when left out.
        normalization: "softmax", "sigmoid", "relu", "tanh", "linear" or "none".
        cu_seqlens: (num_sequences + 1,) int32, the cumulative lengths of sequences that lie one after
            the other in a batch of 1. No state crosses a boundary.
        backend: "auto", "reference", "cpu", "cuda" or "triton".

    Returns:
        hidden (B, T, N) in the dtype of values, and final_state (S, M, N), the window after the last
        step, newest first. Both carry gradients.

    Raises:
        ValueError, TypeError: inputs that do not fit, or an explicit backend that cannot run.

    Examples:
        >>> logits, values = torch.randn(2, 16, 4, 8), torch.randn(2, 16, 8)
        >>> hidden, state = hlru_scan(logits, values)
        >>> hidden.shape, state.shape
        (torch.Size([2, 16, 8]), torch.Size([2, 3, 8]))

    Source: arXiv 2602.12021, higher-order LRU; bounded by its proposition 1.
    """
    check_scan("hlru_scan", gate_logits, values, initial_state, normalization, cu_seqlens, in_blocks=False)
    order = gate_logits.shape[2] - 1
    chosen = resolve_backend("hlru_scan", backend, values.device, "hlru", order, values.dtype)
    return _scan(gate_logits, values, initial_state, cu_seqlens, normalization, chosen)


def shifted_windows(
    hidden: Tensor, initial_state: Tensor | None, order: int, cu_seqlens: Tensor | None = None
) -> Tensor:
    """The window of every step before it acts: (B, T, N) -> (B, T, M, N), row i is h_{t-1-i}.

    Across a start the rows come from the initial state; they are selected, never added.
    """
    if cu_seqlens is None:
        batch, time, channels = hidden.shape
        if initial_state is None:
            before = hidden.new_zeros(batch, order, channels)
        else:
            before = initial_state[:, :order].flip(1).to(hidden.dtype)
        history = torch.cat([before, hidden], 1)
        return torch.stack([history[:, order - 1 - lag :][:, :time] for lag in range(order)], 2)
    layout = Layout.of(hidden, cu_seqlens)
    rows = []
    for lag in range(order):
        position = layout.steps - 1 - lag
        inside = along_time(position >= layout.start, hidden.dim())
        past = hidden[:, position.clamp(min=0)]
        if initial_state is None:
            rows.append(past.masked_fill(~inside, 0.0))
        else:
            row = (lag - (layout.steps - layout.start)).clamp(min=0)
            rows.append(torch.where(inside, past, layout.of_state(initial_state, row).to(past.dtype)))
    return torch.stack(rows, 2)


def _step(coefficients: Tensor, window: Tensor, values: Tensor) -> Tensor:
    """One step from given windows: what a channel makes of what it mixes."""
    order = window.shape[2]
    return (coefficients[:, :, :order] * window).sum(2) + coefficients[:, :, order] * values


def _as_logits(lags: Tensor) -> Tensor:
    """Gates for ``normalization="none"``: these lags, and the input as it is."""
    return torch.cat([lags, torch.ones_like(lags[:, :, :1])], 2)


def _tangent(
    gate_logits, values, initial_state, cu_seqlens, hidden, d_logits, d_values, d_initial,
    normalization, backend,
):  # fmt: skip
    """The derivative runs through the same lags, driven by what the gates and values change."""
    order = gate_logits.shape[2] - 1
    window = shifted_windows(wide(hidden), initial_state, order, cu_seqlens)
    if d_logits is None:
        coefficients = normalize(gate_logits, 2, normalization)
        drive = torch.zeros_like(window[:, :, 0])
    else:
        coefficients, slope = normalize_tangent(gate_logits, d_logits, 2, normalization)
        drive = _step(slope, window, wide(values))
    if d_values is not None:
        drive = drive + coefficients[:, :, order] * wide(d_values)
    d_hidden, d_final = hlru_scan(
        _as_logits(coefficients[:, :, :order]), drive, d_initial,
        normalization="none", cu_seqlens=cu_seqlens, backend=backend,
    )  # fmt: skip
    return d_hidden.to(values.dtype), d_final


def _gradients(
    gate_logits, values, initial_state, cu_seqlens, hidden, grad_hidden, grad_final_state,
    normalization, backend,
):  # fmt: skip
    """u_t = g_t + sum_i a_{i,t+i} u_{t+i} backwards in time, then the local terms of every step."""
    layout = Layout.of(values, cu_seqlens)
    order, time = gate_logits.shape[2] - 1, values.shape[1]
    window = shifted_windows(wide(hidden), initial_state, order, cu_seqlens)
    coefficients = normalize(gate_logits, 2, normalization)
    lags = coefficients[:, :, :order].expand(-1, time, -1, -1)
    gradient = torch.zeros_like(window[:, :, 0]) if grad_hidden is None else wide(grad_hidden)
    if grad_final_state is not None:
        gradient = gradient + _entering(grad_final_state, layout)
    ahead = []
    for lag in range(order):
        position = layout.steps + 1 + lag
        inside = along_time(position < layout.end, 3)
        ahead.append(torch.where(inside, lags[:, position.clamp(max=time - 1), lag], 0.0))
    u, _ = hlru_scan(
        _as_logits(torch.stack(ahead, 2).flip(1)), gradient.flip(1), None,
        normalization="none", cu_seqlens=reverse_boundaries(cu_seqlens), backend=backend,
    )  # fmt: skip
    u = u.flip(1)

    def local(logits: Tensor, inputs: Tensor) -> Tensor:
        return _step(normalize(logits, 2, normalization), window, wide(inputs))

    _, pull = vjp(local, gate_logits, values)
    grad_logits, grad_values = pull(u)
    return grad_logits, grad_values, _leaving(lags, u, grad_final_state, layout)


def _entering(grad_final_state: Tensor, layout: Layout) -> Tensor:
    """The final window's gradient at the steps that the window holds, (S, M, N) -> (B, T, N)."""
    row = layout.end - 1 - layout.steps
    held = along_time(row < grad_final_state.shape[1], 3)
    rows = layout.of_state(grad_final_state, row.clamp(max=grad_final_state.shape[1] - 1))
    return torch.where(held, rows, 0.0)


def _leaving(lags: Tensor, u: Tensor, grad_final_state: Tensor | None, layout: Layout) -> Tensor:
    """The initial window's gradient: what its rows gave to the first steps, and to a short final window."""
    order = lags.shape[2]
    rows = []
    for row in range(order):
        terms = []
        for lag in range(row, order):
            lag_there, exists = layout.at(lags[:, :, lag], lag - row)
            terms.append(torch.where(exists, lag_there * layout.at(u, lag - row)[0], 0.0))
        total = torch.stack(terms).sum(0)
        if grad_final_state is not None:
            # A sequence shorter than the window leaves rows of the initial one standing, moved down.
            source = row + layout.length
            index = source.clamp(max=order - 1)[:, None, None].expand(-1, 1, u.shape[-1])
            moved = grad_final_state.gather(1, index)[:, 0]
            total = total + torch.where((source < order)[:, None], moved, 0.0)
        rows.append(total)
    return torch.stack(rows, 1)


_scan = register_scan("hlru", Formulas(tangent=_tangent, gradients=_gradients))
