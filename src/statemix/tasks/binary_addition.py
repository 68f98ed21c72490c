"""Binary addition: read two numbers, write their sum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .strings import StringTask
from .task import IGNORED

PLUS = 2
END = 2


@dataclass(frozen=True, kw_only=True)
class BinaryAddition(StringTask):
    """Two binary numbers with + between come in, lowest bits first; asked is their sum, lowest bit first.

    The answer 2, ``$``, ends the sum, which has no zeros at its high end (zero itself is one 0); nothing is
    asked after it. Where the + stands is uniform. Tokens: 0, 1, +, then ``>``.

    Example:
        >>> task = BinaryAddition(length=13)
        >>> print(task.render(task.sample(1, seed=4)))
        tokens   0 + 1 0 0 1 > > > > > > >
        answers  . . . . . . 1 0 0 1 $ . .

    Source: Deletang et al. 2023, arXiv 2207.02098, appendix A.
    """

    @property
    def num_symbols(self) -> int:
        return 3

    @property
    def output_size(self) -> int:
        return 3

    @property
    def shortest_string(self) -> int:
        return 3

    def written(self, read: int) -> int:
        return read + 1

    def symbol_name(self, symbol: int) -> str:
        return "01+"[symbol]

    def answer_name(self, answer: int) -> str:
        return "$" if answer == END else str(answer)

    def solve(self, batch: int, read: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        strings = random.integers(2, size=(batch, read))
        plus = random.integers(1, read - 1, size=(batch, 1))
        np.put_along_axis(strings, plus, PLUS, axis=1)
        place = np.arange(read)
        first = np.where(place < plus, strings, 0)
        # The second number moved to the front of its row.
        shifted = plus + 1 + place
        second = np.take_along_axis(strings, np.minimum(shifted, read - 1), axis=1) * (shifted < read)
        total = np.zeros((batch, read + 1), dtype=np.int64)
        total[:, :read] = first + second
        _carry(total)
        highest = read - np.argmax(total[:, ::-1], axis=1)[:, None]
        end = np.where(total.any(1, keepdims=True), highest + 1, 1)
        places = np.arange(read + 1)
        answers = np.where(places < end, total, np.where(places == end, END, IGNORED))
        return strings, answers


def _carry(digits: np.ndarray) -> None:
    """Turn digits 0 .. 2, lowest first, into bits."""
    while (over := digits >= 2).any():
        digits -= 2 * over
        digits[:, 1:] += over[:, :-1]
