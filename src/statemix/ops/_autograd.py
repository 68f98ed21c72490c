"""The two autograd functions of the scans, and the choice between them and the bare kernels.

    ScanForward     backward: ScanBackward     jvp: ``formulas.tangent`` (forward mode)
    ScanBackward    backward: the derivative of ``formulas.gradients`` (reverse over reverse)

Forward over reverse runs ``formulas.gradients`` in place of ScanBackward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

from ._batching import Output, fold_into_batch
from ._derivatives import vjp
from ._kernel_calls import run_backward, run_backward_whole, run_forward
from .transforms import needs_autograd, needs_operator

RESULTS: tuple[Output, ...] = ("batch", "batch")
"""What the outputs of a forward are like, for vmap: hidden, final state."""

GRADIENTS: tuple[Output, ...] = ("gates", "batch", "batch")
"""The same for a backward: gradients of logits, values, initial state."""


@dataclass(frozen=True)
class Formulas:
    """What a family knows of its own derivatives, in differentiable operations.

    tangent(gate_logits, values, initial_state, cu_seqlens, hidden, d_logits, d_values, d_initial,
            normalization, backend) -> (d_hidden, d_final_state)
    gradients(gate_logits, values, initial_state, cu_seqlens, hidden, grad_hidden, grad_final_state,
              normalization, backend) -> (grad_gate_logits, grad_values, grad_initial_state)
    """

    tangent: Callable[..., tuple[Tensor, Tensor]]
    gradients: Callable[..., tuple[Tensor, Tensor, Tensor]]


class Family:
    """One recurrence: the name of its kernels, its formulas, its two operators and two autograd functions.

    The functions are classes of this family alone, made from those below: what a class knows need not be an
    argument of every call, which would cost time.
    """

    def __init__(self, name: str, formulas: Formulas, forward_operator: Any, backward_operator: Any) -> None:
        self.name, self.formulas = name, formulas
        self.forward_operator, self.backward_operator = forward_operator, backward_operator
        self.forward_function = type("ScanForward", (ScanForward,), {"family": self})
        self.backward_function = type("ScanBackward", (ScanBackward,), {"family": self})


def scan_forward(family: Family, arguments: tuple[Any, ...]) -> Any:
    """The scan, with derivatives where somebody may ask for them."""
    if needs_autograd(arguments):
        return _apply(family.forward_function, arguments)
    return _below_autograd(family, family.forward_operator, run_forward, arguments)


def scan_backward(family: Family, arguments: tuple[Any, ...]) -> Any:
    """The gradients of the scan, the same way; that of an initial state that is None may be None."""
    if needs_autograd(arguments):
        return _apply(family.backward_function, arguments)
    return _below_autograd(family, family.backward_operator, run_backward, arguments)


class ScanForward(torch.autograd.Function):
    """The forward kernel; saves logits, values, initial state and hidden, nothing else."""

    family: Family

    @classmethod
    def forward(cls, *arguments):
        return _below_autograd(cls.family, cls.family.forward_operator, run_forward, arguments)

    @classmethod
    def setup_context(cls, ctx, inputs, output):
        gate_logits, values, initial_state, cu_seqlens, ctx.normalization, ctx.backend = inputs
        ctx.family = cls.family
        ctx.set_materialize_grads(False)
        saved = (gate_logits, values, initial_state, cu_seqlens, output[0])
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod  # no method of the class: compiled autograd takes plain functions alone
    def backward(ctx, grad_hidden, grad_final_state):
        saved = ctx.saved_tensors  # read once: under checkpointing it may not be read again
        arguments = (*saved, grad_hidden, grad_final_state, ctx.normalization, ctx.backend)
        if torch.compiler.is_compiling():
            grads = ctx.family.backward_operator(*arguments)
        elif forward_ad._current_level >= 0:
            # Forward over reverse: a formula of differentiable operations carries the tangents.
            grads = ctx.family.formulas.gradients(*arguments)
        else:
            grads = scan_backward(ctx.family, arguments)
        grad_initial = grads[2] if saved[2] is not None else None
        return grads[0], grads[1], grad_initial, None, None, None

    @classmethod
    def jvp(cls, ctx, d_logits, d_values, d_initial, *_):
        tangents = (d_logits, d_values, d_initial)
        return cls.family.formulas.tangent(*ctx.saved_tensors, *tangents, ctx.normalization, ctx.backend)

    @classmethod
    def vmap(cls, info, in_dims, *arguments):
        return fold_into_batch(cls.apply, info, in_dims, arguments, RESULTS)


class ScanBackward(torch.autograd.Function):
    """The backward kernel; its own derivatives come from ``formulas.gradients``."""

    family: Family

    @classmethod
    def forward(cls, *arguments):
        return _below_autograd(cls.family, cls.family.backward_operator, run_backward_whole, arguments)

    @classmethod
    def setup_context(cls, ctx, inputs, output):
        *tensors, ctx.normalization, ctx.backend = inputs
        ctx.family = cls.family
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *cotangents):
        saved = ctx.saved_tensors
        places = [i for i, t in enumerate(saved) if t is not None and t.is_floating_point()]

        def gradients(*primals):  # of just the float tensors that were given
            arguments = list(saved)
            for place, primal in zip(places, primals, strict=True):
                arguments[place] = primal
            return ctx.family.formulas.gradients(*arguments, ctx.normalization, ctx.backend)

        outputs, pull = vjp(gradients, *(saved[place] for place in places))
        filled = tuple(
            torch.zeros_like(o) if c is None else c for o, c in zip(outputs, cotangents, strict=True)
        )
        found = dict(zip(places, pull(filled), strict=True))
        return *(found.get(i) for i in range(len(saved))), None, None

    @classmethod
    def vmap(cls, info, in_dims, *arguments):
        return fold_into_batch(cls.apply, info, in_dims, arguments, GRADIENTS)


def apply_one_level(function: type[torch.autograd.Function], arguments: tuple) -> Any:
    """``function.apply`` of plain PyTorch, which knows no torch.func."""
    plain = super(torch.autograd.Function, function)
    return plain.apply(*unwrap_dead_wrappers(arguments))  # type: ignore[misc]


def _apply(function: type[torch.autograd.Function], arguments: tuple) -> Any:
    """``function.apply`` without its inspection of the signature, which takes longer than all the rest."""
    if torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)
    return apply_one_level(function, arguments)


def _below_autograd(family: Family, operator: Any, run: Callable[..., Any], arguments: tuple) -> Any:
    """Call the kernel itself where tensors are plain; else let the dispatcher see the operator."""
    if needs_operator(arguments):
        with torch._C._AutoDispatchBelowAutograd(), _levels_below():
            return operator(*arguments)
    return run(family.name, *arguments)


@contextmanager
def _levels_below() -> Iterator[None]:
    """Levels of torch.func below this one differentiate too: an autograd function has switched that off."""
    if torch._C._are_functorch_transforms_active():
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            yield
    else:
        yield
