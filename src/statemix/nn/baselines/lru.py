"""The complex-diagonal LRU, with and without selection."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from statemix.kernels.precision import wide
from statemix.ops.checks import check_choice
from statemix.ops.dispatch import BACKENDS

from ._diagonal import input_scale, turning_scan
from .base import Baseline, check_sizes


class LRU(Baseline):
    """h_t = l h_{t-1} + g B x_t with complex diagonal l, |l| < 1; y_t = Re(C h_t) + d x_t.

    l = exp(-exp(nu) + i theta), the same at every step; g = sqrt(1 - |l|^2) at first, then learned.

    Args:
        d_model: D.
        hidden_size: N, complex states.
        initial_state: "zeros" or "learned".
        backend: what runs the scan, as of :func:`statemix.bdlru_scan`.

    State: (B, 2, N), real and imaginary parts.

    Examples:
        >>> layer = LRU(8, hidden_size=16)
        >>> y, state = layer(torch.randn(2, 5, 8), return_state=True)
        >>> y.shape, state.shape
        (torch.Size([2, 5, 8]), torch.Size([2, 2, 16]))

    Source: Orvieto et al. 2023, arXiv 2303.06349, section 3 and appendix A.
    """

    no_weight_decay = (*Baseline.no_weight_decay, "log_rate", "phase", "log_scale", "skip")

    def __init__(
        self, d_model: int, *, hidden_size: int, initial_state: str = "zeros", backend: str = "auto"
    ) -> None:
        super().__init__(d_model, initial_state=initial_state)
        name = type(self).__name__
        check_sizes(name, hidden_size=hidden_size)
        check_choice(name, "backend", backend, BACKENDS)
        self.hidden_size, self.backend = hidden_size, backend
        self.recurrent_shapes = ((2, hidden_size),)
        self.value = nn.Linear(d_model, 2 * hidden_size, bias=False)
        self.output = nn.Linear(2 * hidden_size, d_model, bias=False)
        self.log_rate = nn.Parameter(torch.empty(hidden_size))
        self.phase = nn.Parameter(torch.empty(hidden_size))
        self.skip = nn.Parameter(torch.empty(d_model))
        self._build()
        self._complete()

    def _build(self) -> None:
        self.log_scale = nn.Parameter(torch.empty(self.hidden_size))

    def reset_parameters(self) -> None:
        """|l|^2 uniform in [0.81, 0.998], phases uniform in the circle; B, C as Glorot draws them."""
        super().reset_parameters()
        with torch.no_grad():
            self.log_rate.uniform_(0.9**2, 0.999**2).log_().mul_(-0.5)
            if hasattr(self, "log_scale"):
                self.log_scale.copy_(torch.log(-torch.expm1(-2 * self.log_rate)) / 2)
            self.log_rate.log_()
            self.phase.uniform_(0, 2 * math.pi)
            self.skip.normal_()
        nn.init.normal_(self.value.weight, std=(2 * self.d_model) ** -0.5)
        nn.init.normal_(self.output.weight, std=self.hidden_size**-0.5)

    def _mix(
        self, x: Tensor, state: tuple[Tensor, ...], real: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        transition, scale = self._transition(x)
        inputs = wide(self.value(x)).unflatten(-1, (2, -1)) * scale
        hidden, end = turning_scan(transition, inputs, state[0], real, backend=self.backend)
        # Re(C h), the sign of the imaginary part left to the weights.
        return self.output(hidden.flatten(2).to(x.dtype)) + self.skip * x, (end,)

    def _transition(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Real and imaginary part of l, (#B, #T, N), and what scales the input, (#B, #T, 1, N)."""
        size = (-wide(self.log_rate).exp()).exp()[None, None]
        angle = wide(self.phase)[None, None]
        return (size * angle.cos(), size * angle.sin()), wide(self.log_scale).exp()


class SelectiveLRU(LRU):
    """An LRU whose transition and input are gated by x: h_t = l_t h_{t-1} + sqrt(1 - |l_t|^2) i_t B x_t.

    l_t = l^(2 r_t) with r_t = sigmoid(W_r x_t + c): more gate decays and turns more, and at r_t = 1/2 this
    is the LRU; i_t = sigmoid(W_i x_t + c').

    Arguments and state as of :class:`LRU`.

    Examples:
        >>> SelectiveLRU(8, hidden_size=16)(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])

    Source: De et al. 2024, arXiv 2402.19427, appendix B (complex-gated linear recurrent unit), with 2 r_t
    for its 8 r_t.
    """

    def _build(self) -> None:
        self.gates = nn.Linear(self.d_model, 2 * self.hidden_size)

    def _transition(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        turn, entering = wide(self.gates(x)).sigmoid().chunk(2, -1)
        log_size = -2 * turn * wide(self.log_rate).exp()
        angle = 2 * turn * wide(self.phase)
        size = log_size.exp()
        scale = input_scale(log_size) * entering
        return (size * angle.cos(), size * angle.sin()), scale[:, :, None]
