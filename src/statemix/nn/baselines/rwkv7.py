"""RWKV-7: a matrix state that decays by channel and is corrected along a removal key."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.kernels.precision import wide
from statemix.ops.checks import check_choice

from ..convolution import last_steps
from ._diagonal_plus_low_rank import diagonal_plus_low_rank
from ._fla import BACKENDS
from ._heads import HeadLayerNorm, heads_for
from .base import Baseline


class LowRank(nn.Module):
    """c + V f(U x): a projection through a bottleneck."""

    def __init__(self, width: int, rank: int, out: int, activation: str | None, *, bias: bool = True) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, out, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return self.up(x if self.activation is None else getattr(x, self.activation)())


class RWKV7(Baseline):
    """S_t = (diag(w_t) - (a_t * k^_t) k^_t^T) S_{t-1} + k~_t v_t^T in every head; the output reads S_t^T r_t.

    Each of r, w, k, v, a, g sees x_t mixed with x_{t-1} in proportions of its own. w = exp(-e^{-1/2}
    sigmoid), a = sigmoid and g come through bottlenecks; k^ is k scaled by channel and of length one; k~
    leans k towards a k. What is read is group-normed, (r . rho k~) v is added, and g multiplies.

    Args:
        d_model: D.
        num_heads, head_dim: H and K. Default: heads of at most 64 that fill the width.
        initial_state: "zeros" or "learned".
        backend: "auto" takes fla's kernels for half precision on a GPU where the package is installed,
            else "torch"; "fla" raises where they cannot run.

    The published value residual, by which later layers see the values of the first, is left out: it ties
    layers to each other.

    State: S (B, H, K, K), and the input before (B, 1, D).

    Examples:
        >>> RWKV7(16, num_heads=2)(torch.randn(2, 5, 16)).shape
        torch.Size([2, 5, 16])

    Source: Peng et al. 2025, arXiv 2503.14456, section 4.
    """

    no_weight_decay = (*Baseline.no_weight_decay, "shift", "removal", "lean", "bonus")

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int | None = None,
        head_dim: int | None = None,
        initial_state: str = "zeros",
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model, initial_state=initial_state)
        check_choice("RWKV7", "backend", backend, BACKENDS)
        self.num_heads, self.head_dim = heads_for("RWKV7", d_model, num_heads, head_dim)
        self.backend = backend
        inner = self.num_heads * self.head_dim
        self.recurrent_shapes = ((self.num_heads, self.head_dim, self.head_dim),)
        self.window_shapes = ((1, d_model),)
        # Proportions of r, w, k, v, a, g.
        self.shift = nn.Parameter(torch.empty(6, d_model))
        self.receptance = nn.Linear(d_model, inner, bias=False)
        self.key = nn.Linear(d_model, inner, bias=False)
        self.value = nn.Linear(d_model, inner, bias=False)
        self.decay = LowRank(d_model, _rank(2.5, d_model), inner, "tanh")
        self.rate = LowRank(d_model, _rank(2.5, d_model), inner, None)
        self.gate = LowRank(d_model, _rank(5.0, d_model), inner, "sigmoid", bias=False)
        self.removal = nn.Parameter(torch.empty(inner))
        self.lean = nn.Parameter(torch.empty(inner))
        self.bonus = nn.Parameter(torch.empty(self.num_heads, self.head_dim))
        self.norm = HeadLayerNorm(self.num_heads, inner, eps=1e-5 * self.head_dim)
        self.output = nn.Linear(inner, d_model, bias=False)
        self._complete()

    def reset_parameters(self) -> None:
        """Proportions, decays and scales as published for a first layer; decays rise over the channels."""
        super().reset_parameters()
        device = self.shift.device
        with torch.no_grad():
            channel = torch.arange(self.d_model, device=device) / self.d_model
            for part, power in zip(self.shift, (0.2, 0.9, 0.7, 0.7, 0.9, 0.2), strict=True):
                part.copy_(1 - channel**power)
            inner = self.removal.shape[0]
            self.decay.up.bias.copy_(-5.5 + 6 * torch.arange(inner, device=device) / max(inner - 1, 1))
            self.rate.up.bias.fill_(-0.19)
            self.removal.fill_(0.71)
            self.lean.fill_(1.02)
            self.bonus.fill_(-0.04)

    def _mix(
        self, x: Tensor, state: tuple[Tensor, ...], real: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        whole = torch.cat([state[1].to(x.dtype), x], 1)
        difference = whole[:, :-1] - x
        of_r, of_w, of_k, of_v, of_a, of_g = (x + difference * part for part in self.shift.to(x.dtype))
        r, key, value = self._heads(self.receptance(of_r)), self.key(of_k), self._heads(self.value(of_v))
        log_decay = -math.exp(-0.5) * wide(self.decay(of_w)).sigmoid()
        rate = self.rate(of_a).sigmoid()
        removal = F.normalize(self._heads(key * self.removal), dim=-1)
        key = self._heads(key * (1 + (rate - 1) * self.lean))
        rate, log_decay = self._heads(rate), self._heads(log_decay)
        written, left = key, removal * rate
        if real is not None:
            now = real[..., None, None]
            written, left = torch.where(now, written, 0.0), torch.where(now, left, 0.0)
            log_decay = torch.where(now, log_decay, 0.0)
        read, end = diagonal_plus_low_rank(
            r, written, value, left, -removal, log_decay, state[0], backend=self.backend
        )
        read = self.norm(read) + ((r * self.bonus * key).sum(-1, keepdim=True) * value).flatten(2)
        window = last_steps(whole, 1, real).to(state[1].dtype)
        return self.output(read * self.gate(of_g)), (end, window)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim))


def _rank(factor: float, width: int) -> int:
    """Bottlenecks grow with the root of the width, in steps of 32."""
    return max(32, round(factor * math.sqrt(width) / 32) * 32)
