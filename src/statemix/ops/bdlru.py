"""``bdlru_scan``: dense mixing inside small blocks of channels."""

from __future__ import annotations

import torch
from torch import Tensor

from statemix.kernels.precision import wide
from statemix.kernels.reference.normalization import normalize
from statemix.shapes import Boundaries, GateLogitsBD, State, ValuesBD

from ._derivatives import Layout, along_time, normalize_tangent, reverse_boundaries, vjp
from .checks import check_scan
from .dispatch import resolve_backend
from .registration import Formulas, register_scan


def bdlru_scan(
    gate_logits: GateLogitsBD,
    values: ValuesBD,
    initial_state: State | None = None,
    *,
    normalization: str = "softmax",
    cu_seqlens: Boundaries | None = None,
    backend: str = "auto",
) -> tuple[ValuesBD, State]:
    """Run h_t[i] = sum_j a_t[i, j] h_{t-1}[j] + b_t[i] v_t[i] over time, gates normalised on the way.

    Args:
        gate_logits: (#B, #T, M, M+1, N); row i of block n holds M state logits, then the input gate.
            Sizes of 1 are broadcast over batch or time, and get their gradient in that shape.
        values: (B, T, M, N), of the dtype of the logits: float32, bfloat16, float16 or float64.
        initial_state: (B, M, N), or (num_sequences, M, N) with ``cu_seqlens``; float32 (float64 for
            float64 inputs). Zeros when left out.
        normalization: "softmax", "sigmoid", "relu", "tanh", "linear" or "none".
        cu_seqlens: (num_sequences + 1,) int32, the cumulative lengths of sequences that lie one after
            the other in a batch of 1. No state crosses a boundary.
        backend: "auto", "reference", "cpu", "cuda" or "triton".

    Returns:
        hidden (B, T, M, N) in the dtype of values, and final_state, which is like initial_state. Both
        carry gradients.

    Raises:
        ValueError, TypeError: inputs that do not fit, or an explicit backend that cannot run.

    Examples:
        >>> logits, values = torch.randn(2, 16, 3, 4, 8), torch.randn(2, 16, 3, 8)
        >>> hidden, state = bdlru_scan(logits, values)
        >>> hidden.shape, state.shape
        (torch.Size([2, 16, 3, 8]), torch.Size([2, 3, 8]))

    Source: arXiv 2602.12021, block diagonal LRU; bounded by its proposition 1.
    """
    check_scan("bdlru_scan", gate_logits, values, initial_state, normalization, cu_seqlens, in_blocks=True)
    chosen = resolve_backend("bdlru_scan", backend, values.device, "bdlru", values.shape[2], values.dtype)
    return _scan(gate_logits, values, initial_state, cu_seqlens, normalization, chosen)


def _previous(hidden: Tensor, initial_state: Tensor | None, layout: Layout) -> Tensor:
    """h_{t-1} of every step, (B, T, M, N): selected from the initial state where a sequence starts."""
    shifted = torch.cat([torch.zeros_like(hidden[:, :1]), hidden[:, :-1]], 1)
    at_start = along_time(layout.steps == layout.start, hidden.dim())
    if initial_state is None:
        return shifted.masked_fill(at_start, 0.0)
    first = initial_state[layout.state][None] if layout.packed else initial_state[:, None]
    return torch.where(at_start, first, shifted)


def _step(coefficients: Tensor, previous: Tensor, values: Tensor) -> Tensor:
    """One step from given states: what a row makes of what it mixes."""
    size = values.shape[2]
    mixed = (coefficients[:, :, :, :size] * previous[:, :, None]).sum(3)
    return mixed + coefficients[:, :, :, size] * values


def _as_logits(transition: Tensor) -> Tensor:
    """Gates for ``normalization="none"``: this transition, and the input as it is."""
    return torch.cat([transition, torch.ones_like(transition[:, :, :, :1])], 3)


def _tangent(
    gate_logits, values, initial_state, cu_seqlens, hidden, d_logits, d_values, d_initial,
    normalization, backend,
):  # fmt: skip
    """dh_t = A_t dh_{t-1} + dA_t h_{t-1} + d(b_t v_t): a scan with the same transitions."""
    layout = Layout.of(values, cu_seqlens)
    size = values.shape[2]
    previous = _previous(wide(hidden), initial_state, layout)
    if d_logits is None:
        coefficients = normalize(gate_logits, 3, normalization)
        drive = torch.zeros_like(previous)
    else:
        coefficients, slope = normalize_tangent(gate_logits, d_logits, 3, normalization)
        drive = _step(slope, previous, wide(values))
    if d_values is not None:
        drive = drive + coefficients[:, :, :, size] * wide(d_values)
    transition = coefficients[:, :, :, :size].contiguous()
    d_hidden, d_final = bdlru_scan(
        _as_logits(transition), drive, d_initial,
        normalization="none", cu_seqlens=cu_seqlens, backend=backend,
    )  # fmt: skip
    return d_hidden.to(values.dtype), d_final


def _gradients(
    gate_logits, values, initial_state, cu_seqlens, hidden, grad_hidden, grad_final_state,
    normalization, backend,
):  # fmt: skip
    """u_{t-1} = g_{t-1} + A_t^T u_t backwards in time, then the local terms of every step."""
    layout = Layout.of(values, cu_seqlens)
    size, time = values.shape[2], values.shape[1]
    previous = _previous(wide(hidden), initial_state, layout)
    gradient = torch.zeros_like(previous) if grad_hidden is None else wide(grad_hidden)
    coefficients = normalize(gate_logits, 3, normalization)
    transposed = coefficients[:, :, :, :size].transpose(2, 3).expand(-1, time, -1, -1, -1)
    identity = torch.eye(size, dtype=transposed.dtype, device=values.device)[None, None, :, :, None]
    following = torch.cat([transposed[:, 1:], transposed[:, :1]], 1)
    following = torch.where(along_time(layout.steps + 1 == layout.end, 5), identity, following)
    entering = grad_final_state
    if entering is not None and layout.packed:
        entering = entering.flip(0)
    u, _ = bdlru_scan(
        _as_logits(following.flip(1)), gradient.flip(1), entering,
        normalization="none", cu_seqlens=reverse_boundaries(cu_seqlens), backend=backend,
    )  # fmt: skip
    u = u.flip(1)

    def local(logits: Tensor, inputs: Tensor) -> Tensor:
        return _step(normalize(logits, 3, normalization), previous, wide(inputs))

    _, pull = vjp(local, gate_logits, values)
    grad_logits, grad_values = pull(u)
    first_u, exists = layout.at(u, 0)
    first_transition, _ = layout.at(transposed, 0)
    grad_initial = (first_transition * first_u[:, None]).sum(2)
    passed = torch.zeros_like(grad_initial) if grad_final_state is None else grad_final_state
    return grad_logits, grad_values, torch.where(exists, grad_initial, passed)


_scan = register_scan("bdlru", Formulas(tangent=_tangent, gradients=_gradients))
