"""One recurrence as a PyTorch operator: every transform works, or raises by name.

A family brings its two kernels and two formulas, written with differentiable operations:

    tangent       the derivative of the scan along a direction: again a linear scan
    gradients     the gradients of the scan: a scan in reverse time and local terms

First-order gradients run the fast kernels. Forward mode runs ``tangent``; forward over reverse runs
``gradients``, and reverse over reverse differentiates it. So no transform ever meets a derivative
that is silently zero.

There are two ways in, to the same kernels and the same autograd functions (``_autograd.py``):

    eager                   ``_scan`` below calls them directly: that is what torch.func composes with
    compilers, exporters    see ``statemix::<family>_scan_forward`` and ``_backward``, registered here:
                            a schema, the kernel, shapes, a rule for vmap, an autograd kernel
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function

from ._autograd import (
    GRADIENTS,
    RESULTS,
    Family,
    Formulas,
    apply_one_level,
    scan_forward,
)
from ._batching import Output, fold_into_batch
from ._kernel_calls import fake_backward, fake_forward, run_backward_contiguous, run_forward
from .counters import count
from .dispatch import kernels, warn_once
from .transforms import forward_modes, is_forward_mode, needs_autograd, needs_operator

__all__ = ["Formulas", "register_scan"]

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


def register_scan(name: str, formulas: Formulas) -> Callable[..., tuple[Tensor, Tensor]]:
    """Define the operators of a family and return the callable behind its public function."""
    forward = _define(f"{name}_scan_forward", _FORWARD_SCHEMA)
    backward = _define(f"{name}_scan_backward", _BACKWARD_SCHEMA)
    family = Family(name, formulas, forward, backward)
    _register(forward, partial(run_forward, name), fake_forward, RESULTS, family.forward_function)
    _register(
        backward, partial(run_backward_contiguous, name), fake_backward, GRADIENTS, family.backward_function
    )
    return partial(_scan, family)


def _scan(
    family: Family,
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    normalization: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Run a scan whose arguments were checked and whose backend was chosen."""
    arguments = (gate_logits, values, initial_state, cu_seqlens, normalization, backend)
    if torch.compiler.is_compiling():
        return family.forward_operator(*arguments)
    if torch._C._are_functorch_transforms_active() and forward_modes(arguments) > 1:
        if backend != "reference":
            warn_once(
                f"{family.name}_scan: forward mode inside of forward mode (jvp of jvp, jacfwd of jacfwd) "
                f"runs the slow reference; make one of the two reverse mode, as torch.func.hessian does, and "
                f"{backend} runs"
            )
        return _differentiable_loop(family, arguments)
    if backend == "reference" and not needs_operator(arguments) and values.numel():
        return _differentiable_loop(family, arguments)
    return scan_forward(family, arguments)


def _differentiable_loop(family: Family, arguments: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """The reference, whose operations PyTorch can differentiate as often as it likes."""
    count(family.name, "forward", "reference")
    return kernels("reference", family.name).forward(*arguments[:5])


def _define(name: str, schema: str) -> Any:
    """A new operator, ``torch.ops.statemix.<name>``."""
    _LIBRARY.define(f"{name}{schema}")
    return getattr(torch.ops.statemix, name).default


def _register(
    operator: Any,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    outputs: tuple[Output, ...],
    function: type[torch.autograd.Function],
) -> None:
    """Tell PyTorch all that it asks about an operator."""
    name = operator.name().removesuffix(".default")
    # One kernel for all devices, as the backend is an argument. "Explicit": a kernel is no composition of
    # operators that a compiler could look into.
    _LIBRARY.impl(operator, run, "CompositeExplicitAutograd")
    # A compiler runs a program once on tensors without numbers.
    torch.library.register_fake(name, fake, lib=_LIBRARY)
    # torch.func.vmap that is compiled, or taken of the operator itself, never sees ``function.vmap``.
    torch.library.register_vmap(name, _vmap_kernel(operator, outputs), lib=_LIBRARY)
    # Not torch.library.register_autograd: it would make a function of its own, and looks at requires_grad
    # alone, so that a forward mode passed unseen.
    _LIBRARY.impl(operator, _autograd_kernel(operator, function), "Autograd")


def _vmap_kernel(operator: Any, outputs: tuple[Output, ...]) -> Callable[..., Any]:
    """The batching rule that a compiler meets: the same folding as in eager mode."""

    def kernel(info, in_dims, *arguments):
        return fold_into_batch(operator, info, in_dims, arguments, outputs=outputs)

    return kernel


def _autograd_kernel(operator: Any, function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """The kernel of the Autograd dispatch keys: the same function that eager mode calls."""

    def kernel(*arguments):
        if not needs_autograd(arguments):
            with torch._C._AutoDispatchBelowAutograd():
                return operator(*arguments)
        if is_forward_mode():
            raise NotImplementedError(
                f"{operator.name()}: forward mode of torch.func (jvp, jacfwd, hessian) cannot be "
                "compiled, nor taken of this operator: call bdlru_scan or hlru_scan without "
                "torch.compile, or take reverse mode (vjp, jacrev)"
            )
        # A transform of torch.func has come down to one of its levels, of which this is the autograd:
        # ``function.apply`` would send it through all of them again.
        with enable_single_level_autograd_function():
            return apply_one_level(function, arguments)

    return kernel
