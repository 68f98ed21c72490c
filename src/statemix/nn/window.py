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

from .transforms import is_rewritten


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
        given, weight = weight, weight.to(hidden.dtype)  # which autocast wants, and others have
        ctx.save_for_backward(hidden, initial, given, weight, cu_seqlens)
        edges = _Edges.of(hidden, weight, cu_seqlens)
        rows = hidden.contiguous().flatten(0, 1)
        oldest_first = weight.unflatten(1, (edges.order, -1)).flip(1).flatten(1).T
        y = edges.empty(rows, weight.shape[0])
        _products(rows, oldest_first, y, edges.order - 1)
        edges.put_first(y, edges.first_windows(rows, initial) @ oldest_first)
        return edges.steps(y)

    @staticmethod
    def backward(ctx, *grads):
        hidden, initial, given, weight, cu_seqlens = ctx.saved_tensors
        (grad,) = grads
        if torch.is_grad_enabled():
            return _plain_gradients(hidden, initial, given, cu_seqlens, grad)
        edges = _Edges.of(hidden, weight, cu_seqlens)
        rows, outputs = (x.contiguous().flatten(0, 1) for x in (hidden, grad))
        grad_hidden = grad_initial = grad_weight = None
        if any(ctx.needs_input_grad[:2]):
            # A state gets from the outputs up to M - 1 steps ahead of it.
            stacked = weight.unflatten(1, (edges.order, -1)).transpose(0, 1).flatten(0, 1)
            of_states = edges.empty(rows, rows.shape[1])
            _products(outputs, stacked, of_states, 0)
            edges.put_last(of_states, _unrolled(edges.last(outputs), None) @ stacked)
            grad_hidden = edges.steps(of_states)
            if initial is not None:
                before = _unrolled(None, edges.first(outputs)) @ stacked
                oldest_first = before.view(len(initial), edges.order - 1, -1)
                grad_initial = F.pad(oldest_first.flip(1).to(initial.dtype), (0, 0, 0, 1))
        if ctx.needs_input_grad[2]:
            found = _weight_gradient(rows, outputs, edges.order)
            found += edges.first(outputs).flatten(0, 1).T @ edges.amiss(rows, initial)
            grad_weight = found.unflatten(1, (edges.order, -1)).flip(1).flatten(1).to(given.dtype)
        return grad_hidden, grad_initial, grad_weight, None


def _products(rows: Tensor, matrix: Tensor, out: Tensor, first: int) -> None:
    """Every window of M consecutive rows times a matrix: (R, C), (M*C, D) -> out (R, D) from ``first`` on."""
    order = matrix.shape[0] // rows.shape[1]
    windows, behind = _windows(rows, order)
    torch.bmm(windows, matrix.expand(order, -1, -1), out=_by_phase(out, windows.shape[1], order, first))
    if behind is not None:
        end = first + order * windows.shape[1]
        torch.mm(behind, matrix, out=out[end : end + len(behind)])


def _weight_gradient(rows: Tensor, outputs: Tensor, order: int) -> Tensor:
    """The gradients of outputs times the windows of M consecutive rows that end there: (D, M*C)."""
    windows, behind = _windows(rows, order)
    ending = _by_phase(outputs, windows.shape[1], order, order - 1)
    # Each phase is rounded once, and so is their sum.
    found = torch.bmm(ending.mT, windows).sum(0, dtype=state_dtype(rows.dtype))
    if behind is not None:
        found += outputs[-len(behind) :].T @ behind
    return found


def _windows(rows: Tensor, order: int) -> tuple[Tensor, Tensor | None]:
    """Every window of M consecutive rows, as views: phase p has those that begin at p, p + M, ...

    Returns (M, K, M*C), and the fewer than M windows behind these.
    """
    width, start = rows.shape[1], rows.storage_offset()
    each, rest = divmod(rows.shape[0] - order + 1, order)
    windows = rows.as_strided((order, each, order * width), (width, order * width, 1), start)
    if not rest:
        return windows, None
    behind = rows.as_strided((rest, order * width), (width, 1), start + order * each * width)
    return windows, behind.contiguous()


def _by_phase(rows: Tensor, each: int, order: int, first: int) -> Tensor:
    """The rows from ``first`` on, (R, C) -> (M, K, C)."""
    width = rows.shape[1]
    shape, strides = (order, each, width), (width, order * width, 1)
    return rows.as_strided(shape, strides, rows.storage_offset() + first * width)


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


class _Edges(ABC):
    """The M - 1 rows at either end of each of S sequences, among all R = B T rows."""

    spare = 0  # rows behind all others, where what belongs nowhere is put

    def __init__(self, hidden: Tensor, order: int) -> None:
        self.shape = hidden.shape[:2]
        self.order = order

    @staticmethod
    def of(hidden: Tensor, weight: Tensor, cu_seqlens: Tensor | None) -> _Edges:
        order = weight.shape[1] // hidden.shape[2]
        return _Batch(hidden, order) if cu_seqlens is None else _Packed(hidden, order, cu_seqlens)

    @abstractmethod
    def first(self, rows: Tensor) -> Tensor:
        """The first rows of every sequence, (S, M - 1, C); zeros behind a shorter one."""

    @abstractmethod
    def last(self, rows: Tensor) -> Tensor:
        """The last rows of every sequence, (S, M - 1, C); zeros before a shorter one."""

    @abstractmethod
    def put_first(self, rows: Tensor, values: Tensor) -> None: ...

    @abstractmethod
    def put_last(self, rows: Tensor, values: Tensor) -> None: ...

    @abstractmethod
    def amiss(self, states: Tensor, initial: Tensor | None) -> Tensor:
        """What the windows that end at the first rows lack among those of all rows, (S (M - 1), M*C)."""

    def empty(self, like: Tensor, width: int) -> Tensor:
        """Room for all rows, and the spare one."""
        batch, time = self.shape
        return like.new_empty(batch * time + self.spare, width)

    def steps(self, rows: Tensor) -> Tensor:
        """(B, T, C) of all rows."""
        batch, time = self.shape
        return rows[: batch * time].view(batch, time, rows.shape[1])

    def first_windows(self, states: Tensor, initial: Tensor | None) -> Tensor:
        """The windows that end at the first rows, (S (M - 1), M*C), over the states before each sequence."""
        first = self.first(states)
        return _unrolled(None if initial is None else self.before(initial).to(first.dtype), first)

    def before(self, initial: Tensor) -> Tensor:
        """The M - 1 states before each sequence, oldest first."""
        return initial[:, : self.order - 1].flip(1)


class _Batch(_Edges):
    """Sequences of T > M steps."""

    def first(self, rows: Tensor) -> Tensor:
        return self._edge(rows, 0)

    def last(self, rows: Tensor) -> Tensor:
        return self._edge(rows, self.shape[1] - self.order + 1)

    def put_first(self, rows: Tensor, values: Tensor) -> None:
        first = self.first(rows)
        first.copy_(values.view(first.shape))

    def put_last(self, rows: Tensor, values: Tensor) -> None:
        last = self.last(rows)
        last.copy_(values.view(last.shape))

    def amiss(self, states: Tensor, initial: Tensor | None) -> Tensor:
        found = self.first_windows(states, initial)
        if self.shape[0] > 1:  # no window of all rows ends at the first M - 1 of them
            found[self.order - 1 :] -= _unrolled(self.last(states)[:-1], self.first(states)[1:])
        return found

    def _edge(self, rows: Tensor, step: int) -> Tensor:
        batch, time = self.shape
        width = rows.shape[1]
        shape, strides = (batch, self.order - 1, width), (time * width, width, 1)
        return rows.as_strided(shape, strides, rows.storage_offset() + step * width)


class _Packed(_Edges):
    """Sequences one behind the other, some of them shorter than M - 1.

    first_rows, last_rows: (S, M - 1); first_real, last_real: whether they are the sequence's own.
    """

    spare = 1

    def __init__(self, hidden: Tensor, order: int, cu_seqlens: Tensor) -> None:
        super().__init__(hidden, order)
        starts, ends = cu_seqlens[:-1, None].long(), cu_seqlens[1:, None].long()
        place = torch.arange(order - 1, device=hidden.device)
        self.first_rows, self.last_rows = starts + place, ends - (order - 1) + place
        self.first_real, self.last_real = self.first_rows < ends, self.last_rows >= starts

    def first(self, rows: Tensor) -> Tensor:
        return self._taken(rows, self.first_rows, self.first_real)

    def last(self, rows: Tensor) -> Tensor:
        return self._taken(rows, self.last_rows, self.last_real)

    def put_first(self, rows: Tensor, values: Tensor) -> None:
        rows[torch.where(self.first_real, self.first_rows, self.shape[1]).flatten()] = values

    def put_last(self, rows: Tensor, values: Tensor) -> None:
        rows[torch.where(self.last_real, self.last_rows, self.shape[1]).flatten()] = values

    def amiss(self, states: Tensor, initial: Tensor | None) -> Tensor:
        before = self.first_rows - (self.order - 1)
        among_all = _unrolled(self._taken(states, before, before >= 0), self.first(states))
        # No window of all rows ends at the first M - 1 of them.
        among_all = among_all.masked_fill((before < 0).view(-1, 1), 0.0)
        found = self.first_windows(states, initial) - among_all
        return found.masked_fill(~self.first_real.view(-1, 1), 0.0)

    def _taken(self, rows: Tensor, index: Tensor, real: Tensor) -> Tensor:
        return rows[index.clamp(0, self.shape[1] - 1)].masked_fill(~real[..., None], 0.0)


def _unrolled(before: Tensor | None, after: Tensor | None) -> Tensor:
    """The windows of M rows in (S, M - 1, C) and the same behind it, zeros for None: (S (M - 1), M*C)."""
    if before is None:
        assert after is not None
        sequences, edge, width = after.shape
        timeline = F.pad(after, (0, 0, edge, 0))
    else:
        sequences, edge, width = before.shape
        timeline = F.pad(before, (0, 0, 0, edge)) if after is None else torch.cat([before, after], 1)
    shape, strides = (sequences, edge, (edge + 1) * width), (2 * edge * width, width, 1)
    return timeline.as_strided(shape, strides).reshape(sequences * edge, shape[2])
