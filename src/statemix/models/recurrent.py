"""PyTorch's LSTM and GRU behind the interface of a mixer, packed and padded sequences included."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from statemix.shapes import Boundaries, Mask, Sequence, Token


class Recurrent(nn.Module):
    """A gated recurrent network of one layer, and a projection from its hidden size to the width.

    Args:
        cell: "lstm" or "gru".
        d_model: D, the width of inputs and outputs.
        hidden_size: numbers in the hidden state; an LSTM holds as many again in its cells.

    The weights start as PyTorch's own classes draw them: uniform in +-1/sqrt(hidden_size).

    Example:
        >>> layer = Recurrent("lstm", 8, hidden_size=16)
        >>> y, (hidden, cell) = layer(torch.randn(2, 5, 8), return_state=True)
        >>> y.shape, hidden.shape
        (torch.Size([2, 5, 8]), torch.Size([2, 16]))

    Source: Hochreiter and Schmidhuber 1997 (LSTM); Cho et al. 2014, arXiv 1406.1078 (GRU).
    """

    def __init__(self, cell: str, d_model: int, *, hidden_size: int) -> None:
        super().__init__()
        kinds = {"lstm": nn.LSTM, "gru": nn.GRU}
        if cell not in kinds:
            raise ValueError(f"Recurrent: cell must be one of {tuple(kinds)}; got {cell!r}")
        self.cell = cell
        self.hidden_size = hidden_size
        self.recurrence: nn.RNNBase = kinds[cell](d_model, hidden_size, batch_first=True)
        self.output = nn.Linear(hidden_size, d_model, bias=False)

    def forward(
        self,
        x: Sequence,
        state: Any = None,
        *,
        return_state: bool = False,
        cu_seqlens: Boundaries | None = None,
        mask: Mask | None = None,
    ) -> Any:
        """x (B, T, D) -> y (B, T, D), and the state after the last real step when it is asked for.

        The state is (hidden, cell) for an LSTM and hidden alone for a GRU, each (S, hidden_size).
        """
        if cu_seqlens is not None and mask is not None:
            raise ValueError(f"{self.cell}: give cu_seqlens or mask, not both")
        if cu_seqlens is not None:
            hidden, state = self._packed(x, state, cu_seqlens)
        elif mask is not None:
            hidden, state = self._masked(x, state, mask)
        else:
            hidden, state = self._run(x, state)
        y = self.output(hidden)
        if mask is not None:
            y = torch.where(mask[..., None], y, 0.0)
        return (y, state) if return_state else y

    def step(self, x: Token, state: Any = None) -> tuple[Token, Any]:
        """One token: x (B, D) -> y (B, D) and the next state."""
        y, state = self(x[:, None], state, return_state=True)
        return y[:, 0], state

    def zero_state(self, batch: int, like: Tensor) -> Any:
        """The state before the first step."""
        zeros = like.new_zeros(batch, self.hidden_size)
        return (zeros, zeros) if self.cell == "lstm" else zeros

    def _run(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        if x.shape[1] == 0:
            state = self.zero_state(x.shape[0], x) if state is None else state
            return x.new_zeros(x.shape[0], 0, self.hidden_size), state
        hidden, final = self.recurrence(x, _map(lambda s: s[None].contiguous(), state))
        return hidden, _map(lambda s: s[0], final)

    def _ragged(self, x: Tensor, lengths: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Rows of which only the first ``lengths`` steps are real: hidden, and the states at their ends."""
        state = self.zero_state(x.shape[0], x) if state is None else state
        real = lengths > 0
        hidden = x.new_zeros(*x.shape[:2], self.hidden_size)
        if not bool(real.any()):
            return hidden, state
        packed = nn.utils.rnn.pack_padded_sequence(
            x[real], lengths[real].cpu(), batch_first=True, enforce_sorted=False
        )
        output, final = self.recurrence(packed, _map(lambda s: s[real][None].contiguous(), state))
        padded, _ = nn.utils.rnn.pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])
        rows = real.nonzero()[:, 0]
        finals = _leaves(final)
        ends = [s.index_copy(0, rows, f[0]) for s, f in zip(_leaves(state), finals, strict=True)]
        return hidden.index_copy(0, rows, padded), tuple(ends) if self.cell == "lstm" else ends[0]

    def _masked(self, x: Tensor, state: Any, mask: Tensor) -> tuple[Tensor, Any]:
        """Move each row's real steps to its front, run, and put them back where they were."""
        order = torch.argsort(~mask, dim=1, stable=True)
        index = order[..., None]
        hidden, state = self._ragged(x.gather(1, index.expand_as(x)), mask.sum(1), state)
        return torch.zeros_like(hidden).scatter(1, index.expand_as(hidden), hidden), state

    def _packed(self, x: Tensor, state: Any, cu_seqlens: Tensor) -> tuple[Tensor, Any]:
        """Lay the sequences of one row under each other, run, and lay them back in a row."""
        bounds = cu_seqlens.long()
        lengths = bounds[1:] - bounds[:-1]
        longest = int(lengths.max()) if len(lengths) else 0
        place = bounds[:-1, None] + torch.arange(longest, device=x.device)
        inside = place < bounds[1:, None]
        rows = x[0, place.clamp(max=max(x.shape[1] - 1, 0))]
        hidden, state = self._ragged(rows, lengths, state)
        return hidden[inside][None], state


def _leaves(state: Any) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def _map(function: Any, state: Any) -> Any:
    if state is None:
        return None
    return tuple(map(function, state)) if isinstance(state, tuple) else function(state)
