"""The six ways in which a row of gate logits becomes coefficients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import wide

NORMALIZATIONS = ("softmax", "sigmoid", "relu", "tanh", "linear", "none")

RELU_EPSILON = 1e-3
SIGNED_EPSILON = 1e-6


def normalize(gate_logits: Tensor, dim: int, normalization: str) -> Tensor:
    """Coefficients of the gates along ``dim``: phi of each logit over the sum of their magnitudes.

    Computed in float32, or in float64 for float64 logits. Every choice but ``none`` bounds the sum of
    the magnitudes by one, which bounds the state (arXiv 2602.12021, proposition 1).

    Raises:
        ValueError: the name is none of :data:`NORMALIZATIONS`.

    Examples:
        >>> normalize(torch.tensor([1.0, -3.0]), 0, "linear")
        tensor([ 0.2500, -0.7500])
    """
    z = wide(gate_logits)
    if normalization == "softmax":
        return torch.softmax(z, dim)
    if normalization == "sigmoid":
        # The same quotient, taken in the exponent: sigmoid itself underflows below logits of -95.
        return torch.softmax(F.logsigmoid(z), dim)
    if normalization == "relu":
        positive = torch.relu(z)
        return positive / (positive.sum(dim, keepdim=True) + RELU_EPSILON)
    if normalization == "tanh":
        signed = torch.tanh(z)
        return signed / (signed.abs().sum(dim, keepdim=True) + SIGNED_EPSILON)
    if normalization == "linear":
        return z / (z.abs().sum(dim, keepdim=True) + SIGNED_EPSILON)
    if normalization == "none":
        return z
    raise ValueError(f"normalize: normalization must be one of {NORMALIZATIONS}; got {normalization!r}")


def row_gradient(
    gate_logits: Tensor, mixed: Tensor, out: Tensor, grad_out: Tensor, dim: int, normalization: str
) -> Tensor:
    """Gradient of the logits of a row whose output is the sum of coefficients times ``mixed``.

    With S the sum of magnitudes and phi the map of one logit, dL/dz_i is
    u phi'(z_i) (x_i - sgn(phi(z_i)) h) / S. The sign is the logit's, 0 at 0, and so is the slope of relu.

    Shapes: ``out`` and ``grad_out`` are those of ``gate_logits`` and ``mixed`` with size 1 along ``dim``.
    """
    z = wide(gate_logits)
    if normalization == "none":
        return grad_out * mixed.expand(torch.broadcast_shapes(z.shape, mixed.shape))
    if normalization in ("softmax", "sigmoid"):
        gradient = grad_out * normalize(z, dim, normalization) * (mixed - out)
        return gradient * torch.sigmoid(-z) if normalization == "sigmoid" else gradient
    if normalization == "relu":
        total = torch.relu(z).sum(dim, keepdim=True) + RELU_EPSILON
        # Selected, not multiplied: a closed gate passes nothing on, whatever it would have mixed.
        return torch.where(z > 0, grad_out * (mixed - out) / total, 0.0)
    phi = torch.tanh(z) if normalization == "tanh" else z
    slope = 1 - phi.square() if normalization == "tanh" else 1.0
    total = phi.abs().sum(dim, keepdim=True) + SIGNED_EPSILON
    return grad_out * slope * (mixed - torch.sign(z) * out) / total


def sum_to_shape(gradient: Tensor, like: Tensor) -> Tensor:
    """Sum over the batch and time that ``like`` was broadcast along, then take its dtype."""
    axes = [axis for axis in (0, 1) if like.shape[axis] == 1 and gradient.shape[axis] != 1]
    return (gradient.sum(axes, keepdim=True) if axes else gradient).to(like.dtype)
