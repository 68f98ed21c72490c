"""A name that is not known, and those that it may have been meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def nearest(name: object, known: Collection[str], *, most: int = 3, cutoff: float = 0.3) -> list[str]:
    """The known names that hold a name or are like it, at most so many; a higher cutoff finds fewer.

    Examples:
        >>> nearest("copying", ["recall", "selective-copying"]), nearest("aple", ["kiwi", "apple"])
        (['selective-copying'], ['apple'])
    """
    text = str(name)
    parts = [other for other in known if text and text in other]
    alike = difflib.get_close_matches(text, known, n=most, cutoff=cutoff)
    return list(dict.fromkeys(parts + alike))[:most]


def unknown_name(what: str, name: object, known: Collection[str], *, all_of_them: str = "") -> ValueError:
    """The error for a name that stands in no table of ``what``: it lists the nearest, and all there are.

    Args:
        all_of_them: says what is known, where a list would not.

    Examples:
        >>> print(unknown_name("fruit", "aple", ["apple", "kiwi"]))
        no fruit 'aple'; nearest: apple; all: apple, kiwi
    """
    near = nearest(name, known) or known
    told = all_of_them or f"all: {', '.join(known)}"
    return ValueError(f"no {what} {name!r}; nearest: {', '.join(near)}; {told}")
