"""``HLRU``: mixing over the last states of a channel, as a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from statemix.kernels.reference.normalization import normalize
from statemix.ops import hlru_scan
from statemix.ops.checks import check_choice, check_size
from statemix.shapes import Sequence

from .layer import RecurrentLayer
from .plain import is_plain
from .window import window_product, windows

READOUTS = ("window", "latest")


class HLRU(RecurrentLayer):
    """h_t = sum_i a_{i,t} h_{t-i} + a_{0,t} v_t in every channel, with gates that depend on the input.

    z = W_z x + c gives each channel its logits, lags first; v = W_v x is what enters; y = W_y w reads
    the window w = (h_t, ..., h_{t-M+1}) of every channel, or h_t alone.

    Args:
        d_model: D, the width of inputs and outputs.
        num_channels: N.
        order: M, the states that a channel looks back on.
        normalization: "softmax", "sigmoid", "relu", "tanh", "linear" or "none".
        selective: False makes the gates a learned constant.
        readout: "window" or "latest"; None takes the window for a selective layer, else the latest.
        initial_state: "zeros" as in the paper, or "learned".
        gate_init: "paper", "identity" for gates that repeat the last state at first, or "closed" for states
            that nothing enters at first, which want a learned initial state (softmax, sigmoid).
        weight_init: "paper" for weights N(0, 0.02), or "fan-in" for N(0, 1/sqrt(inputs)).
        gate_noise: standard deviation of the normal noise that training adds to gate logits, so that gates
            which have to be sharp become so: what is tracked then holds far beyond the trained length.
        block_dropout: share of the channels that training leaves out of what is read, drawn anew for each
            sequence: each channel then has to find the whole rule, and none relies on others to mend it.
        recompute_gates: keep the input of the gates for the backward pass instead of their logits, the
            largest tensor of all, and compute these again: one more product for less memory.
        backend: what runs the operator; "auto" takes the best for the device.

    Shapes: (B, T, D) -> (B, T, D); state (B, M, N) float32, newest first.

    Parameters: ``gate.weight`` ((M+1)*N, D) and ``gate.bias``, rows in the order M+1, N;
    ``value.weight`` (N, D); ``output.weight`` (D, M*N) or (D, N); ``initial_state`` (M, N) when
    learned; ``gate_logits`` (M+1, N) in place of ``gate`` when not selective.

    Raises:
        ValueError, TypeError: a size below 1, an unknown choice, or a dtype that the operators do not take.

    Examples:
        >>> layer = HLRU(64, num_channels=48, order=3)
        >>> y, state = layer(torch.randn(2, 10, 64), return_state=True)
        >>> state.shape
        torch.Size([2, 3, 48])

    Source: arXiv 2602.12021, higher-order LRU.
    """

    family = "hlru"
    _operator = staticmethod(hlru_scan)

    def __init__(
        self,
        d_model: int,
        *,
        num_channels: int,
        order: int,
        normalization: str = "softmax",
        selective: bool = True,
        readout: str | None = None,
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
        check_choice("HLRU", "readout", readout, (None, *READOUTS))
        if readout is None:
            readout = "window" if selective else "latest"
        self.num_channels = num_channels = check_size("HLRU", "num_channels", num_channels)
        self.order = order = check_size("HLRU", "order", order)
        self.readout = readout
        super().__init__(
            d_model,
            rows=order,
            columns=num_channels,
            gate_shape=(order + 1, num_channels),
            value_shape=(num_channels,),
            read_shape=(order, num_channels) if readout == "window" else (num_channels,),
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
        """The companion matrix of each channel at each step, (B, T, N, M, M); acts on the left."""
        self._check_input(x, 3, "(B, T, D)")
        logits = self._gate_logits(x, x.dtype)
        lags = normalize(logits, 2, self.normalization)[:, :, : self.order].transpose(2, 3)
        shift = torch.eye(self.order, dtype=lags.dtype, device=lags.device)[:-1]
        return torch.cat([lags[..., None, :], shift.expand(*lags.shape[:3], -1, -1)], -2)

    def extra_repr(self) -> str:
        return (
            f"d_model={self.d_model}, num_channels={self.num_channels}, order={self.order}, "
            f"normalization={self.normalization!r}, selective={self.selective}, readout={self.readout!r}, "
            f"initial_state={'zeros' if self.initial_state is None else 'learned'!r}"
        )

    def _read(
        self, hidden: Tensor, initial: Tensor | None, final: Tensor, cu_seqlens: Tensor | None
    ) -> Tensor:
        if self.readout == "latest" or self.order == 1:
            return hidden
        if hidden.shape[1] == 1 and cu_seqlens is None:
            # One step: the state is the window; its rows round to what forward reads.
            return final[:, None].to(hidden.dtype).flatten(2)
        return windows(hidden, initial, self.order, cu_seqlens)

    def _readout(
        self, hidden: Tensor, initial: Tensor | None, final: Tensor, extra: int, cu_seqlens: Tensor | None
    ) -> Tensor:
        one = hidden.shape[1] == 1 and cu_seqlens is None
        if one or self.readout == "latest" or self.order == 1 or not is_plain(self.output):
            return super()._readout(hidden, initial, final, extra, cu_seqlens)
        return window_product(hidden, initial, self._output_weight(extra), cu_seqlens)

    def _advance(self, coefficients: Tensor, values: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        newest = (coefficients[:, : self.order] * state).sum(1) + coefficients[:, self.order] * values
        state = torch.cat([newest[:, None], state[:, :-1]], 1)
        return state, newest if self.readout == "latest" else state

    def _keeping_logits(self, logits: Tensor) -> Tensor:
        return logits[0]

    def _entering_logits(self, logits: Tensor) -> Tensor:
        return logits[self.order]
