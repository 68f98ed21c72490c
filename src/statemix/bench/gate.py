"""No time is printed for a result that was not compared with a float64 loop first."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from .cases import Case

FORWARD = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 2.5e-3, torch.float16: 4e-4}
GRADIENT = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
LAYER = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
"""For a whole layer, whose matrix products round as well (8e-3 on a CPU); what is wrong is near 1."""

LENGTH = 96
"""Steps over which a result is compared."""


class WrongResult(RuntimeError):
    """A backend disagrees with the reference by more than its dtype allows."""


def check(case: Case, device: torch.device | str, backend: str) -> float:
    """Compare output, final state and gradients at a short length; return the worst relative error.

    Raises:
        WrongResult: an error is over the limit of the dtype; names the case and the tensor.
    """
    small = case.shortened(LENGTH)
    tensors = small.inputs(device, requires_grad=True, seed=torch.seed() % 2**31)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    bounds = small.cu_seqlens(device)
    got, want = small.run(tensors, bounds, backend), small.run(exact, bounds, "reference")
    cotangents = [torch.randn_like(g) for g in got]
    got_grads = torch.autograd.grad(got, tensors, cotangents)
    want_grads = torch.autograd.grad(want, exact, [c.double() for c in cotangents])
    worst = 0.0
    names = ("hidden", "final state", "gradient of logits", "gradient of values", "gradient of state")
    limits = [FORWARD[case.dtype], 1e-5] + [GRADIENT[case.dtype]] * 3
    for name, limit, g, w in zip(names, limits, (*got, *got_grads), (*want, *want_grads), strict=False):
        error = relative_error(g, w)
        if not error <= limit:
            raise WrongResult(f"{case} on {backend}: {name} is off by {error:.1e} (limit {limit:.0e})")
        worst = max(worst, error)
    return worst


def check_layer(name: str, layer: Any, x: Tensor) -> float:
    """Compare outputs and gradients of a recurrent layer with its copy in float64; the worst relative error.

    Raises:
        WrongResult: an error is over the limit of the dtype; names the layer and the tensor.
    """
    exact = copy.deepcopy(layer).double()
    exact.backend = "reference"
    cotangent = torch.randn_like(x)
    found = []
    for each, dtype in ((layer, x.dtype), (exact, torch.float64)):
        inputs = x.detach().to(dtype).requires_grad_()
        output = each(inputs)
        wanted = [inputs, *each.parameters()]
        found.append([output, *torch.autograd.grad(output, wanted, cotangent.to(dtype))])
    names = ["output", "gradient of input", *(f"gradient of {p}" for p, _ in layer.named_parameters())]
    errors = [relative_error(got, want) for got, want in zip(*found, strict=True)]
    limit = LAYER[x.dtype]
    for what, error in zip(names, errors, strict=True):
        if not error <= limit:
            raise WrongResult(f"{name}: {what} is off by {error:.1e} (limit {limit:.0e})")
    return max(errors)


def relative_error(got: Tensor, want: Tensor) -> float:
    """Norm of the difference over the norm of the truth, in float64."""
    return ((got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-300)).item()
