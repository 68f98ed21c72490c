"""Mamba: a selective state space of several states a channel."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.kernels.precision import wide
from statemix.ops.checks import check_choice
from statemix.ops.dispatch import BACKENDS

from ..convolution import ShortConvolution, convolved_or_activated
from ..transforms import without_autocast
from ._diagonal import decaying_scan
from ._steps import draw_step_bias_
from .base import Baseline, check_sizes, check_switches, inner_width


class Mamba(Baseline):
    """h_t = exp(s_t A) h_{t-1} + s_t B_t u_t in every channel, with n states each; y_t = C_t . h_t + d u_t.

    u is a projection of x after a short convolution; the step s_t, B_t and C_t are projections of u, the
    step through a bottleneck of D / 16 and softplus; A is diagonal and negative. SiLU of a further
    projection of x multiplies y before the output projection.

    Args:
        d_model: D.
        state_size: n.
        expand: channels over D.
        convolution: whether there is the convolution, over 4 steps.
        output_gate: whether there is the SiLU branch.
        initial_state: "zeros" or "learned".
        backend: what runs the scan, as of :func:`statemix.hlru_scan`.

    State: (B, 1, expand D n), and with a convolution its past inputs (B, 3, expand D).

    Examples:
        >>> Mamba(8)(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])

    Source: Gu and Dao 2023, arXiv 2312.00752, section 3 and algorithm 2.
    """

    no_weight_decay = (*Baseline.no_weight_decay, "log_rate", "skip")

    def __init__(
        self,
        d_model: int,
        *,
        state_size: int = 16,
        expand: float = 2.0,
        convolution: bool = True,
        output_gate: bool = True,
        initial_state: str = "zeros",
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model, initial_state=initial_state)
        inner = inner_width("Mamba", self.d_model, expand)
        check_sizes("Mamba", state_size=state_size)
        check_switches("Mamba", convolution=convolution, output_gate=output_gate)
        check_choice("Mamba", "backend", backend, BACKENDS)
        self.inner, self.state_size, self.rank = inner, state_size, math.ceil(d_model / 16)
        self.backend = backend
        self.recurrent_shapes = ((1, inner * state_size),)
        self.value = nn.Linear(d_model, inner, bias=False)
        self.output_gate = nn.Linear(d_model, inner, bias=False) if output_gate else None
        self.convolution = ShortConvolution(inner, bias=True) if convolution else None
        if self.convolution is not None:
            self.window_shapes = (self.convolution.past_shape,)
        self.selection = nn.Linear(inner, self.rank + 2 * state_size, bias=False)
        self.step_size = nn.Linear(self.rank, inner)
        self.log_rate = nn.Parameter(torch.empty(inner, state_size))
        self.skip = nn.Parameter(torch.empty(inner))
        self.output = nn.Linear(inner, d_model, bias=False)
        self._complete()

    def reset_parameters(self) -> None:
        """A = -1..-n in every channel; steps log-uniform in [0.001, 0.1], as published."""
        super().reset_parameters()
        nn.init.ones_(self.skip)
        nn.init.uniform_(self.step_size.weight, -(self.rank**-0.5), self.rank**-0.5)
        with torch.no_grad():
            rates = torch.arange(1, self.state_size + 1, dtype=torch.float32, device=self.log_rate.device)
            self.log_rate.copy_(rates.log().expand_as(self.log_rate))
        draw_step_bias_(self.step_size.bias)

    def _mix(
        self, x: Tensor, state: tuple[Tensor, ...], real: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        u, windows = convolved_or_activated(self.convolution, self.value(x), state[1:], real)
        low, entering, reading = self.selection(u).split([self.rank, self.state_size, self.state_size], -1)
        step = F.softplus(wide(self.step_size(low)))
        decay = (step[..., None] * -wide(self.log_rate).exp()).exp().flatten(2)
        inputs = ((step * wide(u))[..., None] * wide(entering)[:, :, None]).flatten(2)
        hidden, end = decaying_scan(decay, inputs, state[0], real, backend=self.backend)
        with without_autocast(x):
            y = (hidden.unflatten(-1, (-1, self.state_size)) @ wide(reading)[..., None])[..., 0]
        y = (y + self.skip * wide(u)).to(x.dtype)
        if self.output_gate is not None:
            y = y * F.silu(self.output_gate(x))
        return self.output(y), (end, *windows)
