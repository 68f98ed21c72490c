"""Modular arithmetic with brackets: a stack is needed to read it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .formal import FormalLanguage
from .task import IGNORED


@dataclass(frozen=True, kw_only=True)
class ModularArithmeticBrackets(FormalLanguage):
    """An expression in brackets comes in; asked at the last token is its value modulo ``modulus``.

    An expression of 5 tokens or more is (a o b) with an operator o; how many tokens go to a is uniform.
    Shorter ones are d, -d, (d) and (-d) with a number d. Tokens: the numbers, + - * ( ), or + - ( ).

    Raises:
        ValueError: a modulus below 2.

    Examples:
        >>> task = ModularArithmeticBrackets(length=11)
        >>> print(task.render(task.sample(1, seed=3)))
        tokens   ( ( 1 - ( 1 ) ) * 1 )
        answers  . . . . . . . . . . 0

    Source: Deletang et al. 2023, arXiv 2207.02098, appendix A.
    """

    modulus: int = 5
    """Numbers are 0 .. modulus - 1, and values are taken modulo it."""

    multiply: bool = True
    """Whether * comes up besides + and -."""

    def check(self) -> None:
        super().check()
        self.check_at_least(2, "modulus")

    @property
    def num_tokens(self) -> int:
        return self.modulus + len(self.operators) + 2

    @property
    def output_size(self) -> int:
        return self.modulus

    @property
    def operators(self) -> str:
        """The operators that come up, in the order of their tokens."""
        return "+-*" if self.multiply else "+-"

    def token_name(self, token: int) -> str:
        return str(token) if token < self.modulus else f"{self.operators}()"[token - self.modulus]

    def generate(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        inputs = np.empty((batch, length), dtype=np.int64)
        # All expressions of one depth, of all rows, are written at once; flat[place] is inputs.flat.
        flat = inputs.reshape(-1)
        opening, closing = self.num_tokens - 2, self.num_tokens - 1
        starts, lengths = np.arange(batch) * length, np.full(batch, length)
        levels = []
        while len(starts):
            is_pair = lengths >= 5
            shorts = np.flatnonzero(~is_pair)
            values = np.zeros(len(starts), dtype=np.int64)
            values[shorts] = self._write_short(flat, starts[shorts], lengths[shorts], random)
            starts, lengths = starts[is_pair], lengths[is_pair]
            first_length = random.integers(1, lengths - 3)
            operators = random.integers(len(self.operators), size=len(starts))
            middle = starts + 1 + first_length
            flat[starts] = opening
            flat[middle] = self.modulus + operators
            flat[starts + lengths - 1] = closing
            levels.append((values, is_pair, operators))
            starts = np.concatenate([starts + 1, middle + 1])
            lengths = np.concatenate([first_length, lengths - 3 - first_length])
        values = self._evaluate(levels)
        targets = np.full((batch, length), IGNORED)
        targets[:, -1] = values
        return inputs, targets

    def _write_short(
        self, flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        """Write d, -d, (d) or (-d) at each place; their values."""
        numbers = random.integers(self.modulus, size=len(starts))
        bracketed = lengths >= 3
        negative = lengths % 2 == 0
        flat[starts[bracketed]] = self.num_tokens - 2
        flat[(starts + lengths - 1)[bracketed]] = self.num_tokens - 1
        flat[(starts + bracketed)[negative]] = self.modulus + 1
        flat[starts + bracketed + negative] = numbers
        return np.where(negative, -numbers, numbers) % self.modulus

    def _evaluate(self, levels: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
        """Values of the outermost expressions, from the innermost out."""
        below = np.empty(0, dtype=np.int64)
        for values, is_pair, operators in reversed(levels):
            a, b = below[: len(operators)], below[len(operators) :]
            values[is_pair] = np.choose(operators, [a + b, a - b, a * b]) % self.modulus
            below = values
        return below
