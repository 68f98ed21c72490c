"""Stack manipulation: read a stack and what is done to it, write what is left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .strings import StringTask
from .task import IGNORED

POP = 2
PUSH = 3  # and the bit that is pushed
END = 2


@dataclass(frozen=True, kw_only=True)
class StackManipulation(StringTask):
    """A stack of bits comes in, its top last, then pops and pushes; asked is the stack, its top first.

    A pop of an empty stack does nothing. The answer 2, ``$``, ends the stack; nothing is asked after it. How
    many tokens are the stack and how many are actions is uniform, with at least one of each.
    Tokens: the bits, pop ``-``, push ``+0`` and ``+1``, then ``>``.

    Examples:
        >>> task = StackManipulation(length=11)
        >>> print(task.render(task.sample(1, seed=7)))
        tokens   1  +0 +0 -  -  >  >  >  >  >  >
        answers  .  .  .  .  .  1  $  .  .  .  .

    Source: Deletang et al. 2023, arXiv 2207.02098, appendix A.
    """

    @property
    def num_symbols(self) -> int:
        return PUSH + 2

    @property
    def output_size(self) -> int:
        return 3

    @property
    def shortest_string(self) -> int:
        return 2

    def written(self, read: int) -> int:
        return read + 1

    def symbol_name(self, symbol: int) -> str:
        return ("0", "1", "-", "+0", "+1")[symbol]

    def answer_name(self, answer: int) -> str:
        return "$" if answer == END else str(answer)

    def solve(self, batch: int, read: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        is_stack = np.arange(read) < random.integers(1, read, size=(batch, 1))
        strings = np.where(
            is_stack, random.integers(2, size=(batch, read)), random.integers(POP, PUSH + 2, (batch, read))
        )
        stack = np.empty((batch, read), dtype=np.int64)
        height = np.zeros(batch, dtype=np.int64)
        # Along time for all rows at once. Every step writes above the top; a pop then does not count it.
        pushed = (strings % PUSH).T.copy()
        change = np.where(strings == POP, -1, 1).T.copy()
        first = np.arange(batch) * read
        for t in range(read):
            stack.flat[first + height] = pushed[t]
            height += change[t]
            np.maximum(height, 0, out=height)
        below_top = height[:, None] - 1 - np.arange(read + 1)
        answers = np.take_along_axis(stack, np.maximum(below_top, 0), axis=1)
        answers[below_top == -1] = END
        answers[below_top < -1] = IGNORED
        return strings, answers
