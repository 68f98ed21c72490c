"""How far back in time the gradient of an output reaches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from statemix.shapes import Sequence


def gradient_reach(
    function: Callable[[Tensor], Tensor],
    x: Sequence,
    *,
    step: int = -1,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "T"]:
    """The norm of d y[step] / d x[t] at every t: how much an input at t still moves that output.

    The squared norm is estimated with one random direction of y for each sequence, and averaged over
    the batch: more sequences give a better estimate.

    Args:
        function: (B, T, D) -> (B, T, any), a layer or a model after its embedding.
        x: (B, T, D).
        step: the step whose output is asked.
        generator: where the directions are drawn from; default PyTorch's own.

    Raises:
        ValueError: the output does not have the batch and the time of x, or does not depend on it; or a step
            that x does not have.

    Examples:
        >>> reach = gradient_reach(lambda x: x.cumsum(1), torch.randn(4, 10, 3))
        >>> torch.allclose(reach, reach[0])
        True
    """
    if x.dim() < 2 or not -x.shape[1] <= step < x.shape[1]:
        raise ValueError(
            f"gradient_reach: step must be one of those of x (B, T, D) = {tuple(x.shape)}; got {step}"
        )
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = function(x)
        if y.shape[:2] != x.shape[:2]:
            raise ValueError(
                f"gradient_reach: function must keep batch and time {tuple(x.shape[:2])}; it returned "
                f"{tuple(y.shape)}"
            )
        if not y.requires_grad:
            raise ValueError("gradient_reach: function must depend on x, differentiably; its output does not")
        asked = y[:, step]
        direction = torch.randn(asked.shape, generator=generator, dtype=asked.dtype, device=asked.device)
        (gradient,) = torch.autograd.grad(asked, x, direction)
    return gradient.square().sum(-1).mean(0).sqrt()
