"""Tasks that read a string to its end and then write another."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from .formal import FormalLanguage
from .task import IGNORED


@dataclass(frozen=True, kw_only=True)
class StringTask(FormalLanguage):
    """A string comes in, then tokens ``>`` at which the answer is written, one symbol at each.

    The string is the longest whose answer fits into the length; a step too many at the end asks nothing.
    """

    @property
    @abstractmethod
    def num_symbols(self) -> int:
        """Tokens that strings are made of."""

    @abstractmethod
    def written(self, read: int) -> int:
        """Steps that the answer to a string of ``read`` tokens takes: it does not fall with ``read``."""

    @abstractmethod
    def solve(self, batch: int, read: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Strings (batch, read) and their answers (batch, written(read))."""

    @property
    def shortest_string(self) -> int:
        """Tokens of the shortest string."""
        return 1

    @property
    def num_tokens(self) -> int:
        return self.num_symbols + 1

    @property
    def shortest(self) -> int:
        return self.shortest_string + self.written(self.shortest_string)

    def token_name(self, token: int) -> str:
        return ">" if token == self.num_symbols else self.symbol_name(token)

    def symbol_name(self, symbol: int) -> str:
        """How a token of strings is written."""
        return str(symbol)

    def string_length(self, length: int) -> int:
        """Tokens of the strings in sequences of ``length``, the start token left out.

        Examples:
            >>> from statemix.tasks import make
            >>> [make("duplicate-string").string_length(n) for n in (3, 4, 5, 6)]
            [1, 1, 1, 2]
        """
        read = self.shortest_string
        while read + 1 + self.written(read + 1) <= length:
            read += 1
        return read

    def generate(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        read = self.string_length(length)
        strings, answers = self.solve(batch, read, random)
        inputs = np.full((batch, length), self.num_symbols)
        inputs[:, :read] = strings
        targets = np.full((batch, length), IGNORED)
        targets[:, read : read + answers.shape[1]] = answers
        return inputs, targets


@dataclass(frozen=True, kw_only=True)
class SymbolStringTask(StringTask):
    """A string task over an alphabet of any size whose answers are tokens of it."""

    symbols: int = 2
    """Size of the alphabet."""

    def check(self) -> None:
        super().check()
        self.check_at_least(2, "symbols")

    @abstractmethod
    def answer(self, strings: np.ndarray) -> np.ndarray:
        """The answers to strings (batch, read)."""

    @property
    def num_symbols(self) -> int:
        return self.symbols

    @property
    def output_size(self) -> int:
        return self.symbols

    def written(self, read: int) -> int:
        return read

    def solve(self, batch: int, read: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        strings = random.integers(self.symbols, size=(batch, read))
        return strings, self.answer(strings)
