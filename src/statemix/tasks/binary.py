"""What tasks of arithmetic on two binary numbers share: how the numbers come in and the result goes out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .strings import StringTask
from .task import IGNORED

SIGN = 2
END = 2


@dataclass(frozen=True, kw_only=True)
class BinaryTask(StringTask):
    """Two binary numbers above zero come in, lowest bits first, with a sign between; asked is the result.

    The result is written lowest bit first, without zeros at its high end. The answer 2, ``$``, ends it;
    nothing is asked after it. Where the sign stands is uniform. Tokens: 0, 1, the sign, then ``>``.
    """

    @property
    @abstractmethod
    def sign(self) -> str:
        """How the operation is written."""

    @abstractmethod
    def combine(self, first: int, second: int) -> int:
        """The result, which has fewer bits than the string tokens."""

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
        return read

    def symbol_name(self, symbol: int) -> str:
        return f"01{self.sign}"[symbol]

    def answer_name(self, answer: int) -> str:
        return "$" if answer == END else str(answer)

    def solve(self, batch: int, read: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        place = np.arange(read)
        sign = random.integers(1, read - 1, size=(batch, 1))
        strings = random.integers(2, size=(batch, read))
        for some in (place < sign, place > sign):
            # A number that is zero is drawn again, so that all others are as likely.
            while (zero := ~(strings & some).any(1)).any():
                again = random.integers(2, size=(int(zero.sum()), read))
                strings[zero] = np.where(some[zero], again, strings[zero])
        np.put_along_axis(strings, sign, SIGN, axis=1)
        # The second number moves to the front of its row.
        shifted = sign + 1 + place
        second = np.take_along_axis(strings, np.minimum(shifted, read - 1), axis=1) * (shifted < read)
        numbers = zip(_numbers(np.where(place < sign, strings, 0)), _numbers(second), strict=True)
        result = _bits([self.combine(*pair) for pair in numbers], read)
        end = read - np.argmax(result[:, ::-1], axis=1)[:, None]
        return strings, np.where(place < end, result, np.where(place == end, END, IGNORED))


def _numbers(bits: np.ndarray) -> Iterator[int]:
    """Rows of bits, lowest first, as numbers of any size."""
    packed = np.packbits(bits.astype(bool), axis=1, bitorder="little")
    return (int.from_bytes(row.tobytes(), "little") for row in packed)


def _bits(numbers: list[int], width: int) -> np.ndarray:
    """The lowest bits first: (len(numbers), width)."""
    size = (width + 7) // 8
    packed = np.frombuffer(b"".join(number.to_bytes(size, "little") for number in numbers), dtype=np.uint8)
    return np.unpackbits(packed.reshape(-1, size), axis=1, bitorder="little", count=width)
