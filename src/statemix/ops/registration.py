"""One recurrence as a PyTorch operator: every transform works, or raises by name.

A family brings its two kernels and two formulas, written with differentiable operations:

    tangent       the derivative of the scan along a direction: again a linear scan
    gradients     the gradients of the scan: a scan in reverse time and local terms

First-order gradients run the fast kernels. Forward mode runs ``tangent``; forward over reverse runs
``gradients``, and reverse over reverse differentiates it. So no transform ever meets a derivative
that is silently zero.

In eager mode the autograd functions below are called directly: that is what torch.func composes
with. Compilers and exporters see the registered operators ``statemix::<family>_scan_forward`` and
``_backward``, whose autograd kernels are the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function, unwrap_dead_wrappers
from torch.autograd import forward_ad

from statemix.kernels.precision import state_dtype

from ._batching import Output, fold_into_batch
from ._derivatives import vjp
from ._transforms import forward_modes, is_forward_mode, needs_autograd, needs_operator
from .counters import count
from .dispatch import kernels, warn_once

_LIBRARY = torch.library.Library("statemix", "DEF")

_FORWARD_SCHEMA = (
    "(Tensor gate_logits, Tensor values, Tensor? initial_state, Tensor? cu_seqlens, "
    "str normalization, str backend) -> (Tensor, Tensor)"
)
_BACKWARD_SCHEMA = (
    "(Tensor gate_logits, Tensor values, Tensor? initial_state, Tensor? cu_seqlens, Tensor hidden, "
    "Tensor? grad_hidden, Tensor? grad_final_state, str normalization, str backend) "
    "-> (Tensor, Tensor, Tensor)"
)
_RESULTS: tuple[Output, ...] = ("batch", "batch")
_GRADIENTS: tuple[Output, ...] = ("gates", "batch", "batch")


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


def register_scan(family: str, formulas: Formulas) -> Callable[..., tuple[Tensor, Tensor]]:
    """Define the operators of a family and return the callable behind its public function."""
    _LIBRARY.define(f"{family}_scan_forward{_FORWARD_SCHEMA}")
    _LIBRARY.define(f"{family}_scan_backward{_BACKWARD_SCHEMA}")
    forward_operator = getattr(torch.ops.statemix, f"{family}_scan_forward").default
    backward_operator = getattr(torch.ops.statemix, f"{family}_scan_backward").default

    def run_forward(gate_logits, values, initial_state, cu_seqlens, normalization, backend):
        if values.shape[0] == 0 or values.shape[1] == 0:
            return _empty_forward(gate_logits, values, initial_state, cu_seqlens)
        count(family, "forward", backend)
        return kernels(backend, family).forward(gate_logits, values, initial_state, cu_seqlens, normalization)

    def run_backward(
        gate_logits,
        values,
        initial_state,
        cu_seqlens,
        hidden,
        grad_hidden,
        grad_final_state,
        normalization,
        backend,
    ):
        if values.shape[0] == 0 or values.shape[1] == 0:
            states = _state_like(gate_logits, values, initial_state, cu_seqlens)
            grad_initial = states.zero_() if grad_final_state is None else grad_final_state.clone()
            return torch.zeros_like(gate_logits), torch.zeros_like(values), grad_initial
        count(family, "backward", backend)
        return kernels(backend, family).backward(
            gate_logits,
            values,
            initial_state,
            cu_seqlens,
            hidden,
            grad_hidden,
            grad_final_state,
            normalization,
        )

    def run_backward_whole(*arguments):
        # A backend may leave out what nobody asked for; a schema may not.
        grad_logits, grad_values, grad_initial = run_backward(*arguments)
        if grad_initial is None:
            grad_initial = _state_like(*arguments[:4]).zero_()
        return grad_logits, grad_values, grad_initial

    def run_backward_contiguous(*arguments):
        # A compiler plans with the strides that the fake kernel has; called directly, gradients may lie as
        # what they are gradients of does.
        return tuple(gradient.contiguous() for gradient in run_backward_whole(*arguments))

    def fake_forward(gate_logits, values, initial_state, cu_seqlens, normalization, backend):
        return values.new_empty(values.shape), _state_like(gate_logits, values, initial_state, cu_seqlens)

    def fake_backward(gate_logits, values, initial_state, cu_seqlens, *_):
        return (
            gate_logits.new_empty(gate_logits.shape),
            values.new_empty(values.shape),
            _state_like(gate_logits, values, initial_state, cu_seqlens),
        )

    class ScanBackward(torch.autograd.Function):
        """The backward kernel; its own derivatives come from ``formulas.gradients``."""

        @staticmethod
        def forward(*arguments):
            return _below_autograd(arguments, run_backward_whole, backward_operator)

        @staticmethod
        def setup_context(ctx, inputs, output):
            *tensors, ctx.normalization, ctx.backend = inputs
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*tensors)

        @staticmethod
        def backward(ctx, *cotangents):
            saved = ctx.saved_tensors
            function, primals = _formula(formulas.gradients, saved, ctx)
            outputs, pull = vjp(function, *primals)
            filled = tuple(
                torch.zeros_like(o) if c is None else c for o, c in zip(outputs, cotangents, strict=True)
            )
            return (*_place(pull(filled), saved), None, None)

        @staticmethod
        def vmap(info, in_dims, *arguments):
            return fold_into_batch(ScanBackward.apply, info, in_dims, arguments, outputs=_GRADIENTS)

    class ScanForward(torch.autograd.Function):
        """The forward kernel; saves logits, values, initial state and hidden, nothing else."""

        @staticmethod
        def forward(*arguments):
            return _below_autograd(arguments, run_forward, forward_operator)

        @staticmethod
        def setup_context(ctx, inputs, output):
            gate_logits, values, initial_state, cu_seqlens, ctx.normalization, ctx.backend = inputs
            ctx.set_materialize_grads(False)
            saved = (gate_logits, values, initial_state, cu_seqlens, output[0])
            ctx.save_for_backward(*saved)
            ctx.save_for_forward(*saved)

        @staticmethod
        def backward(ctx, grad_hidden, grad_final_state):
            saved = ctx.saved_tensors  # read once: under checkpointing it may not be read again
            arguments = (*saved, grad_hidden, grad_final_state, ctx.normalization, ctx.backend)
            if torch.compiler.is_compiling():
                grads = backward_operator(*arguments)
            elif forward_ad._current_level >= 0:
                # Forward over reverse: a formula of differentiable operations carries the tangents.
                grads = formulas.gradients(*arguments)
            else:
                grads = _with_derivatives(ScanBackward, arguments, run_backward, backward_operator)
            grad_initial = grads[2] if saved[2] is not None else None
            return grads[0], grads[1], grad_initial, None, None, None

        @staticmethod
        def jvp(ctx, d_logits, d_values, d_initial, *_):
            tangents = (d_logits, d_values, d_initial)
            return formulas.tangent(*ctx.saved_tensors, *tangents, ctx.normalization, ctx.backend)

        @staticmethod
        def vmap(info, in_dims, *arguments):
            return fold_into_batch(ScanForward.apply, info, in_dims, arguments, outputs=_RESULTS)

    for operator, run, fake, function, outputs in (
        (forward_operator, run_forward, fake_forward, ScanForward, _RESULTS),
        (backward_operator, run_backward_contiguous, fake_backward, ScanBackward, _GRADIENTS),
    ):
        name = operator.name().removeprefix("statemix::").removesuffix(".default")
        _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"statemix::{name}", fake, lib=_LIBRARY)
        torch.library.register_vmap(f"statemix::{name}", _vmap_kernel(operator, outputs), lib=_LIBRARY)
        _LIBRARY.impl(name, _autograd_kernel(operator, function), "Autograd")

    def scan(gate_logits, values, initial_state, cu_seqlens, normalization, backend):
        arguments = (gate_logits, values, initial_state, cu_seqlens, normalization, backend)
        if torch.compiler.is_compiling():
            return forward_operator(*arguments)
        if torch._C._are_functorch_transforms_active() and forward_modes(arguments) > 1:
            if backend != "reference":
                warn_once(
                    f"{family}_scan: forward mode inside of forward mode (jvp of jvp, jacfwd of jacfwd) runs "
                    f"the slow reference; make one of the two reverse mode, as torch.func.hessian does, and "
                    f"{backend} runs"
                )
            count(family, "forward", "reference")
            return kernels("reference", family).forward(*arguments[:5])
        if backend == "reference" and not needs_operator(arguments) and values.numel():
            count(family, "forward", backend)
            # The loop is made of differentiable operations: autograd needs no help.
            return kernels(backend, family).forward(*arguments[:5])
        return _with_derivatives(ScanForward, arguments, run_forward, forward_operator)

    return scan


def _autograd_kernel(operator: Any, function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """The kernel of the Autograd dispatch keys: the same function that eager mode calls."""

    def kernel(*arguments):
        if needs_autograd(arguments):
            if is_forward_mode():
                raise NotImplementedError(
                    f"{operator.name()}: forward mode of torch.func (jvp, jacfwd, hessian) cannot be "
                    "compiled, nor taken of this operator: call bdlru_scan or hlru_scan without "
                    "torch.compile, or take reverse mode (vjp, jacrev)"
                )
            # A transform of torch.func has come down to one of its levels, of which this is the autograd:
            # ``function.apply`` would send it through all of them again.
            with enable_single_level_autograd_function():
                return _plainly_applied(function, arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*arguments)

    return kernel


def _vmap_kernel(operator: Any, outputs: tuple[Output, ...]) -> Callable[..., Any]:
    """The batching rule that a compiler meets: the same folding as in eager mode."""

    def kernel(info, in_dims, *arguments):
        return fold_into_batch(operator, info, in_dims, arguments, outputs=outputs)

    return kernel


def _with_derivatives(
    function: type[torch.autograd.Function], arguments: tuple, run: Callable[..., Any], operator: Any
) -> Any:
    """Through the autograd function where somebody may ask for derivatives, else past it."""
    if needs_autograd(arguments):
        return _applied(function, arguments)
    return _below_autograd(arguments, run, operator)


def _applied(function: type[torch.autograd.Function], arguments: tuple) -> Any:
    """``function.apply`` without its inspection of the signature, which takes longer than all the rest."""
    if torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)
    return _plainly_applied(function, arguments)


def _plainly_applied(function: type[torch.autograd.Function], arguments: tuple) -> Any:
    return super(torch.autograd.Function, function).apply(*unwrap_dead_wrappers(arguments))  # type: ignore[misc]


def _below_autograd(arguments: tuple, run: Callable[..., Any], operator: Any) -> Any:
    """Call the kernel itself where tensors are plain; else let the dispatcher see the operator."""
    if needs_operator(arguments):
        with torch._C._AutoDispatchBelowAutograd(), _levels_below():
            return operator(*arguments)
    return run(*arguments)


@contextmanager
def _levels_below() -> Iterator[None]:
    """Levels of torch.func below this one differentiate too: an autograd function has switched that off."""
    if torch._C._are_functorch_transforms_active():
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            yield
    else:
        yield


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


def _empty_forward(gate_logits, values, initial_state, cu_seqlens):
    """No steps: nothing comes out, and the state stays what it was."""
    if initial_state is not None:
        return values.new_empty(values.shape), initial_state.clone()
    return values.new_empty(values.shape), _state_like(gate_logits, values, initial_state, cu_seqlens).zero_()


def _formula(
    gradients: Callable[..., Any], saved: tuple[Any, ...], ctx: Any
) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """``gradients`` as a function of just the float tensors that were given."""
    places = _float_places(saved)

    def function(*primals):
        arguments = list(saved)
        for place, primal in zip(places, primals, strict=True):
            arguments[place] = primal
        return gradients(*arguments, ctx.normalization, ctx.backend)

    return function, tuple(saved[p] for p in places)


def _float_places(tensors: tuple[Tensor | None, ...]) -> list[int]:
    return [i for i, t in enumerate(tensors) if t is not None and t.is_floating_point()]


def _place(grads: tuple[Tensor, ...], saved: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Gradients put back into the places of all arguments, None elsewhere."""
    found = dict(zip(_float_places(saved), grads, strict=True))
    return tuple(found.get(i) for i in range(len(saved)))
