"""The two projections of one input, gate logits and values, as one step of the graph."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.ops.transforms import are_gradients_batched

from .transforms import is_autocast, is_rewritten


def two_products(
    x: Tensor, first: Tensor, bias: Tensor | None, second: Tensor, *, joined: bool = False
) -> tuple[Tensor, Tensor]:
    """``linear(x, first, bias), linear(x, second)``, whose gradients of x are summed by a product.

    Apart, each would write a gradient of x, and a third kernel would read both to add them.

    Shapes: x (B, T, D); first (E, D), bias (E,), second (F, D) -> (B, T, E), (B, T, F).

    Args:
        joined: whether they may be one product, of which the outputs are the two parts of each row: faster,
            while each of them keeps both in memory. So are their gradients where these lie in the same way,
            as a scan of the two gives them back.

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
    if is_autocast(x.device) and x.dtype != torch.float64:  # which autocast leaves as it is
        dtype = torch.get_autocast_dtype(x.device.type)
        x = x.to(dtype)
        if not joined:
            first, second = first.to(dtype), second.to(dtype)
            bias = None if bias is None else bias.to(dtype)
    products = _JoinedProducts if joined else _TwoProducts
    return cast(tuple[Tensor, Tensor], products.apply(x, first, bias, second))


class _TwoProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Tensor, bias: Tensor | None, second: Tensor) -> Any:
        ctx.save_for_backward(x, first, second)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, first, bias), F.linear(x, second)

    @staticmethod
    def backward(ctx: Any, one: Tensor, other: Tensor) -> tuple[Tensor | None, ...]:
        x, first, second = ctx.saved_tensors
        return _gradients(ctx.needs_input_grad, x, first, second, one, other)


class _JoinedProducts(torch.autograd.Function):
    """One product with both weights, one behind the other in the dtype of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Tensor, bias: Tensor | None, second: Tensor) -> Any:
        parts = (first.shape[0], second.shape[0])
        weight, both = x.new_empty(sum(parts), x.shape[-1]), None
        for part, given in zip(weight.split(parts), (first, second), strict=True):
            part.copy_(given)
        if bias is not None:
            both = x.new_zeros(sum(parts))
            both[: parts[0]].copy_(bias)
            ctx.bias_dtype = bias.dtype
        ctx.save_for_backward(x, first, second, weight)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, weight, both).split(parts, -1)

    @staticmethod
    def backward(ctx: Any, one: Tensor, other: Tensor) -> tuple[Tensor | None, ...]:
        x, first, second, weight = ctx.saved_tensors
        wanted, parts = ctx.needs_input_grad, (first.shape[0], second.shape[0])
        # A compiled backward pass knows no addresses.
        apart = torch.is_grad_enabled() or torch.compiler.is_compiling()
        both = None if apart else _rejoined(one, other)
        if both is None:
            a, b = weight.split(parts)
            if torch.is_grad_enabled():  # of which the weight is no function
                a, b = first.to(x.dtype), second.to(x.dtype)
            of_x, of_first, of_bias, of_second = _gradients(wanted, x, a, b, one, other)
        else:
            of_x = of_first = of_bias = of_second = None
            with torch.autocast(x.device.type, enabled=False):
                if wanted[0]:
                    of_x = (both @ weight).view(x.shape)
                if wanted[1] or wanted[3]:
                    of_weight = both.T @ x.reshape(-1, x.shape[-1])
                    if first.dtype == second.dtype:  # one cast for both
                        of_weight = of_weight.to(first.dtype)
                    of_first, of_second = of_weight.split(parts)
                if wanted[2]:
                    of_bias = _column_sums(both[:, : parts[0]])
        of_first = None if of_first is None else of_first.to(first.dtype)
        of_second = None if of_second is None else of_second.to(second.dtype)
        of_bias = None if of_bias is None else of_bias.to(ctx.bias_dtype)
        return of_x, of_first, of_bias, of_second


def _gradients(
    wanted: tuple[bool, ...], x: Tensor, first: Tensor, second: Tensor, one: Tensor, other: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of x, first, bias and second from those of the two products."""
    of_x = of_first = of_bias = of_second = None
    one, other, rows = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (one, other, x))
    with torch.autocast(x.device.type, enabled=False):
        if wanted[0]:
            of_x = one @ first
            # In place nothing could be differentiated again.
            again = torch.is_grad_enabled()
            of_x = of_x + other @ second if again else of_x.addmm_(other, second)
            of_x = of_x.view(x.shape)
        if wanted[1]:
            of_first = one.T @ rows
        if wanted[2]:
            of_bias = _column_sums(one)
        if wanted[3]:
            of_second = other.T @ rows
    return of_x, of_first, of_bias, of_second


def _rejoined(one: Tensor, other: Tensor) -> Tensor | None:
    """The matrix (R, E + F) of which (..., E) and (..., F) are the two parts of each row, if they are."""
    if are_gradients_batched():  # which have no storage
        return None
    one, other = one.flatten(0, -2), other.flatten(0, -2)
    width = one.shape[1] + other.shape[1]
    if (
        one.stride() == other.stride() == (width, 1)
        and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        and one.storage_offset() + one.shape[1] == other.storage_offset()
    ):
        return one.as_strided((one.shape[0], width), (width, 1))
    return None


def _column_sums(matrix: Tensor) -> Tensor:
    """The sum of all rows; on a GPU a product, which needs four fifths of the time for 32,768 of 2,240."""
    return torch.mv(matrix.T, matrix.new_ones(len(matrix))) if matrix.is_cuda else matrix.sum(0)
