"""How far back in time the gradient of an output reaches."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral

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
) -> Float[Tensor, " T"]:
    """The norm of d y[step] / d x[t] at every t: how much an input at t still moves that output.

    The squared norm is estimated with one random direction of y for each sequence, and averaged over
    the batch: more sequences give a better estimate.

    Args:
        function: (B, T, D) -> (B, T, any), a layer or a model after its embedding.
        x: (B, T, D).
        step: the step whose output is asked.
        generator: where the directions are drawn from; default PyTorch's own.

    Returns:
        (T,) float64, on the CPU.

    Raises:
        ValueError: the output does not have the batch and the time of x, or does not depend on it; no
            sequence; or a step that x does not have.
        TypeError: x is no tensor of floats, or the output is no tensor.

    Examples:
        >>> reach = gradient_reach(lambda x: x.cumsum(1), torch.randn(4, 10, 3))
        >>> torch.allclose(reach, reach[0])
        True
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"gradient_reach: x must be a torch.Tensor; got {type(x).__name__}: make it one with "
            f"torch.as_tensor"
        )
    steps = range(-x.shape[1], x.shape[1]) if x.dim() >= 2 else ()
    if not isinstance(step, Integral) or step not in steps:
        raise ValueError(
            f"gradient_reach: step must be one of those of x (B, T, D) = {tuple(x.shape)}; got {step!r}: -1 "
            f"is the last"
        )
    if x.shape[0] == 0:
        raise ValueError(f"gradient_reach: x must have at least one sequence; got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(
            f"gradient_reach: x must be of floats, to be differentiated by; got {x.dtype}: embed tokens "
            f"first, and give what comes after the embedding as the function"
        )
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        y = function(x)
        if not isinstance(y, Tensor):
            raise TypeError(
                f"gradient_reach: function must return one tensor (B, T, any); got {type(y).__name__}: "
                f"choose the output, e.g. lambda x: lstm(x)[0]"
            )
        if y.shape[:2] != x.shape[:2]:
            raise ValueError(
                f"gradient_reach: function must keep batch and time {tuple(x.shape[:2])}; it returned "
                f"{tuple(y.shape)}"
            )
        gradient = None
        if y.requires_grad:
            asked = y[:, step]
            direction = torch.randn(asked.shape, generator=generator, dtype=asked.dtype, device=asked.device)
            (gradient,) = torch.autograd.grad(asked, x, direction, allow_unused=True)
        if gradient is None:
            raise ValueError("gradient_reach: function must depend on x, differentiably; its output does not")
    # In float64: what has faded to 1e-20 is squared on the way.
    return gradient.cpu().double().square().reshape(*x.shape[:2], -1).sum(-1).mean(0).sqrt()
