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
        edges = _Edges.of(hidden, weight, cu_seqlens)
        oldest_first = weight.unflatten(1, (edges.order, -1)).flip(1).flatten(1)
        y = edges.empty(hidden, weight.shape[0])
        rows = hidden.flatten(0, 1)
        _products(rows, oldest_first.T, y[edges.order - 1 : rows.shape[0]])
        edges.put_first(y, edges.first_windows(rows, initial) @ oldest_first.T)
        return edges.steps(y)

    @staticmethod
    def backward(ctx, *grads):
        hidden, initial, weight, cu_seqlens = ctx.saved_tensors
        (grad,) = grads
        if torch.is_grad_enabled():
            return _plain_gradients(hidden, initial, weight, cu_seqlens, grad)
        edges = _Edges.of(hidden, weight, cu_seqlens)
        rows, outputs = hidden.flatten(0, 1), grad.contiguous().flatten(0, 1)
        grad_hidden = grad_initial = grad_weight = None
        if any(ctx.needs_input_grad[:2]):
            # A state gets from the outputs up to M - 1 steps ahead of it.
            stacked = weight.unflatten(1, (edges.order, -1)).transpose(0, 1).flatten(0, 1)
            of_states = edges.empty(hidden, hidden.shape[2])
            _products(outputs, stacked, of_states[: rows.shape[0] - edges.order + 1])
            edges.put_last(of_states, edges.last_windows(outputs) @ stacked)
            grad_hidden = edges.steps(of_states)
            if initial is not None:
                before = edges.windows_before(outputs) @ stacked
                grad_initial = F.pad(before.flip(1).to(initial.dtype), (0, 0, 0, 1))
        if ctx.needs_input_grad[2]:
            wide = state_dtype(hidden.dtype)
            found = _weight_gradient(rows, outputs[edges.order - 1 :], wide)
            amiss = edges.amiss(rows, initial).flatten(0, 1)
            found += (edges.first(outputs).flatten(0, 1).T @ amiss).to(wide)
            grad_weight = found.unflatten(1, (edges.order, -1)).flip(1).flatten(1).to(weight.dtype)
        return grad_hidden, grad_initial, grad_weight, None


def _products(rows: Tensor, matrix: Tensor, out: Tensor) -> None:
    """Every window of M consecutive rows times a matrix: (R, C), (M*C, D) -> out (R - M + 1, D)."""
    windows, phases, rest = _windows(rows, matrix.shape[0] // rows.shape[1])
    torch.bmm(windows, matrix.expand(len(windows), -1, -1), out=_by_phase(out, phases))
    if rest is not None:
        out[-len(rest) :] = rest @ matrix


def _weight_gradient(rows: Tensor, outputs: Tensor, wide: torch.dtype) -> Tensor:
    """Outputs' gradients (R - M + 1, D) times every window of M consecutive rows: (D, M*C), oldest first."""
    order = rows.shape[0] - outputs.shape[0] + 1
    windows, phases, rest = _windows(rows, order)
    # Each phase is rounded once, and so is their sum.
    found = torch.bmm(_by_phase(outputs, phases).mT, windows).sum(0, dtype=wide)
    return found if rest is None else found + (outputs[-len(rest) :].T @ rest).to(wide)


def _windows(rows: Tensor, order: int) -> tuple[Tensor, tuple[int, int], Tensor | None]:
    """Every window of M consecutive rows, as views of them: phase p has those that begin at p, p + M, ...

    Returns (M, K, M*C), (K, M), and the fewer than M windows behind these.
    """
    width = rows.shape[1]
    each, rest = divmod(rows.shape[0] - order + 1, order)
    windows = rows.as_strided((order, each, order * width), (width, order * width, 1))
    if not rest:
        return windows, (each, order), None
    behind = rows[-(rest + order - 1) :].as_strided((rest, order * width), (width, 1))
    return windows, (each, order), behind


def _by_phase(rows: Tensor, phases: tuple[int, int]) -> Tensor:
    """(R, C) -> (M, K, C), without the rows behind."""
    return rows[: phases[0] * phases[1]].unflatten(0, phases).transpose(0, 1)


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
        """What the windows that end at the first rows lack among those of all rows, (S, M - 1, M*C)."""

    def empty(self, like: Tensor, width: int) -> Tensor:
        """Room for all rows, and the spare one."""
        batch, time = self.shape
        return like.new_empty(batch * time + self.spare, width)

    def steps(self, rows: Tensor) -> Tensor:
        """(B, T, C) of all rows."""
        batch, time = self.shape
        return rows[: batch * time].view(batch, time, rows.shape[1])

    def first_windows(self, states: Tensor, initial: Tensor | None) -> Tensor:
        """The windows that end at the first rows, (S, M - 1, M*C), over the states before each sequence."""
        first = self.first(states)
        if initial is None:
            return _unrolled(torch.zeros_like(first), first)
        return _unrolled(initial[:, : self.order - 1].flip(1).to(first.dtype), first)

    def last_windows(self, outputs: Tensor) -> Tensor:
        """The windows that begin at the last rows, with zeros behind each sequence."""
        last = self.last(outputs)
        return _unrolled(last, torch.zeros_like(last))

    def windows_before(self, outputs: Tensor) -> Tensor:
        """The windows that begin at the M - 1 places before each sequence, where zeros stand."""
        first = self.first(outputs)
        return _unrolled(torch.zeros_like(first), first)


class _Batch(_Edges):
    """Sequences of T > M steps."""

    def first(self, rows: Tensor) -> Tensor:
        return self.steps(rows)[:, : self.order - 1]

    def last(self, rows: Tensor) -> Tensor:
        return self.steps(rows)[:, 1 - self.order :]

    def put_first(self, rows: Tensor, values: Tensor) -> None:
        self.first(rows).copy_(values)

    def put_last(self, rows: Tensor, values: Tensor) -> None:
        self.last(rows).copy_(values)

    def amiss(self, states: Tensor, initial: Tensor | None) -> Tensor:
        found = self.first_windows(states, initial)
        found[1:] -= _unrolled(self.last(states)[:-1], self.first(states)[1:])
        return found


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
        rows[torch.where(self.first_real, self.first_rows, self.shape[1])] = values

    def put_last(self, rows: Tensor, values: Tensor) -> None:
        rows[torch.where(self.last_real, self.last_rows, self.shape[1])] = values

    def amiss(self, states: Tensor, initial: Tensor | None) -> Tensor:
        before = self.first_rows - (self.order - 1)
        among_all = _unrolled(self._taken(states, before, before >= 0), self.first(states))
        # No window of all rows ends at the first M - 1 of them.
        among_all = among_all.masked_fill((before < 0)[..., None], 0.0)
        found = self.first_windows(states, initial) - among_all
        return found.masked_fill(~self.first_real[..., None], 0.0)

    def _taken(self, rows: Tensor, index: Tensor, real: Tensor) -> Tensor:
        return rows[index.clamp(0, self.shape[1] - 1)].masked_fill(~real[..., None], 0.0)


def _unrolled(before: Tensor, after: Tensor) -> Tensor:
    """The windows of M rows in (S, M - 1, C) and the same behind it, (S, M - 1, M*C)."""
    sequences, edge, width = after.shape
    timeline = torch.cat([before, after], 1)
    shape, strides = (sequences, edge, (edge + 1) * width), (2 * edge * width, width, 1)
    return timeline.as_strided(shape, strides).contiguous()
