"""The short causal convolution over each channel that many layers put before their recurrence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ShortConvolution(nn.Module):
    """y_t = b + sum_i w_i x_{t-i} for each channel, i = 0..kernel-1, then SiLU.

    Args:
        channels: C.
        kernel: steps that are read, the current one included.
        bias: whether there is a b.
        activation: whether SiLU follows.

    Shapes: x (B, T, C), past (B, kernel - 1, C), the inputs before x and oldest first -> y (B, T, C) and
    the inputs before whatever comes next. With ``cu_seqlens`` sequences follow each other in one row, x
    (1, T, C), and past has an entry for each.
    """

    def __init__(
        self, channels: int, *, kernel: int = 4, bias: bool = False, activation: bool = True
    ) -> None:
        super().__init__()
        self.activation = activation
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(kernel, channels))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(kernel), as PyTorch's convolutions start."""
        nn.init.uniform_(self.weight, -(self.kernel**-0.5), self.kernel**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def past_shape(self) -> tuple[int, int]:
        """(kernel - 1, C): the inputs of one sequence that the next call needs."""
        return self.kernel - 1, self.weight.shape[1]

    def forward(
        self, x: Tensor, past: Tensor, real: Tensor | None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if cu_seqlens is not None:
            return self._packed(x, past, cu_seqlens)
        whole = torch.cat([past.to(x.dtype), x], 1)
        return self._convolved(whole), last_steps(whole, self.kernel - 1, real).to(past.dtype)

    def _packed(self, x: Tensor, past: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
        before, bounds = self.kernel - 1, cu_seqlens.long()
        # A row in which every sequence has its past in front of it.
        step = torch.arange(x.shape[1], device=x.device)
        place = step + before * (1 + torch.searchsorted(bounds[1:], step, right=True))
        slot = torch.arange(before, device=x.device)
        first = before * torch.arange(past.shape[0], device=x.device)[:, None] + slot
        whole = x.new_zeros(x.shape[1] + before * past.shape[0], x.shape[2])
        whole = whole.index_copy(0, (bounds[:-1, None] + first).flatten(), past.to(x.dtype).flatten(0, 1))
        whole = whole.index_copy(0, place, x[0])
        y = self._convolved(whole[None]).index_select(1, place - before)
        return y, whole[bounds[1:, None] + first].to(past.dtype)

    def _convolved(self, whole: Tensor) -> Tensor:
        """Each step from ``kernel - 1`` on with those before it."""
        time = whole.shape[1] - self.kernel + 1
        # Shifted products rather than a grouped convolution: faster on a CPU at four taps, and mapped by
        # torch.vmap over weights.
        weight = self.weight.to(whole.dtype)
        y = whole[:, :time] * weight[0]
        for i in range(1, self.kernel):
            y = y + whole[:, i : i + time] * weight[i]
        if self.bias is not None:
            y = y + self.bias.to(whole.dtype)
        return F.silu(y) if self.activation else y


def convolved_or_activated(
    convolution: ShortConvolution | None, x: Tensor, past: tuple[Tensor, ...], real: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """x through a convolution where there is one, and the window after it; else through SiLU alone."""
    if convolution is None:
        return F.silu(x), ()
    y, window = convolution(x, past[0], real)
    return y, (window,)


def last_steps(whole: Tensor, count: int, real: Tensor | None) -> Tensor:
    """The last ``count`` real steps of each row, (B, count, C).

    ``whole`` (B, count + T, C) begins with the steps that came before; ``real`` (B, T) is True, then
    False along each row.
    """
    if real is None:
        return whole[:, whole.shape[1] - count :]
    index = real.sum(1, keepdim=True) + torch.arange(count, device=whole.device)
    return whole.gather(1, index[..., None].expand(-1, -1, whole.shape[2]))
