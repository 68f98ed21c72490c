"""A cache of keys and values with room behind it: a step writes one place, and copies nothing.

What a caller holds are views of the places that are filled, so a state is what it was: a tuple of tensors
that never change. Only the newest state of a buffer is gone on from in place. Two continuations of one state
therefore stay apart: the second finds that its room is taken, and gets a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..transforms import is_transformed

State = tuple[Tensor, Tensor, Tensor]

# Where the places lie in keys and values (B, heads, T, head_dim) and real (B, T).
_PLACES = (2, 2, 1)

# A cache doubles until it is this much ahead. A step reads the whole cache in any case: one copy in that many
# steps is not seen beside it.
_MOST_SPARE = 256


@dataclass(frozen=True)
class _Room:
    """Buffers, and the values and real places of the state that may be written behind."""

    buffers: State
    values: Tensor
    real: Tensor

    def fits(self, state: State, total: int) -> bool:
        """Whether this is all of the state that it was made for, and ``total`` places go in."""
        buffer = self.buffers[0]
        if buffer.is_inference() and not torch.is_inference_mode_enabled():
            return False
        return state[1] is self.values and state[2] is self.real and buffer.shape[2] >= total


# By the keys of a buffer's newest state, and gone with them.
_ROOMS = WeakIdKeyDictionary()
_LOCK = Lock()


def appended(state: State, new: State) -> State:
    """Keys, values and real places of ``state``, and ``new`` behind them."""
    keys, values, real = state
    state = (keys.to(new[0].dtype), values.to(new[1].dtype), real)
    past, total = keys.shape[2], keys.shape[2] + new[0].shape[2]
    if past == 0 or not _may_write(state, new):
        return _each(lambda old, more, dim: torch.cat([old, more], dim), state, new)
    with _LOCK:
        room = _ROOMS.pop(state[0], None)
    if room is None or not room.fits(state, total):
        buffers = _each(lambda old, _, dim: _moved(old, dim, total + min(total, _MOST_SPARE)), state, new)
    else:
        buffers = room.buffers
    _each(lambda buffer, more, dim: buffer.narrow(dim, past, total - past).copy_(more), buffers, new)
    after = _each(lambda buffer, _, dim: buffer.narrow(dim, 0, total), buffers, new)
    _ROOMS[after[0]] = _Room(buffers, after[1], after[2])
    return after


def _may_write(state: State, new: State) -> bool:
    """Whether no autograd, compiler, transform or trace looks on, which want every state for itself."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or is_transformed() or _is_traced():
        return False
    if any(type(tensor) is not Tensor for tensor in (*state, *new)):
        return False
    # Writing would stretch a batch of one, where concatenation says that sizes differ.
    return all(
        old.shape[:dim] + old.shape[dim + 1 :] == more.shape[:dim] + more.shape[dim + 1 :]
        and old.device == more.device
        for old, more, dim in zip(state, new, _PLACES, strict=True)
    )


def _is_traced() -> bool:
    """Whether torch.jit or make_fx records: a buffer would become a constant of what they write down."""
    dispatch: Any = torch._C
    proxies = dispatch._get_dispatch_mode(dispatch._TorchDispatchModeKey.PROXY)
    return torch.jit.is_tracing() or proxies is not None


def _moved(old: Tensor, dim: int, places: int) -> Tensor:
    """A larger buffer that begins with ``old``."""
    shape = list(old.shape)
    past, shape[dim] = shape[dim], places
    buffer = old.new_empty(shape)
    buffer.narrow(dim, 0, past).copy_(old)
    return buffer


def _each(change: Callable[[Tensor, Tensor, int], Tensor], one: State, other: State) -> State:
    keys, values, real = (change(a, b, dim) for a, b, dim in zip(one, other, _PLACES, strict=True))
    return keys, values, real
