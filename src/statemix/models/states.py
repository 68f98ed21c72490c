"""The states of mixers, whatever they are made of: a tensor, nothing yet, or a tuple of such."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import Tensor

State: TypeAlias = "Tensor | Sequence[State] | None"


def tensors_in(state: State) -> list[Tensor]:
    """Every tensor of a state, in order.

    Examples:
        >>> import torch
        >>> [t.shape[0] for t in tensors_in((torch.ones(1), None, (torch.ones(2), torch.ones(3))))]
        [1, 2, 3]
    """
    if isinstance(state, Tensor):
        return [state]
    if not isinstance(state, Sequence | None) or isinstance(state, str):
        raise TypeError(f"states must be tensors, or tuples of them; got {type(state).__name__}")
    return [tensor for part in state or () for tensor in tensors_in(part)]


def map_tensors(change: Callable[[Tensor], Tensor], state: State) -> Any:
    """The same structure with every tensor changed.

    Examples:
        >>> import torch
        >>> map_tensors(torch.neg, (torch.ones(1), None))
        (tensor([-1.]), None)
    """
    if state is None:
        return None
    return change(state) if isinstance(state, Tensor) else tuple(map_tensors(change, part) for part in state)


def grows(mixer: object) -> bool:
    """Whether the state of a mixer grows with what it reads, as attention's cache does.

    Examples:
        >>> from statemix.nn.baselines import CausalAttention, MinGRU
        >>> grows(CausalAttention(8)), grows(MinGRU(8, hidden_size=8))
        (True, False)
    """
    return bool(getattr(mixer, "state_grows", False))
