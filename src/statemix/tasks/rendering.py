"""Sequences as text, one under another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def render(rows: Mapping[str, Sequence[str]], width: int) -> str:
    """Named rows of equally many words, aligned in columns and broken at ``width`` characters.

    Examples:
        >>> print(render({"tokens": ["a", "b", "10"], "answers": [".", "1", "2"]}, width=16))
        tokens   a  b
        answers  .  1
        <BLANKLINE>
        tokens   10
        answers  2
    """
    names = max(map(len, rows)) + 2
    words = max(len(word) for row in rows.values() for word in row)
    count = len(next(iter(rows.values())))
    at_once = max(1, (width - names + 1) // (words + 1))
    pieces = []
    for start in range(0, count, at_once):
        lines = [
            f"{name:<{names}}" + " ".join(f"{word:<{words}}" for word in row[start : start + at_once])
            for name, row in rows.items()
        ]
        pieces.append("\n".join(line.rstrip() for line in lines))
    return "\n\n".join(pieces)
