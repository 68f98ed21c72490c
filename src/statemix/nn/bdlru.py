"""``BDLRU``: dense mixing inside small blocks of channels, as a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from statemix.kernels.reference.normalization import normalize
from statemix.ops import bdlru_scan
from statemix.ops.checks import check_size
from statemix.shapes import Sequence

from .layer import RecurrentLayer


class BDLRU(RecurrentLayer):
    """h_t = A_t h_{t-1} + b_t * v_t in every block, with gates that depend on the input.

    z = W_z x + c gives each row of each block its logits, normalised to (A_t, b_t); v = W_v x is what
    enters; y = W_y h is what is read.

    Args:
        d_model: D, the width of inputs and outputs.
        num_blocks: N.
        block_size: M, the states that mix with each other. 1 is a diagonal gated recurrence; from 3
            on a block with softmax gates can turn, and so compose permutations.
        normalization: "softmax", "sigmoid", "relu", "tanh", "linear" or "none".
        selective: False makes the gates a learned constant.
        initial_state: "zeros" as in the paper, or "learned", which state tracking wants.
        gate_init: "paper", "identity" for gates that keep the state at first, or "closed" for states that
            nothing enters at first, which want a learned initial state (softmax, sigmoid).
        weight_init: "paper" for weights N(0, 0.02), or "fan-in" for N(0, 1/sqrt(inputs)).
        gate_noise: standard deviation of the normal noise that training adds to gate logits, so that gates
            which have to be sharp become so: what is tracked then holds far beyond the trained length.
        block_dropout: share of the blocks that training leaves out of what is read, drawn anew for each
            sequence: each block then has to find the whole rule, and none relies on others to mend it.
        recompute_gates: keep the input of the gates for the backward pass instead of their logits, the
            largest tensor of all, and compute these again: one more product for less memory.
        backend: what runs the operator; "auto" takes the best for the device.

    Shapes: (B, T, D) -> (B, T, D); state (B, M, N) float32.

    Parameters: ``gate.weight`` (M*(M+1)*N, D) and ``gate.bias``, rows in the order M, M+1, N;
    ``value.weight`` (M*N, D); ``output.weight`` (D, M*N); ``initial_state`` (M, N) when learned;
    ``gate_logits`` (M, M+1, N) in place of ``gate`` when not selective.

    Raises:
        ValueError, TypeError: a size below 1, an unknown choice, or a dtype that the operators do not take.

    Examples:
        >>> layer = BDLRU(64, num_blocks=16, block_size=3)
        >>> y, state = layer(torch.randn(2, 10, 64), return_state=True)
        >>> y_next, state = layer.step(torch.randn(2, 64), state)
        >>> y_next.shape
        torch.Size([2, 64])

    Source: arXiv 2602.12021, block diagonal LRU.
    """

    family = "bdlru"
    _operator = staticmethod(bdlru_scan)

    def __init__(
        self,
        d_model: int,
        *,
        num_blocks: int,
        block_size: int,
        normalization: str = "softmax",
        selective: bool = True,
        initial_state: str = "zeros",
        gate_init: str = "paper",
        weight_init: str = "paper",
        gate_noise: float = 0.0,
        block_dropout: float = 0.0,
        recompute_gates: bool = False,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.num_blocks = num_blocks = check_size("BDLRU", "num_blocks", num_blocks)
        self.block_size = block_size = check_size("BDLRU", "block_size", block_size)
        super().__init__(
            d_model,
            rows=block_size,
            columns=num_blocks,
            gate_shape=(block_size, block_size + 1, num_blocks),
            value_shape=(block_size, num_blocks),
            read_shape=(block_size, num_blocks),
            normalization=normalization,
            selective=selective,
            initial_state=initial_state,
            gate_init=gate_init,
            weight_init=weight_init,
            gate_noise=gate_noise,
            block_dropout=block_dropout,
            recompute_gates=recompute_gates,
            backend=backend,
            device=device,
            dtype=dtype,
        )

    def transition(self, x: Sequence) -> Tensor:
        """A_t of each block at each step, (B, T, N, M, M); acts on the left."""
        self._check_input(x, 3, "(B, T, D)")
        logits = self._gate_logits(x, x.dtype)
        coefficients = normalize(logits, 3, self.normalization)
        return coefficients[:, :, :, : self.block_size].permute(0, 1, 4, 2, 3)

    def extra_repr(self) -> str:
        return (
            f"d_model={self.d_model}, num_blocks={self.num_blocks}, block_size={self.block_size}, "
            f"normalization={self.normalization!r}, selective={self.selective}, "
            f"initial_state={'zeros' if self.initial_state is None else 'learned'!r}"
        )

    def _advance(self, coefficients: Tensor, values: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        mixed = (coefficients[:, :, : self.block_size] * state[:, None]).sum(2)
        state = mixed + coefficients[:, :, self.block_size] * values
        return state, state

    def _keeping_logits(self, logits: Tensor) -> Tensor:
        return logits[:, : self.block_size].diagonal()

    def _entering_logits(self, logits: Tensor) -> Tensor:
        return logits[:, self.block_size]
