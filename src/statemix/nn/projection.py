"""The two projections of one input, gate logits and values, as one step of the graph."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .transforms import is_rewritten


def two_products(x: Tensor, first: Tensor, bias: Tensor | None, second: Tensor) -> tuple[Tensor, Tensor]:
    """``linear(x, first, bias), linear(x, second)``, whose gradients of x are summed by the second product.

    Apart, each would write a gradient of x, and a third kernel would read both to add them.

    Shapes: x (B, T, D); first (E, D), bias (E,), second (F, D) -> (B, T, E), (B, T, F).

    Examples:
        >>> x, first, second = torch.randn(2, 5, 4), torch.randn(6, 4), torch.randn(3, 4)
        >>> [y.shape[-1] for y in two_products(x, first, None, second)]
        [6, 3]
    """
    given = [x, first, second] if bias is None else [x, first, second, bias]
    # Nothing is gained where nothing is differentiated, and a single step is better off with the weights that
    # autocast has cast before. What rewrites the program, or hides other tensors behind these, needs to see
    # its plain operations.
    single = not torch.is_grad_enabled() or x.shape[1] == 1
    if single or x.is_meta or is_rewritten() or any(type(t) not in (Tensor, nn.Parameter) for t in given):
        return F.linear(x, first, bias), F.linear(x, second)
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:  # which autocast leaves as it is
        dtype = torch.get_autocast_dtype(device)
        x, first, second = x.to(dtype), first.to(dtype), second.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    return cast(tuple[Tensor, Tensor], _TwoProducts.apply(x, first, bias, second))


class _TwoProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Tensor, bias: Tensor | None, second: Tensor) -> Any:
        ctx.save_for_backward(x, first, second)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, first, bias), F.linear(x, second)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, first, second = ctx.saved_tensors
        of_x = of_first = of_bias = of_second = None
        one, other = (gradient.flatten(0, -2) for gradient in gradients)
        rows = x.flatten(0, -2)
        with torch.autocast(x.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                of_x = one @ first
                # In place nothing could be differentiated again.
                again = torch.is_grad_enabled()
                of_x = of_x + other @ second if again else of_x.addmm_(other, second)
                of_x = of_x.view(x.shape)
            if ctx.needs_input_grad[1]:
                of_first = one.T @ rows
            if ctx.needs_input_grad[2]:
                of_bias = one.sum(0)
            if ctx.needs_input_grad[3]:
                of_second = other.T @ rows
        return of_x, of_first, of_bias, of_second
