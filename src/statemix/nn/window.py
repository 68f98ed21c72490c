"""The readout of the last M states of every channel, without laying the windows out in memory.

Rows t, t+M, t+2M, ... of the window matrix lie one behind the other in the hidden states themselves, so that
one batched product over M views of them gives every row. Sequences are copied apart first, with the states
before each in between: then no window reaches into a neighbour, and none needs a rule of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from statemix.kernels.precision import state_dtype
from statemix.ops.hlru import shifted_windows

from .transforms import is_autocast, is_rewritten


def window_product(
    hidden: Tensor, initial: Tensor | None, weight: Tensor, cu_seqlens: Tensor | None = None
) -> Tensor:
    """y_t = W (h_t, h_{t-1}, ..., h_{t-M+1}): what a window readout makes of hidden states.

    Args:
        hidden: (B, T, N).
        initial: (S, M, N), the window before each sequence, newest first; None where it is zero.
        weight: (D, M*N), for the newest state first.
        cu_seqlens: (S + 1,) int32 where sequences are packed in a batch of 1.

    Returns:
        (B, T, D), in the dtype of the hidden states.

    Examples:
        >>> hidden, weight = torch.randn(2, 6, 5), torch.randn(4, 15)
        >>> window_product(hidden, None, weight).shape
        torch.Size([2, 6, 4])
    """
    order = weight.shape[1] // hidden.shape[2]
    if is_autocast(hidden.device):
        weight = weight.to(hidden.dtype)
    sequences = hidden.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    rows = hidden.shape[0] * hidden.shape[1]
    # What rewrites or differentiates the program in other ways than reverse mode needs to see its plain
    # operations: it is asked first, for sizes may be symbols. And what lies between sequences is computed for
    # nothing.
    if is_rewritten() or 8 * sequences * (order - 1) > rows:
        return _plain(hidden, initial, weight, cu_seqlens)
    return _WindowProduct.apply(hidden, initial, weight, cu_seqlens)


def windows(hidden: Tensor, initial: Tensor | None, order: int, cu_seqlens: Tensor | None = None) -> Tensor:
    """The last ``order`` states at every step, laid out in memory: (B, T, M*N), newest first."""
    past = shifted_windows(hidden, initial, order - 1, cu_seqlens)
    return torch.cat([hidden[:, :, None], past], 2).flatten(2)


def _plain(hidden: Tensor, initial: Tensor | None, weight: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    return F.linear(windows(hidden, initial, weight.shape[1] // hidden.shape[2], cu_seqlens), weight)


class _WindowProduct(torch.autograd.Function):
    """Saves what it was given; its second derivatives are those of the plain operations."""

    @staticmethod
    def forward(ctx, hidden, initial, weight, cu_seqlens):
        ctx.save_for_backward(hidden, initial, weight, cu_seqlens)
        apart = _Apart.of(hidden, weight, cu_seqlens)
        oldest_first = weight.unflatten(1, (apart.order, -1)).flip(1).flatten(1)
        states = apart.put(hidden, initial)
        return apart.take(apart.products(states, oldest_first.T, ends=True))

    @staticmethod
    def backward(ctx, *grads):
        hidden, initial, weight, cu_seqlens = ctx.saved_tensors
        (grad,) = grads
        if torch.is_grad_enabled():
            return _plain_gradients(hidden, initial, weight, cu_seqlens, grad)
        apart = _Apart.of(hidden, weight, cu_seqlens)
        of_outputs = apart.put(grad)
        grad_hidden = grad_initial = grad_weight = None
        if any(ctx.needs_input_grad[:2]):
            # A state gets from the outputs up to M - 1 steps ahead of it.
            stacked = weight.unflatten(1, (apart.order, -1)).transpose(0, 1).flatten(0, 1)
            of_states = apart.products(of_outputs, stacked, ends=False)
            grad_hidden = apart.take(of_states)
            if initial is not None:
                grad_initial = apart.take_initial(of_states, initial)
        if ctx.needs_input_grad[2]:
            grad_weight = apart.weight_gradient(apart.put(hidden, initial), of_outputs)
        return grad_hidden, grad_initial, grad_weight, None


def _plain_gradients(
    hidden: Tensor, initial: Tensor | None, weight: Tensor, cu_seqlens: Tensor | None, grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The same gradients in operations that can be differentiated again."""
    inputs = [x for x in (hidden, initial, weight) if x is not None]
    wanted = [x for x in inputs if x.requires_grad]
    y = _plain(hidden, initial, weight, cu_seqlens)
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    by_place = (next(found) if x is not None and x.requires_grad else None for x in (hidden, initial, weight))
    return (*by_place, None)


@dataclass(frozen=True)
class _Apart:
    """Rows of sequences with gaps of at least M - 1 rows before, between and after them.

    order: M. rows: how many windows there are, real ones and others, a multiple of M. gap: rows before each
    sequence. shape: (B, T). index: (T,) where the steps of packed sequences are, (S, M - 1) in front of them.
    """

    order: int
    rows: int
    gap: int
    shape: tuple[int, int]
    index: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, hidden: Tensor, weight: Tensor, cu_seqlens: Tensor | None) -> _Apart:
        batch, time, channels = hidden.shape
        order = weight.shape[1] // channels
        if cu_seqlens is None:
            gap = order - 1 - (time + order - 1) % -order  # so that sequences begin at multiples of M
            return cls(order, batch * (time + gap), gap, (batch, time), None)
        gap, sequences, device = order - 1, cu_seqlens.shape[0] - 1, hidden.device
        count = torch.arange(sequences, device=device)
        of_step = torch.repeat_interleave(count, cu_seqlens.long().diff(), output_size=time)
        steps = torch.arange(time, device=device) + gap * (of_step + 1)
        before = (cu_seqlens[:-1] + gap * count)[:, None] + torch.arange(gap, device=device)
        rows = time + gap * sequences
        return cls(order, rows - rows % -order, gap, (batch, time), (steps, before))

    def put(self, x: Tensor, initial: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (rows + gap, C): zeros in the gaps, or the states (S, M, C) before each sequence."""
        batch, time = self.shape
        before = None if initial is None else initial[:, : self.order - 1].flip(1).to(x.dtype)
        if self.index is not None:
            apart = x.new_zeros(self.rows + self.gap, x.shape[2])
            apart[self.index[0]] = x[0]
            if before is not None:
                apart[self.index[1]] = before
            return apart
        apart = x.new_empty(self.rows + self.gap, x.shape[2])
        each = (self.gap + time) * x.shape[2]
        apart.as_strided((batch + 1, self.gap, x.shape[2]), (each, x.shape[2], 1)).zero_()
        sequences = self._sequences(apart)
        sequences[:, self.gap :] = x
        if before is not None:
            sequences[:, self.gap - before.shape[1] : self.gap] = before
        return apart

    def take(self, apart: Tensor) -> Tensor:
        """The steps of all sequences, (B, T, C)."""
        if self.index is not None:
            return apart[self.index[0]][None]
        return self._sequences(apart)[:, self.gap :]

    def take_initial(self, apart: Tensor, initial: Tensor) -> Tensor:
        """What lies before each sequence, as the states (S, M, C) that were put there."""
        if self.index is not None:
            before = apart[self.index[1]]
        else:
            before = self._sequences(apart)[:, self.gap - self.order + 1 : self.gap]
        return F.pad(before.flip(1).to(initial.dtype), (0, 0, 0, 1))

    def products(self, apart: Tensor, matrix: Tensor, *, ends: bool) -> Tensor:
        """Every window times a matrix (M*C, D), where the window ends or begins: (rows + gap, D)."""
        out = apart.new_empty(self.rows + self.gap, matrix.shape[1])
        first = self.order - 1 if ends else 0
        torch.bmm(
            self._windows(apart),
            matrix.expand(self.order, -1, -1),
            out=self._by_phase(out[first : first + self.rows]),
        )
        return out

    def weight_gradient(self, states: Tensor, of_outputs: Tensor) -> Tensor:
        """Outputs' gradients times windows, (D, M*C), the newest state first."""
        ending = self._by_phase(of_outputs[self.order - 1 : self.order - 1 + self.rows])
        # Each phase is rounded once, and so is their sum.
        wide = state_dtype(states.dtype)
        found = torch.bmm(ending.mT, self._windows(states)).sum(0, dtype=wide)
        return found.unflatten(1, (self.order, -1)).flip(1).flatten(1).to(states.dtype)

    def _sequences(self, apart: Tensor) -> Tensor:
        """The rows of each sequence that is not packed, its gap before it: (B, gap + T, C)."""
        batch, time = self.shape
        return apart[: self.rows].view(batch, self.gap + time, apart.shape[1])

    def _windows(self, apart: Tensor) -> Tensor:
        """Views of M rows: phase p has the windows that begin at p, p + M, ..., (M, rows / M, M*C)."""
        width = apart.shape[1]
        shape = (self.order, self.rows // self.order, self.order * width)
        return apart.as_strided(shape, (width, self.order * width, 1))

    def _by_phase(self, rows: Tensor) -> Tensor:
        """(rows, C) -> (M, rows / M, C)."""
        return rows.unflatten(0, (-1, self.order)).transpose(0, 1)
