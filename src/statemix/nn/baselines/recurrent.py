"""LSTM and GRU: PyTorch's fused kernels, or a plain loop over time that every transform can take."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from statemix.ops.checks import check_choice

from ..transforms import has_values, is_transformed
from .base import Baseline, check_sizes

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
GATES = {"lstm": 4, "gru": 3}


class Weights(nn.Module):
    """The parameters of PyTorch's recurrent modules, by their names, without the modules.

    torch.compile refuses whatever holds one of those.
    """

    def __init__(self, gates: int, width: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih_l0 = nn.Parameter(torch.empty(gates * hidden_size, width))
        self.weight_hh_l0 = nn.Parameter(torch.empty(gates * hidden_size, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(gates * hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(gates * hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(hidden_size)."""
        bound = self.hidden_size**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)


BACKENDS = ("auto", "torch")


class Recurrent(Baseline):
    """A gated recurrent network of one layer, and a projection from its hidden size to the width.

    Args:
        cell: "lstm" or "gru".
        d_model: D, the width of inputs and outputs.
        hidden_size: numbers in the hidden state; an LSTM holds as many again in its cells.
        initial_state: "zeros" or "learned".
        backend: "auto" takes PyTorch's own kernel (cuDNN on an NVIDIA GPU) where it can run, and the
            plain loop under torch.func transforms and where a mask has no values (on the device "meta");
            "torch" always takes the loop, which
            ``torch.compile(fullgraph=True)`` and a compiled ``vmap`` need.

    The state is (hidden, cell) for an LSTM and hidden alone for a GRU, each (B, hidden_size). The weights
    start as PyTorch's own classes draw them: uniform in +-1/sqrt(hidden_size).

    Examples:
        >>> layer = Recurrent("lstm", 8, hidden_size=16)
        >>> y, (hidden, cell) = layer(torch.randn(2, 5, 8), return_state=True)
        >>> y.shape, hidden.shape
        (torch.Size([2, 5, 8]), torch.Size([2, 16]))

    Source: Hochreiter and Schmidhuber 1997 (LSTM); Cho et al. 2014, arXiv 1406.1078 (GRU).
    """

    def __init__(
        self,
        cell: str,
        d_model: int,
        *,
        hidden_size: int,
        initial_state: str = "zeros",
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model, initial_state=initial_state)
        check_choice("Recurrent", "cell", cell, tuple(CELLS))
        check_choice("Recurrent", "backend", backend, BACKENDS)
        check_sizes("Recurrent", hidden_size=hidden_size)
        self.cell, self.hidden_size, self.backend = cell, hidden_size, backend
        self.recurrent_shapes = ((hidden_size,),) * (2 if cell == "lstm" else 1)
        self.recurrence: nn.Module
        if backend == "torch":
            self.recurrence = Weights(GATES[cell], d_model, hidden_size)
        else:
            self.recurrence = CELLS[cell](d_model, hidden_size, batch_first=True)
        self.output = nn.Linear(hidden_size, d_model, bias=False)
        self._complete()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.output.reset_parameters()

    def _mix(
        self, x: Tensor, state: tuple[Tensor, ...], real: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self.backend == "torch" or is_transformed() or (real is not None and not has_values(real)):
            hidden, final = self._loop(x, state, real)
        elif real is None:
            hidden, final = self._fused(x, state)
        else:
            hidden, final = self._ragged(x, state, real)
        final = tuple(f.to(s.dtype) for f, s in zip(final, state, strict=True))
        return self.output(hidden), final

    def _fused(self, x: Any, state: tuple[Tensor, ...]) -> tuple[Any, tuple[Tensor, ...]]:
        dtype = self._like(x.data if isinstance(x, PackedSequence) else x).dtype
        first = tuple(s[None].to(dtype).contiguous() for s in state)
        hidden, final = self.recurrence(x, first if self.cell == "lstm" else first[0])
        return hidden, tuple(f[0] for f in (final if self.cell == "lstm" else (final,)))

    def _ragged(
        self, x: Tensor, state: tuple[Tensor, ...], real: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The fused kernel on rows of which only the first steps are real; it takes no empty rows."""
        lengths = real.sum(1)
        rows = lengths.nonzero()[:, 0]
        if not len(rows):
            return x.new_zeros(*x.shape[:2], self.hidden_size), state
        packed = pack_padded_sequence(x[rows], lengths[rows].cpu(), batch_first=True, enforce_sorted=False)
        output, final = self._fused(packed, tuple(s[rows] for s in state))
        padded, _ = pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])
        hidden = padded.new_zeros(*x.shape[:2], self.hidden_size).index_copy(0, rows, padded)
        ends = (s.index_copy(0, rows, f.to(s.dtype)) for s, f in zip(state, final, strict=True))
        return hidden, tuple(ends)

    def _loop(
        self, x: Tensor, state: tuple[Tensor, ...], real: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        weights: Any = self.recurrence
        cell = _lstm_cell if self.cell == "lstm" else _gru_cell
        entering = F.linear(x, weights.weight_ih_l0, weights.bias_ih_l0)
        state = tuple(s.to(entering.dtype) for s in state)
        hidden = []
        # Unbound once: a slice a step would make backward write whole tensors a step.
        for t, now in enumerate(entering.unbind(1)):
            # What the last state adds to every gate; gates in the order of PyTorch's weights.
            again = F.linear(state[0], weights.weight_hh_l0, weights.bias_hh_l0)
            after = cell(now, again, state)
            if real is not None:
                after = tuple(torch.where(real[:, t, None], a, s) for a, s in zip(after, state, strict=True))
            state = after
            hidden.append(state[0])
        return torch.stack(hidden, 1), state


def _lstm_cell(entering: Tensor, again: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    i, f, g, o = (entering + again).chunk(4, -1)
    cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _gru_cell(entering: Tensor, again: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    r_in, z_in, n_in = entering.chunk(3, -1)
    r_again, z_again, n_again = again.chunk(3, -1)
    z = (z_in + z_again).sigmoid()
    new = (n_in + (r_in + r_again).sigmoid() * n_again).tanh()
    return ((1 - z) * new + z * state[0],)
