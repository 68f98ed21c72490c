"""What layers with a matrix state in every head share: their number, their decay, their norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.kernels.precision import wide

from ._steps import draw_step_bias_
from .base import check_sizes

WIDEST_HEAD = 64


def heads_for(layer: str, width: int, num_heads: int | None, head_dim: int | None) -> tuple[int, int]:
    """The number of heads and their width, as given or so that heads of at most 64 fill ``width``.

    Examples:
        >>> heads_for("DeltaNet", 96, None, None), heads_for("DeltaNet", 96, None, 16)
        ((2, 48), (6, 16))
    """
    check_sizes(
        layer, **{n: s for n, s in (("num_heads", num_heads), ("head_dim", head_dim)) if s is not None}
    )
    if head_dim is None and num_heads is not None:
        if width % num_heads:
            raise ValueError(
                f"{layer}: num_heads must divide the width {width}; got {num_heads}: change it, "
                f"or give head_dim"
            )
        head_dim = width // num_heads
    if head_dim is None:
        head_dim = next(size for size in range(min(width, WIDEST_HEAD), 0, -1) if width % size == 0)
    return max(1, width // head_dim) if num_heads is None else num_heads, head_dim


def decay_parameters(num_heads: int) -> tuple[nn.Parameter, nn.Parameter]:
    """log A and c of a decay exp(-A softplus(z + c)); :func:`reset_decay` draws them."""
    return nn.Parameter(torch.empty(num_heads)), nn.Parameter(torch.empty(num_heads))


def reset_decay(rate: Tensor, bias: Tensor) -> None:
    """A uniform in [1, 16], and steps softplus(c) log-uniform in [0.001, 0.1], as Mamba-2 starts."""
    with torch.no_grad():
        rate.uniform_(1, 16).log_()
    draw_step_bias_(bias)


def log_decay(z: Tensor, rate: Tensor, bias: Tensor) -> Tensor:
    """-A softplus(z + c), at most 0."""
    return -wide(rate).exp() * F.softplus(wide(z) + bias)


class RMSNorm(nn.RMSNorm):
    """RMSNorm that computes in the dtype of states and gives back that of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(wide(x), self.normalized_shape, wide(self.weight), self.eps).to(x.dtype)


class HeadNorm(nn.Module):
    """RMSNorm of what each head reads, times SiLU of a gate where there is one.

    Shapes: x, gate (B, T, H, C) -> (B, T, H, C).
    """

    def __init__(self, size: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = RMSNorm(size, eps=eps)

    def forward(self, x: Tensor, gate: Tensor | None) -> Tensor:
        x = self.norm(x)
        return x if gate is None else x * F.silu(gate)


class HeadLayerNorm(nn.GroupNorm):
    """LayerNorm of what each head reads, with a scale and a shift for each of its channels.

    Shapes: x (B, T, H, C) -> (B, T, H C).
    """

    def forward(self, x: Tensor) -> Tensor:
        rows = wide(x).flatten(0, 1).flatten(1)
        normed = F.group_norm(rows, self.num_groups, wide(self.weight), wide(self.bias), self.eps)
        return normed.unflatten(0, x.shape[:2]).to(x.dtype)
