"""Mamba-2: a selective state space whose heads decay as a whole, computed as linear attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.kernels.precision import wide
from statemix.ops.checks import check_choice

from ..convolution import ShortConvolution, convolved_or_activated
from ._fla import BACKENDS
from ._heads import RMSNorm, decay_parameters, heads_for, reset_decay
from ._linear_attention import linear_attention
from .base import Baseline, check_sizes, check_switches, inner_width


class Mamba2(Baseline):
    """S_t = exp(-s_t A) S_{t-1} + s_t B_t u_t^T in every head, y_t = S_t^T C_t + d u_t.

    u, B and C are projections of x after one short convolution; B and C serve all heads; the step is
    s_t = softplus(w x + c), one a head, and A a positive number a head. SiLU of a further projection
    of x multiplies y, then come an RMSNorm and the output projection.

    Args:
        d_model: D.
        state_size: n, rows of the state.
        head_dim: P, channels of a head. Default: at most 64, dividing the inner width.
        expand: inner width over D; the heads are expand D / P.
        convolution: whether there is the convolution, over 4 steps; without it, SiLU alone.
        output_gate: whether there is the SiLU branch.
        initial_state: "zeros" or "learned".
        backend: "auto" takes fla's kernels for half precision on a GPU where the package is installed,
            else "torch"; "fla" raises where they cannot run.

    State: S (B, heads, n, P), and with a convolution its past inputs (B, 3, expand D + 2 n).

    Raises:
        ValueError: heads that do not divide the inner width, sizes below one, or an unknown choice.

    Examples:
        >>> layer = Mamba2(16, state_size=8, head_dim=8)
        >>> y, (matrices, window) = layer(torch.randn(2, 5, 16), return_state=True)
        >>> matrices.shape
        torch.Size([2, 4, 8, 8])

    Source: Dao and Gu 2024, arXiv 2405.21060, sections 6 and 7.
    """

    no_weight_decay = (*Baseline.no_weight_decay, "decay_rate", "decay_bias", "skip")

    def __init__(
        self,
        d_model: int,
        *,
        state_size: int = 64,
        head_dim: int | None = None,
        expand: float = 2.0,
        convolution: bool = True,
        output_gate: bool = True,
        initial_state: str = "zeros",
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model, initial_state=initial_state)
        inner = inner_width("Mamba2", self.d_model, expand)
        check_sizes("Mamba2", state_size=state_size)
        check_switches("Mamba2", convolution=convolution, output_gate=output_gate)
        check_choice("Mamba2", "backend", backend, BACKENDS)
        self.num_heads, self.head_dim = heads_for("Mamba2", inner, None, head_dim)
        if self.num_heads * self.head_dim != inner:
            raise ValueError(
                f"Mamba2: head_dim must divide the inner width expand * d_model = {inner}; got {head_dim}: "
                f"change it, or leave it out"
            )
        self.state_size, self.backend = state_size, backend
        self.recurrent_shapes = ((self.num_heads, state_size, self.head_dim),)
        self._widths = (inner, state_size, state_size)
        self.selection = nn.Linear(d_model, sum(self._widths), bias=False)
        self.convolution = ShortConvolution(sum(self._widths), bias=True) if convolution else None
        if self.convolution is not None:
            self.window_shapes = (self.convolution.past_shape,)
        self.decay = nn.Linear(d_model, self.num_heads, bias=False)
        self.decay_rate, self.decay_bias = decay_parameters(self.num_heads)
        self.skip = nn.Parameter(torch.empty(self.num_heads))
        self.output_gate = nn.Linear(d_model, inner, bias=False) if output_gate else None
        self.norm = RMSNorm(inner, eps=1e-5)
        self.output = nn.Linear(inner, d_model, bias=False)
        self._complete()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.ones_(self.skip)
        reset_decay(self.decay_rate, self.decay_bias)

    def _mix(
        self, x: Tensor, state: tuple[Tensor, ...], real: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        mixed, windows = convolved_or_activated(self.convolution, self.selection(x), state[1:], real)
        u, entering, reading = mixed.split(self._widths, -1)
        u = u.unflatten(-1, (self.num_heads, -1))
        step = F.softplus(wide(self.decay(x)) + self.decay_bias)
        if real is not None:
            # A step of no length changes nothing.
            step = torch.where(real[..., None], step, 0.0)
        shared = (*x.shape[:2], self.num_heads, self.state_size)
        y, end = linear_attention(
            reading[:, :, None].expand(shared),
            entering[:, :, None].expand(shared),
            (step[..., None] * wide(u)).to(u.dtype),
            -wide(self.decay_rate).exp() * step,
            state[0],
            backend=self.backend,
        )
        y = (y + self.skip.to(u.dtype)[:, None] * u).flatten(2)
        if self.output_gate is not None:
            y = y * F.silu(self.output_gate(x))
        return self.output(self.norm(y)), (end, *windows)
