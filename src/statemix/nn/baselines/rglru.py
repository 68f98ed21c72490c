"""RG-LRU: the gated real-diagonal recurrence of Griffin, inside its recurrent block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.kernels.precision import wide
from statemix.ops.checks import check_choice
from statemix.ops.dispatch import BACKENDS

from ..convolution import ShortConvolution
from ._diagonal import decaying_scan, input_scale
from .base import Baseline, check_sizes, check_switches

SHARPNESS = 8.0


class RGLRU(Baseline):
    """h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t * u_t) in every channel, a_t = sigmoid(L)^(8 r_t).

    u is a projection of x after a short convolution; r_t = sigmoid(W_r u_t + c) and i_t = sigmoid(W_i u_t
    + c'). The output is a projection of h_t times GELU of a further projection of x.

    Args:
        d_model: D.
        hidden_size: N, channels.
        convolution: whether u passes a convolution over 4 steps.
        output_gate: whether there is the GELU branch.
        initial_state: "zeros" or "learned".
        backend: what runs the scan, as of :func:`statemix.hlru_scan`.

    State: (B, 1, N), and with a convolution its past inputs (B, 3, N).

    Examples:
        >>> RGLRU(8, hidden_size=16)(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])

    Source: De et al. 2024, arXiv 2402.19427, section 2.4; gates with full matrices as written there.
    """

    no_weight_decay = (*Baseline.no_weight_decay, "retention")

    def __init__(
        self,
        d_model: int,
        *,
        hidden_size: int,
        convolution: bool = True,
        output_gate: bool = True,
        initial_state: str = "zeros",
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model, initial_state=initial_state)
        check_sizes("RGLRU", hidden_size=hidden_size)
        check_switches("RGLRU", convolution=convolution, output_gate=output_gate)
        check_choice("RGLRU", "backend", backend, BACKENDS)
        self.hidden_size, self.backend = hidden_size, backend
        self.recurrent_shapes = ((1, hidden_size),)
        self.value = nn.Linear(d_model, hidden_size, bias=False)
        self.convolution = None
        if convolution:
            self.convolution = ShortConvolution(hidden_size, bias=True, activation=False)
            self.window_shapes = (self.convolution.past_shape,)
        self.gates = nn.Linear(hidden_size, 2 * hidden_size)
        self.retention = nn.Parameter(torch.empty(hidden_size))
        self.output_gate = nn.Linear(d_model, hidden_size, bias=False) if output_gate else None
        self.output = nn.Linear(hidden_size, d_model, bias=False)
        self._complete()

    def reset_parameters(self) -> None:
        """a^8 uniform in [0.9, 0.999] at an open gate, as published."""
        super().reset_parameters()
        with torch.no_grad():
            kept = self.retention.uniform_(0.9, 0.999).pow_(1 / SHARPNESS)
            kept.logit_()

    def _mix(
        self, x: Tensor, state: tuple[Tensor, ...], real: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        u, windows = self.value(x), ()
        if self.convolution is not None:
            u, window = self.convolution(u, state[1], real)
            windows = (window,)
        recurrence, entering = wide(self.gates(u)).sigmoid().chunk(2, -1)
        log_decay = SHARPNESS * recurrence * F.logsigmoid(wide(self.retention))
        inputs = input_scale(log_decay) * entering * wide(u)
        hidden, end = decaying_scan(log_decay.exp(), inputs, state[0], real, backend=self.backend)
        hidden = hidden.to(x.dtype)
        if self.output_gate is not None:
            hidden = hidden * F.gelu(self.output_gate(x))
        return self.output(hidden), (end, *windows)
