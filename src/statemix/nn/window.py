"""The readout of the last M states of every channel, without laying the windows out in memory.

Rows t, t+M, t+2M, ... of the window matrix lie one behind the other in the hidden states themselves, so
that products over views of them give every row. Near the start of a sequence, where a window would
reach into the one before it, rows come from the initial state and are computed apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from statemix.ops.hlru import shifted_windows


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
    if torch.is_autocast_enabled(hidden.device.type):
        weight = weight.to(hidden.dtype)
    sequences = hidden.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    rows = hidden.shape[0] * hidden.shape[1]
    # Rows near a start are computed twice; and what rewrites or differentiates the program in other ways
    # than reverse mode needs to see its plain operations.
    if 8 * sequences * (order - 1) > rows or _transformed():
        return _plain(hidden, initial, weight, cu_seqlens)
    return _WindowProduct.apply(hidden, initial, weight, cu_seqlens)


def _transformed() -> bool:
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
    )


def _plain(hidden: Tensor, initial: Tensor | None, weight: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    order = weight.shape[1] // hidden.shape[2]
    past = shifted_windows(hidden, initial, order - 1, cu_seqlens)
    return F.linear(torch.cat([hidden[:, :, None], past], 2).flatten(2), weight)


class _WindowProduct(torch.autograd.Function):
    """Saves what it was given; its second derivatives are those of the plain operations."""

    @staticmethod
    def forward(ctx, hidden, initial, weight, cu_seqlens):
        ctx.save_for_backward(hidden, initial, weight, cu_seqlens)
        edges = _Edges.of(hidden, weight, cu_seqlens)
        flat = hidden.reshape(-1, hidden.shape[2]).contiguous()
        order = edges.order
        oldest_first = weight.unflatten(1, (order, -1)).flip(1).flatten(1)
        # One row more than there are: where rows go that no sequence has.
        y = flat.new_empty(flat.shape[0] + 1, weight.shape[0])
        _strided_products(flat, oldest_first.T, y[order - 1 : -1], order)
        y[edges.first_rows] = F.linear(edges.windows(flat, initial), weight)
        return y[:-1].unflatten(0, hidden.shape[:2])

    @staticmethod
    def backward(ctx, *grads):
        hidden, initial, weight, cu_seqlens = ctx.saved_tensors
        (grad,) = grads
        if torch.is_grad_enabled():
            return _plain_gradients(hidden, initial, weight, cu_seqlens, grad)
        edges = _Edges.of(hidden, weight, cu_seqlens)
        flat, flat_grad = (x.reshape(-1, x.shape[2]).contiguous() for x in (hidden, grad))
        grad_hidden = grad_initial = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_hidden = edges.hidden_gradient(flat_grad, weight).unflatten(0, hidden.shape[:2])
        if initial is not None and ctx.needs_input_grad[1]:
            grad_initial = edges.initial_gradient(flat_grad, weight, initial)
        if ctx.needs_input_grad[2]:
            grad_weight = edges.weight_gradient(flat, flat_grad, initial)
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


def _strided_products(rows: Tensor, matrix: Tensor, out: Tensor, order: int) -> None:
    """out[t] = (rows[t], ..., rows[t + order - 1]) @ matrix, for every t whose rows exist."""
    windows, last = _windows_by_phase(rows, order)
    count = windows.shape[1]
    by_phase = out[: order * count].unflatten(0, (count, order)).transpose(0, 1)
    torch.bmm(windows, matrix.expand(order, -1, -1), out=by_phase)
    start = order * count
    torch.mm(last, matrix, out=out[start : start + last.shape[0]])


def _windows_by_phase(rows: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Windows of R rows of width D as views: phase p has those from p, p + M, ... on, (M, count, M*D).

    The last windows, fewer than M that do not fill a row of every phase, are apart: (rest, M*D).
    """
    width = rows.shape[1]
    total = max(0, rows.shape[0] - order + 1)
    count = total // order
    windows = rows.as_strided((order, count, order * width), (width, order * width, 1))
    rest = rows[order * count :]
    last = rest.as_strided((total - order * count, order * width), (width, 1), rest.storage_offset())
    return windows, last


@dataclass(frozen=True)
class _Edges:
    """The rows less than M - 1 steps from the start, and from the end, of a sequence.

    starts, ends: (S, 1), bounds in the rows of all sequences laid one after the other.
    offsets: (1, M - 1), 0, 1, ... steps from a bound.
    """

    order: int
    total: int
    starts: Tensor
    ends: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, hidden: Tensor, weight: Tensor, cu_seqlens: Tensor | None) -> _Edges:
        batch, time, channels = hidden.shape
        order, device = weight.shape[1] // channels, hidden.device
        if cu_seqlens is None:
            bounds = torch.arange(batch + 1, device=device) * time
        else:
            bounds = cu_seqlens.long()
        offsets = torch.arange(order - 1, device=device)
        return cls(order, batch * time, bounds[:-1, None], bounds[1:, None], offsets[None])

    @property
    def first_rows(self) -> Tensor:
        """Rows at 0, 1, ... steps from each start, (S * (M-1),); ``total`` where a sequence is shorter."""
        rows = self.starts + self.offsets
        return torch.where(rows < self.ends, rows, self.total).flatten()

    def windows(self, flat: Tensor, initial: Tensor | None) -> Tensor:
        """The windows of the first rows, (S * (M-1), M*N): newest first, the initial state before a start."""
        lags = torch.arange(self.order, device=flat.device)
        age = self.offsets[0][:, None] - lags  # (M-1, M), below 0 before the start
        rows = (self.starts[..., None] + age).clamp(0, self.total - 1)
        inside = (age >= 0)[None, :, :, None]
        past = flat[rows]
        if initial is None:
            found = past.masked_fill(~inside, 0.0)
        else:
            found = torch.where(inside, past, initial[:, (-1 - age).clamp(min=0)].to(past.dtype))
        return found.flatten(2).flatten(0, 1)

    def hidden_gradient(self, grad: Tensor, weight: Tensor) -> Tensor:
        """Every hidden state gets from the rows up to M - 1 steps ahead of it, in its own sequence."""
        stacked = weight.unflatten(1, (self.order, -1)).transpose(0, 1).flatten(0, 1)
        found = grad.new_empty(self.total + 1, stacked.shape[1])
        _strided_products(grad, stacked, found[:-1], self.order)
        last_rows = self.ends - 1 - self.offsets
        ahead = torch.arange(self.order, device=grad.device)
        inside = (self.offsets[0][:, None] - ahead >= 0)[None, :, :, None]
        reached = grad[(last_rows[..., None] + ahead).clamp(0, self.total - 1)].masked_fill(~inside, 0.0)
        rows = torch.where(last_rows >= self.starts, last_rows, self.total).flatten()
        found[rows] = reached.flatten(2).flatten(0, 1) @ stacked
        return found[:-1]

    def initial_gradient(self, grad: Tensor, weight: Tensor, initial: Tensor) -> Tensor:
        """The rows of the initial window get from the windows that reach over the start."""
        rows = self.starts + self.offsets
        real = (rows < self.ends)[..., None]
        first = grad[rows.clamp(0, self.total - 1)].masked_fill(~real, 0.0)
        by_lag = (first @ weight).unflatten(2, (self.order, -1)).to(initial.dtype)
        found = torch.zeros_like(initial)
        for step in range(self.order - 1):
            found[:, : self.order - 1 - step] += by_lag[:, step, step + 1 :]
        return found

    def weight_gradient(self, flat: Tensor, grad: Tensor, initial: Tensor | None) -> Tensor:
        """One product for each phase over all whole windows, then the rows near a start put right."""
        order = self.order
        windows, last = _windows_by_phase(flat, order)
        whole = order * windows.shape[1]
        later = grad[order - 1 :]
        by_phase = later[:whole].unflatten(0, (-1, order)).permute(1, 2, 0)
        # Phases side by side fill the device, where one product with an output this small would not. Each
        # is rounded once, and so is their sum.
        wide = torch.promote_types(flat.dtype, torch.float32)
        found = torch.bmm(by_phase, windows).sum(0, dtype=wide) + later[whole:].T @ last
        found = found.unflatten(1, (order, -1)).flip(1).flatten(1)
        rows = self.first_rows
        real = (rows < self.total)[:, None]
        first = grad[rows.clamp(max=self.total - 1)].masked_fill(~real, 0.0)
        found += first.T @ (self.windows(flat, initial) - self._taken(flat, rows))
        return found.to(flat.dtype)

    def _taken(self, flat: Tensor, rows: Tensor) -> Tensor:
        """What the products over whole windows took for the first rows: states of the sequence before."""
        places = rows[:, None] - torch.arange(self.order, device=flat.device)
        found = flat[places.clamp(0, self.total - 1)]
        return found.masked_fill((places < 0).any(1)[:, None, None], 0.0).flatten(1)
