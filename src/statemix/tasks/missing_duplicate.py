"""Missing duplicate: a string comes twice, one symbol of it is hidden."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .formal import FormalLanguage
from .task import IGNORED

HIDDEN = 2
EMPTY = 3


@dataclass(frozen=True, kw_only=True)
class MissingDuplicate(FormalLanguage):
    """A string of bits comes in twice with one symbol hidden; asked at the last token is that symbol.

    A sequence of odd length ends with an empty token. Tokens: 0, 1, hidden ``?``, empty ``_``.

    Examples:
        >>> task = MissingDuplicate(length=9)
        >>> print(task.render(task.sample(1, seed=1)))
        tokens   0 0 1 ? 0 0 1 1 _
        answers  . . . . . . . . 1

    Source: Deletang et al. 2023, arXiv 2207.02098, appendix A.
    """

    @property
    def num_tokens(self) -> int:
        return 4

    @property
    def output_size(self) -> int:
        return 2

    @property
    def shortest(self) -> int:
        return 2

    def token_name(self, token: int) -> str:
        return "01?_"[token]

    def generate(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        half = length // 2
        strings = random.integers(2, size=(batch, half))
        inputs = np.full((batch, length), EMPTY)
        inputs[:, :half] = inputs[:, half : 2 * half] = strings
        rows = np.arange(batch)
        hidden = random.integers(2 * half, size=batch)
        targets = np.full((batch, length), IGNORED)
        targets[:, -1] = inputs[rows, hidden]
        inputs[rows, hidden] = HIDDEN
        return inputs, targets
