"""A family's kernels as plain functions of all arguments: no steps to take, and gradients left out, included.

The arguments are those of the operators, in their order; ``family`` stands before them. Shapes alone, which
compilers ask for, are at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from statemix.kernels.precision import state_dtype

from .checks import check_cuts
from .counters import count
from .dispatch import kernels


def run_forward(
    family: str,
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    normalization: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Hidden states and the final state."""
    if cu_seqlens is not None and cu_seqlens.device.type == "cpu":
        # A compiler, a transform or a subclass hides numbers from the checks of the operators.
        check_cuts(f"{family}_scan", cu_seqlens, values.shape[1])
    if values.shape[0] == 0 or values.shape[1] == 0:
        return _no_steps_forward(gate_logits, values, initial_state, cu_seqlens)
    count(family, "forward", backend)
    return kernels(backend, family).forward(gate_logits, values, initial_state, cu_seqlens, normalization)


def run_backward(
    family: str,
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    hidden: Tensor,
    grad_hidden: Tensor | None,
    grad_final_state: Tensor | None,
    normalization: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of logits, values and initial state; a backend may leave the last out where there is none."""
    if values.shape[0] == 0 or values.shape[1] == 0:
        return _no_steps_backward(gate_logits, values, initial_state, cu_seqlens, grad_final_state)
    count(family, "backward", backend)
    return kernels(backend, family).backward(
        gate_logits, values, initial_state, cu_seqlens, hidden, grad_hidden, grad_final_state, normalization
    )


def run_backward_whole(family: str, *arguments) -> tuple[Tensor, Tensor, Tensor]:
    """All three gradients: a schema has no place for one that nobody asked for."""
    grad_logits, grad_values, grad_initial = run_backward(family, *arguments)
    if grad_initial is None:
        grad_initial = _state_like(*arguments[:4]).zero_()
    return grad_logits, grad_values, grad_initial


def run_backward_contiguous(family: str, *arguments) -> tuple[Tensor, ...]:
    """All three gradients, with the strides that :func:`fake_backward` has and compilers plan with.

    Called directly, gradients may lie as what they are gradients of does.
    """
    return tuple(gradient.contiguous() for gradient in run_backward_whole(family, *arguments))


def fake_forward(gate_logits, values, initial_state, cu_seqlens, normalization, backend):
    """What :func:`run_forward` returns, without numbers."""
    return values.new_empty(values.shape), _state_like(gate_logits, values, initial_state, cu_seqlens)


def fake_backward(gate_logits, values, initial_state, cu_seqlens, *_):
    """What :func:`run_backward_contiguous` returns, without numbers."""
    return (
        gate_logits.new_empty(gate_logits.shape),
        values.new_empty(values.shape),
        _state_like(gate_logits, values, initial_state, cu_seqlens),
    )


def _state_like(gate_logits, values, initial_state, cu_seqlens) -> Tensor:
    """An uninitialised tensor of the final state's shape (S, M, N) and dtype."""
    if initial_state is not None:
        states = initial_state.shape[0]
    elif cu_seqlens is not None:
        states = cu_seqlens.shape[0] - 1
    else:
        states = values.shape[0]
    shape = (states, gate_logits.shape[-2] - 1, values.shape[-1])
    return values.new_empty(shape, dtype=state_dtype(values.dtype))


def _no_steps_forward(gate_logits, values, initial_state, cu_seqlens):
    """Nothing comes out, and the state stays what it was."""
    if initial_state is not None:
        return values.new_empty(values.shape), initial_state.clone()
    return values.new_empty(values.shape), _state_like(gate_logits, values, initial_state, cu_seqlens).zero_()


def _no_steps_backward(gate_logits, values, initial_state, cu_seqlens, grad_final_state):
    """The state's gradient stays what it was, and nothing else has one."""
    states = _state_like(gate_logits, values, initial_state, cu_seqlens)
    grad_initial = states.zero_() if grad_final_state is None else grad_final_state.clone()
    return torch.zeros_like(gate_logits), torch.zeros_like(values), grad_initial
