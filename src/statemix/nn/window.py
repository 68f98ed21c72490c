"""The readout of the last M states of every channel, without laying the windows out in memory.

Rows t, t+M, t+2M, ... of the window matrix lie one behind the other in the hidden states themselves, so that
one batched product over M views of them gives every row. Windows at the edges of sequences, which would reach
into a neighbour, are laid out and put in place of those.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from statemix.kernels.precision import state_dtype
from statemix.ops.hlru import shifted_windows
from statemix.ops.transforms import are_gradients_batched

from .transforms import is_autocast, is_rewritten, without_autocast


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
    sequences = hidden.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    rows = hidden.shape[0] * hidden.shape[1]
    # What rewrites or differentiates the program in other ways than reverse mode needs to see its plain
    # operations: it is asked first, for sizes may be symbols. And what lies between sequences is computed for
    # nothing.
    if is_rewritten() or 8 * sequences * (order - 1) >= rows:
        return _plain(hidden, initial, weight, cu_seqlens)
    if is_autocast(hidden.device) and hidden.dtype != torch.float64:  # which autocast leaves as it is
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    return _WindowProduct.apply(hidden, initial, weight, cu_seqlens)


def windows(hidden: Tensor, initial: Tensor | None, order: int, cu_seqlens: Tensor | None = None) -> Tensor:
    """The last ``order`` states at every step, laid out in memory: (B, T, M*N), newest first."""
    past = shifted_windows(hidden, initial, order - 1, cu_seqlens)
    return torch.cat([hidden[:, :, None], past], 2).flatten(2)


def _plain(hidden: Tensor, initial: Tensor | None, weight: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    read = windows(hidden, initial, weight.shape[1] // hidden.shape[2], cu_seqlens)
    return F.linear(read, weight.to(hidden.dtype))


class _WindowProduct(torch.autograd.Function):
    """Saves what it was given; its second derivatives are those of the plain operations."""

    @staticmethod
    def forward(ctx, hidden, initial, weight, cu_seqlens):
        ctx.save_for_backward(hidden, initial, weight, cu_seqlens)
        edges = _Edges.of(hidden, weight, cu_seqlens)
        rows = hidden.contiguous().view(-1, edges.channels)
        by_lag = weight.to(hidden.dtype).view(-1, edges.order, edges.channels)
        oldest_first = by_lag.flip(1).view(weight.shape).T
        y = edges.empty(rows, weight.shape[0])
        with without_autocast(hidden):
            edges.put_inner_windows(rows, oldest_first, y)
            edges.put_first(y, edges.windows(edges.entering(rows, initial)), oldest_first)
        return edges.steps(y)

    @staticmethod
    def backward(ctx, *grads):
        hidden, initial, weight, cu_seqlens = ctx.saved_tensors
        (grad,) = grads
        # Products have the dtype of the forward pass wherever the backward pass is called.
        with without_autocast(grad):
            if torch.is_grad_enabled() or torch.compiler.is_compiling() or are_gradients_batched():
                return _plain_gradients(hidden, initial, weight, cu_seqlens, grad)
            return _gradients(hidden, initial, weight, cu_seqlens, grad, ctx.needs_input_grad)


def _gradients(
    hidden: Tensor,
    initial: Tensor | None,
    weight: Tensor,
    cu_seqlens: Tensor | None,
    grad: Tensor,
    wanted: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    edges = _Edges.of(hidden, weight, cu_seqlens)
    rows, outputs = (x.contiguous().view(-1, x.shape[2]) for x in (hidden, grad))
    grad_hidden = grad_initial = grad_weight = None
    if any(wanted[:2]):
        grad_hidden, grad_initial = _gradients_of_states(edges, rows, outputs, weight, initial)
    if wanted[2]:
        grad_weight = _gradient_of_weight(edges, rows, outputs, initial).to(weight.dtype)
    return grad_hidden, grad_initial, grad_weight, None


def _gradients_of_states(
    edges: _Edges, rows: Tensor, outputs: Tensor, weight: Tensor, initial: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """What the states get, each from the outputs up to M - 1 steps ahead of it, and those before them."""
    newest_first = rows.new_empty(edges.order, weight.shape[0], edges.channels)
    newest_first.copy_(weight.view(-1, edges.order, edges.channels).transpose(0, 1))
    stacked = newest_first.view(-1, edges.channels)
    of_states = edges.empty(rows, edges.channels)
    edges.put_inner_windows_ahead(outputs, stacked, of_states)
    edges.put_last(of_states, edges.windows(edges.leaving(outputs)), stacked)
    if initial is None:
        return edges.steps(of_states), None
    # The states before a sequence are M - 1 steps with outputs of zero.
    before = edges.windows(edges.entering(outputs, None))[: edges.order - 1]
    oldest_first = torch.matmul(before, stacked).transpose(0, 1)
    return edges.steps(of_states), F.pad(oldest_first.flip(1).to(initial.dtype), (0, 0, 0, 1))


def _gradient_of_weight(edges: _Edges, rows: Tensor, outputs: Tensor, initial: Tensor | None) -> Tensor:
    """The outputs' gradients times the windows that end there, newest first: (D, M*C)."""
    order, width = edges.order, outputs.shape[1]
    # Each phase is rounded once, and so is their sum; so is each step of the edges.
    found = rows.new_empty(order + edges.count, width, order * edges.channels)
    edges.put_products_of_inner_windows(outputs, rows, found[:order])
    torch.bmm(edges.first(outputs).mT, edges.amiss(rows, initial), out=found[order:])
    total = found.sum(0, dtype=state_dtype(rows.dtype))
    return total.view(width, order, edges.channels).flip(1).view(width, -1)


def _plain_gradients(
    hidden: Tensor, initial: Tensor | None, weight: Tensor, cu_seqlens: Tensor | None, grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The same gradients in operations that can be differentiated, or mapped, again."""

    def product(hidden: Tensor, weight: Tensor, initial: Tensor | None = None) -> Tensor:
        return _plain(hidden, initial, weight, cu_seqlens)

    starts = () if initial is None else (initial,)
    of_hidden, of_weight, *of_starts = torch.func.vjp(product, hidden, weight, *starts)[1](grad)
    return of_hidden, of_starts[0] if of_starts else None, of_weight, None


class _Edges(ABC):
    """The rows of S sequences, R = B T in all, and the first and last E = ``count`` of each of them.

    Windows within all rows are taken in M phases of equally many, views of the rows: phase p has those that
    begin at p, p + M, ... That leaves up to M - 1 windows over, to which the edges, of at least M - 1 rows,
    grow: at the start for windows behind a row, at the end for those ahead of it.
    """

    spare = 0  # rows behind all others, where what belongs nowhere is put

    def __init__(self, hidden: Tensor, order: int) -> None:
        batch, time, self.channels = hidden.shape
        self.shape = batch, time
        self.order = order
        self.each, self.over = divmod(batch * time - order + 1, order)
        self.count = order - 1 + self.over

    @staticmethod
    def of(hidden: Tensor, weight: Tensor, cu_seqlens: Tensor | None) -> _Edges:
        order = weight.shape[1] // hidden.shape[2]
        return _Batch(hidden, order) if cu_seqlens is None else _Packed(hidden, order, cu_seqlens)

    def put_inner_windows(self, rows: Tensor, matrix: Tensor, out: Tensor) -> None:
        """The windows that end at a row times a matrix, (M*C, D): right but at the first rows."""
        windows = self._phases(rows, self.over, self.order)
        torch.bmm(windows, matrix.expand(self.order, -1, -1), out=self._phases(out, self.count))

    def put_inner_windows_ahead(self, rows: Tensor, matrix: Tensor, out: Tensor) -> None:
        """The windows that begin at a row times a matrix: right but at the last rows."""
        windows = self._phases(rows, 0, self.order)
        torch.bmm(windows, matrix.expand(self.order, -1, -1), out=self._phases(out, 0))

    def put_products_of_inner_windows(self, outputs: Tensor, rows: Tensor, out: Tensor) -> None:
        """The outputs times the windows that end there, a sum over the rows of each phase: (M, D, M*C)."""
        windows = self._phases(rows, self.over, self.order)
        torch.bmm(self._phases(outputs, self.count).mT, windows, out=out)

    def _phases(self, rows: Tensor, first: int, length: int = 1) -> Tensor:
        """``length`` rows from each of those from ``first`` on, as a view: (M, K, length*C)."""
        width = rows.shape[1]
        shape, strides = (self.order, self.each, length * width), (width, self.order * width, 1)
        return rows.as_strided(shape, strides, rows.storage_offset() + first * width)

    def windows(self, timeline: Tensor) -> Tensor:
        """The windows that begin at the first E rows of each sequence of a timeline, a view: (E, S, M*C)."""
        sequences, length, width = timeline.shape
        shape, strides = (self.count, sequences, self.order * width), (width, length * width, 1)
        return timeline.as_strided(shape, strides)

    @abstractmethod
    def first(self, rows: Tensor) -> Tensor:
        """The first rows of every sequence, (E, S, C); zeros behind a shorter one."""

    @abstractmethod
    def last(self, rows: Tensor) -> Tensor:
        """The last rows of every sequence, (E, S, C); zeros before a shorter one."""

    @abstractmethod
    def put_first(self, rows: Tensor, windows: Tensor, matrix: Tensor) -> None:
        """Products of windows, (E, S, M*C), put at the first rows."""

    @abstractmethod
    def put_last(self, rows: Tensor, windows: Tensor, matrix: Tensor) -> None:
        """Products of windows, (E, S, M*C), put at the last rows."""

    @abstractmethod
    def amiss(self, states: Tensor, initial: Tensor | None) -> Tensor:
        """What the windows that end at the first rows lack among those of the phases, (E, S, M*C)."""

    def empty(self, like: Tensor, width: int) -> Tensor:
        """Room for all rows, and the spare one."""
        batch, time = self.shape
        return like.new_empty(batch * time + self.spare, width)

    def steps(self, rows: Tensor) -> Tensor:
        """(B, T, C) of all rows."""
        batch, time = self.shape
        return (rows[: batch * time] if self.spare else rows).view(batch, time, rows.shape[1])

    def entering(self, rows: Tensor, initial: Tensor | None) -> Tensor:
        """The M - 1 rows before each sequence, zeros for None, and its first: (S, M - 1 + E, C)."""
        first = self.first(rows).transpose(0, 1)
        timeline = first.new_zeros(first.shape[0], self.order - 1 + self.count, first.shape[2])
        timeline[:, self.order - 1 :] = first
        if initial is not None:
            timeline[:, : self.order - 1] = self.before(initial)
        return timeline

    def leaving(self, rows: Tensor) -> Tensor:
        """The last rows of each sequence, and M - 1 zeros: (S, E + M - 1, C)."""
        last = self.last(rows).transpose(0, 1)
        timeline = last.new_zeros(last.shape[0], self.count + self.order - 1, last.shape[2])
        timeline[:, : self.count] = last
        return timeline

    def before(self, initial: Tensor) -> Tensor:
        """The M - 1 states before each sequence, oldest first."""
        return initial[:, : self.order - 1].flip(1)


class _Batch(_Edges):
    """Sequences of more than E steps."""

    def first(self, rows: Tensor) -> Tensor:
        return self._edge(rows, 0)

    def last(self, rows: Tensor) -> Tensor:
        return self._edge(rows, self.shape[1] - self.count)

    def put_first(self, rows: Tensor, windows: Tensor, matrix: Tensor) -> None:
        torch.bmm(windows, matrix.expand(self.count, -1, -1), out=self.first(rows))

    def put_last(self, rows: Tensor, windows: Tensor, matrix: Tensor) -> None:
        torch.bmm(windows, matrix.expand(self.count, -1, -1), out=self.last(rows))

    def amiss(self, states: Tensor, initial: Tensor | None) -> Tensor:
        # A window that a phase has from the rows before a sequence differs in these alone, while the first
        # rows of all are the end of no window there.
        edge = self.order - 1
        timeline = states.new_zeros(self.shape[0], edge + self.count, self.channels)
        timeline[0, edge:] = states[: self.count]
        if initial is not None:
            timeline[:, :edge] = self.before(initial)
        if self.shape[0] > 1:
            previous = self._edge(states, self.shape[1] - edge, edge)[:, :-1]
            timeline[1:, :edge].sub_(previous.transpose(0, 1))
        return self.windows(timeline)

    def _edge(self, rows: Tensor, step: int, count: int | None = None) -> Tensor:
        """``count`` rows from a step on, a view: (count, S, C)."""
        batch, time = self.shape
        width = rows.shape[1]
        shape, strides = (self.count if count is None else count, batch, width), (width, time * width, 1)
        return rows.as_strided(shape, strides, rows.storage_offset() + step * width)


class _Packed(_Edges):
    """Sequences one behind the other, some of them shorter than E.

    first_rows, last_rows: (E, S); first_real, last_real: whether they are the sequence's own.
    """

    spare = 1

    def __init__(self, hidden: Tensor, order: int, cu_seqlens: Tensor) -> None:
        super().__init__(hidden, order)
        starts, ends = cu_seqlens[:-1].long(), cu_seqlens[1:].long()
        place = torch.arange(self.count, device=hidden.device)[:, None]
        self.first_rows, self.last_rows = starts + place, ends - self.count + place
        self.first_real, self.last_real = self.first_rows < ends, self.last_rows >= starts

    def first(self, rows: Tensor) -> Tensor:
        return self._taken(rows, self.first_rows, self.first_real)

    def last(self, rows: Tensor) -> Tensor:
        return self._taken(rows, self.last_rows, self.last_real)

    def put_first(self, rows: Tensor, windows: Tensor, matrix: Tensor) -> None:
        rows[torch.where(self.first_real, self.first_rows, self.shape[1])] = torch.matmul(windows, matrix)

    def put_last(self, rows: Tensor, windows: Tensor, matrix: Tensor) -> None:
        rows[torch.where(self.last_real, self.last_rows, self.shape[1])] = torch.matmul(windows, matrix)

    def amiss(self, states: Tensor, initial: Tensor | None) -> Tensor:
        steps = torch.arange(1 - self.order, self.count, device=states.device)[:, None] + self.first_rows[0]
        in_phases = self.windows(self._taken(states, steps, steps >= 0).transpose(0, 1).contiguous())
        # No window of a phase ends at the first E rows.
        in_phases = in_phases.masked_fill((self.first_rows < self.count)[..., None], 0.0)
        found = self.windows(self.entering(states, initial)) - in_phases
        return found.masked_fill(~self.first_real[..., None], 0.0)

    def _taken(self, rows: Tensor, index: Tensor, real: Tensor) -> Tensor:
        return rows[index.clamp(0, self.shape[1] - 1)].masked_fill(~real[..., None], 0.0)
