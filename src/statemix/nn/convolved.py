"""A short convolution before a BD-LRU or H-LRU, so that its gates see the last tokens and not one alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .baselines.base import Baseline
from .convolution import ShortConvolution
from .layer import RecurrentLayer


class Convolved(Baseline):
    """y = layer(SiLU(convolution(x))): every channel over 4 steps, then the recurrence.

    Without it the transition of a first layer depends on the current token alone. What a token means may
    depend on the one before it, as a number does on the operator that it follows.

    Args:
        layer: a :class:`~statemix.BDLRU` or :class:`~statemix.HLRU`.

    State: (state of the layer (B, M, N), the last inputs (B, 3, D)).

    Examples:
        >>> import torch
        >>> from statemix import BDLRU
        >>> mixer = Convolved(BDLRU(16, num_blocks=5, block_size=3))
        >>> y, (state, window) = mixer(torch.randn(2, 7, 16), return_state=True)
        >>> y.shape, state.shape, window.shape
        (torch.Size([2, 7, 16]), torch.Size([2, 3, 5]), torch.Size([2, 3, 16]))

    Source: as in Mamba (arXiv 2312.00752) and the delta-rule layers (arXiv 2412.06464); not in the paper.
    """

    def __init__(self, layer: RecurrentLayer) -> None:
        super().__init__(layer.d_model)
        self.convolution = ShortConvolution(layer.d_model)
        self.layer = layer
        self.recurrent_shapes = (tuple(layer.initial_state_for(1).shape[1:]),)
        self.window_shapes = (self.convolution.past_shape,)
        self.initial_state = None
        self._find_weight()

    def reset_parameters(self) -> None:
        """As the two parts draw their own."""
        self.convolution.reset_parameters()
        self.layer.reset_parameters()

    def _start(self, batch: int, like: Tensor) -> tuple[Tensor, ...]:
        zeros, window = super()._start(batch, like)
        learned = self.layer._initial_states(batch)
        return (zeros if learned is None else learned, window)

    def _mix(
        self, x: Tensor, state: tuple[Tensor, ...], real: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        mixed, window = self.convolution(x, state[1], real)
        y, end = self.layer(mixed, state[0], return_state=True, mask=real)
        return y, (end, window)

    def _packed(self, x: Tensor, state: Any, cu_seqlens: Tensor) -> tuple[Tensor, Any]:
        """In one row as it is, since both parts know where a sequence ends."""
        sequences = cu_seqlens.shape[0] - 1
        if state is None:
            before, past = self._start(sequences, self._like(x))
        else:
            before, past = self._checked_state(state, x.new_empty(sequences, 0, x.shape[2]))
        mixed, window = self.convolution(x, past, None, cu_seqlens=cu_seqlens)
        y, end = self.layer(mixed, before, return_state=True, cu_seqlens=cu_seqlens)
        return y, (end, window)
