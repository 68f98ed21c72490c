"""minGRU: a GRU whose gate and candidate see the input alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from statemix.kernels.precision import wide
from statemix.ops import hlru_scan
from statemix.ops.checks import check_choice
from statemix.ops.dispatch import BACKENDS

from .base import Baseline, check_sizes


class MinGRU(Baseline):
    """h_t = (1 - z_t) h_{t-1} + z_t (W x_t + c) in every channel, z_t = sigmoid(W_z x_t + c_z).

    Exactly an H-LRU of order 1 with softmax gates, one of whose two logits is held at 0.

    Args:
        d_model: D.
        hidden_size: N, channels; a projection without bias reads them out.
        initial_state: "zeros" or "learned".
        backend: what runs the scan, as of :func:`statemix.hlru_scan`.

    State: (B, 1, N).

    Examples:
        >>> MinGRU(8, hidden_size=16)(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])

    Source: Feng et al. 2024, arXiv 2410.01201, section 3.1.
    """

    def __init__(
        self, d_model: int, *, hidden_size: int, initial_state: str = "zeros", backend: str = "auto"
    ) -> None:
        super().__init__(d_model, initial_state=initial_state)
        check_sizes("MinGRU", hidden_size=hidden_size)
        check_choice("MinGRU", "backend", backend, BACKENDS)
        self.hidden_size, self.backend = hidden_size, backend
        self.recurrent_shapes = ((1, hidden_size),)
        self.gate = nn.Linear(d_model, hidden_size)
        self.value = nn.Linear(d_model, hidden_size)
        self.output = nn.Linear(hidden_size, d_model, bias=False)
        self._complete()

    def _mix(
        self, x: Tensor, state: tuple[Tensor, ...], real: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        logit, values = wide(self.gate(x)), wide(self.value(x))
        if real is not None:
            logit = torch.where(real[..., None], logit, float("-inf"))
        gates = torch.stack([torch.zeros_like(logit), logit], 2)
        hidden, end = hlru_scan(gates, values, state[0], normalization="softmax", backend=self.backend)
        return self.output(hidden.to(x.dtype)), (end,)
