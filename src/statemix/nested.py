"""Nested values as JSON has them: each leaf under its dotted path, and where two of them differ."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by their dotted paths.

    Examples:
        >>> flat({"model": {"width": 8}, "seed": 0})
        {'model.width': 8, 'seed': 0}
    """
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return leaves


def differences(one: dict[str, Any], other: dict[str, Any], *, free: Collection[str] = ()) -> list[str]:
    """The paths at which two differ, with both leaves; those in ``free`` may.

    Examples:
        >>> differences({"model": {"width": 8}, "seed": 0}, {"model": {"width": 9}, "seed": 1}, free=["seed"])
        ['model.width: 8 and 9']
    """
    first, second = flat(one), flat(other)
    return [
        f"{path}: {first.get(path)!r} and {second.get(path)!r}"
        for path in first | second
        if path not in free and first.get(path) != second.get(path)
    ]
