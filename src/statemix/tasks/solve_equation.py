"""Solving an equation: which number stands where the unknown is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .formal import FormalLanguage
from .modular_arithmetic_brackets import ModularArithmeticBrackets
from .streams import choose
from .task import IGNORED


@dataclass(frozen=True, kw_only=True)
class SolveEquation(FormalLanguage):
    """An expression in + and - with an unknown comes in, = and its value; asked at the end is the unknown.

    The expression is one of :class:`ModularArithmeticBrackets` in which one number, drawn uniformly, is
    hidden. Without products there is one solution. Tokens: the numbers, + - ( ) x =.

    Raises:
        ValueError: a modulus below 2.

    Examples:
        >>> task = SolveEquation(length=11)
        >>> print(task.render(task.sample(1, seed=1)))
        tokens   ( ( x ) + ( 4 ) ) = 2
        answers  . . . . . . . . . . 3

    Source: Deletang et al. 2023, arXiv 2207.02098, appendix A.
    """

    modulus: int = 5
    """Numbers are 0 .. modulus - 1, and values are taken modulo it."""

    def check(self) -> None:
        super().check()
        self.check_at_least(2, "modulus")

    @property
    def num_tokens(self) -> int:
        return self.modulus + 6

    @property
    def output_size(self) -> int:
        return self.modulus

    @property
    def shortest(self) -> int:
        return 3

    def token_name(self, token: int) -> str:
        return str(token) if token < self.modulus else "+-()x="[token - self.modulus]

    def generate(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        expressions = ModularArithmeticBrackets(modulus=self.modulus, multiply=False)
        inputs = np.empty((batch, length), dtype=np.int64)
        targets = np.full((batch, length), IGNORED)
        expression, values = expressions.generate(batch, length - 2, random)
        hidden = choose(expression < self.modulus, random)
        targets[:, -1:] = np.take_along_axis(expression, hidden, axis=1)
        np.put_along_axis(expression, hidden, self.num_tokens - 2, axis=1)
        inputs[:, :-2] = expression
        inputs[:, -2] = self.num_tokens - 1
        inputs[:, -1] = values[:, -1]
        return inputs, targets
