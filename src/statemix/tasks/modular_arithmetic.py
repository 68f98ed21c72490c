"""Modular arithmetic without brackets: numbers and + - *, where * binds before + and -."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .task import IGNORED
from .tracking import StateTracking

OPERATORS = "+-*"


@dataclass(frozen=True, kw_only=True)
class ModularArithmetic(StateTracking):
    """Numbers and operators come in by turns; asked is the value modulo ``modulus``.

    An expression has an odd number of tokens. A sequence of even length (of odd length, if it ends with
    =) begins with a blank. Asked at every step, the value so far is asked at each number and at the last
    step, and nothing at operators. Tokens: the numbers, the operators, the blank ``_``, then ``=``.

    Raises:
        ValueError: a modulus below 2, or operators that are not of + - *, each at most once.

    Examples:
        >>> task = ModularArithmetic(length=7)
        >>> print(task.render(task.sample(1, seed=11)))
        tokens   4 * 0 - 3 * 3
        answers  . . . . . . 1

    Source: Deletang et al. 2023, arXiv 2207.02098, appendix A; with ``equals`` as Beck et al. 2024,
    arXiv 2405.04517.
    """

    length: int = 40
    """Tokens in a sequence, all counted: inputs and targets are (B, length)."""

    asked: Literal["every", "last"] = "last"
    """Whether the answer is asked at every step or at the last one only."""

    modulus: int = 5
    """Numbers are 0 .. modulus - 1, and values are taken modulo it."""

    operators: str = OPERATORS
    """Operators that come up, of + - *."""

    equals: bool = False
    """Whether sequences end with =, where the answer is asked."""

    def check(self) -> None:
        super().check()
        self.check_at_least(2, "modulus")
        known = set(self.operators) <= set(OPERATORS)
        if not self.operators or not known or len(set(self.operators)) < len(self.operators):
            raise ValueError(
                f"ModularArithmetic: operators must be some of {OPERATORS!r}, each at most once; "
                f"got {self.operators!r}"
            )

    @property
    def num_tokens(self) -> int:
        return self.modulus + len(self.operators) + 1 + self.equals

    @property
    def output_size(self) -> int:
        return self.modulus

    @property
    def shortest(self) -> int:
        return 1 + self.equals

    def token_name(self, token: int) -> str:
        return str(token) if token < self.modulus else f"{self.operators}_="[token - self.modulus]

    def track(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        count = (length - self.equals + 1) // 2
        size = 2 * count - 1
        numbers = random.integers(self.modulus, size=(batch, count))
        operators = random.integers(len(self.operators), size=(batch, count - 1))
        first = length - self.equals - size
        inputs = np.full((batch, length), self.modulus + len(self.operators))
        inputs[:, first : first + size : 2] = numbers
        inputs[:, first + 1 : first + size : 2] = operators + self.modulus
        answers = np.full((batch, length), IGNORED)
        values = self._values(numbers, operators)
        answers[:, first : first + size : 2] = values
        if self.equals:
            inputs[:, -1] = self.num_tokens - 1
            answers[:, -1] = values[:, -1]
        return inputs, answers

    def _values(self, numbers: np.ndarray, operators: np.ndarray) -> np.ndarray:
        """The value up to each number: (B, count)."""
        sign_of = np.array([-1 if operator == "-" else 1 for operator in self.operators])
        opens_term = np.array([operator != "*" for operator in self.operators])[operators]
        # A term is a run of products. Factors are taken along time, so that all rows go at once: the
        # product so far times the number, or the signed number where a new term opens.
        signed = np.where(opens_term, sign_of[operators] * numbers[:, 1:], numbers[:, 1:])
        kept = np.where(opens_term, 0, signed).T.copy()
        opened = np.where(opens_term, signed, 0).T.copy()
        terms = np.empty_like(numbers.T)
        terms[0] = numbers[:, 0]
        for t in range(len(kept)):
            np.remainder(terms[t] * kept[t] + opened[t], self.modulus, out=terms[t + 1])
        terms = terms.T
        # Finished terms add up: each where the next one opens.
        finished = np.where(opens_term, terms[:, :-1], 0).cumsum(1)
        values = terms.copy()
        values[:, 1:] += finished
        return values % self.modulus
