"""The lines of a usage text that list what can be named."""

from __future__ import annotations

from collections.abc import Mapping


def listed(named: Mapping[str, object], width: int | None = None) -> list[str]:
    """A line for each name: it, and the first line of the docstring of what it names.

    Args:
        named: what can be named.
        width: characters of the column of names; that of the longest name if left out.
    """
    width = max(map(len, named)) if width is None else width
    return [f"  {name:<{width}}  {(thing.__doc__ or '').splitlines()[0]}" for name, thing in named.items()]
