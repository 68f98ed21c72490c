"""What is asked of sizes, numbers, choices and names, wherever options are taken."""

from __future__ import annotations

import functools
import operator
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import fields
from numbers import Real
from typing import Any

import torch

from statemix.names import nearest


def check_device(operation: str, device: torch.device | str) -> torch.device:
    """The device of that name; ValueError where PyTorch knows no such kind."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(
            f"{operation}: the device must be a tensor's, a torch.device or its name, such as 'cpu' or "
            f"'cuda:1'; got {device!r}"
        ) from None


def check_size(operation: str, name: str, size: int, *, at_least: int = 1) -> int:
    """A size as an integer; ValueError where it is none, or below the least."""
    try:
        whole = None if isinstance(size, bool) else operator.index(size)
    except TypeError:
        whole = None
    if whole is None or whole < at_least:
        raise ValueError(f"{operation}: {name} must be an integer of at least {at_least}; got {size!r}")
    return whole


def check_size_tuple(
    operation: str, name: str, sizes: tuple[int, ...], *, at_least: int = 1
) -> tuple[int, ...]:
    """Sizes as a tuple of integers; TypeError where they are no tuple, ValueError where one is no size."""
    if not isinstance(sizes, tuple | list):
        hint = f": write ({sizes!r},)" if isinstance(sizes, int) else ""
        raise TypeError(f"{operation}: {name} must be a tuple of integers; got {sizes!r}{hint}")
    return tuple(check_size(operation, name, size, at_least=at_least) for size in sizes)


def check_choice(operation: str, name: str, value: Any, choices: Sequence[Any]) -> None:
    """ValueError, with the nearest of the choices, for what is none of them."""
    if value not in choices:
        near = nearest(value, [choice for choice in choices if isinstance(choice, str)], cutoff=0.6)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise ValueError(f"{operation}: {name} must be one of {tuple(choices)}; got {value!r}{hint}")


def check_choices(operation: str, config: Any) -> None:
    """:func:`check_choice` for all fields of a dataclass that are a ``Literal`` or a ``bool``, or None."""
    for name, choices in _choices(type(config)).items():
        check_choice(operation, name, getattr(config, name), choices)


@functools.cache
def _choices(cls: type) -> dict[str, tuple[Any, ...]]:
    hints = typing.get_type_hints(cls)
    found = {field.name: _choices_of(hints[field.name]) for field in fields(cls)}
    return {name: choices for name, choices in found.items() if choices is not None}


def _choices_of(hint: Any) -> tuple[Any, ...] | None:
    """All values of a type where they can be told one by one."""
    if hint is bool:
        return True, False
    if hint is types.NoneType:
        return (None,)
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        parts = [_choices_of(part) for part in typing.get_args(hint)]
        return None if None in parts else tuple(choice for part in parts if part for choice in part)
    return None


def check_number(
    operation: str, name: str, number: float, wanted: str, fits: Callable[[float], bool]
) -> float:
    """A number that fits, which ``wanted`` says in words; ValueError for what is none, NaN among them."""
    if isinstance(number, bool) or not isinstance(number, Real) or not fits(float(number)):
        raise ValueError(f"{operation}: {name} must be {wanted}; got {number!r}")
    return number


def check_numbers(operation: str, name: str, numbers: Sequence[float]) -> tuple[float, ...]:
    """Numbers as a tuple; TypeError where they are no tuple, or one is no number."""
    if not isinstance(numbers, tuple | list):
        hint = f": write ({numbers!r},)" if isinstance(numbers, Real) else ""
        raise TypeError(f"{operation}: {name} must be a tuple of numbers; got {numbers!r}{hint}")
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, Real):
            raise TypeError(f"{operation}: {name} must be a tuple of numbers; got {number!r} among them")
    return tuple(numbers)
