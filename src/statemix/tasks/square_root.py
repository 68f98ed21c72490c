"""Square root: read a binary number, write the whole part of its root."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .strings import StringTask


@dataclass(frozen=True, kw_only=True)
class SquareRoot(StringTask):
    """A binary number comes in, highest bit first; asked is the root, rounded down, in half as many bits.

    Tokens: 0, 1, then ``>``.

    Examples:
        >>> task = SquareRoot(length=12)
        >>> print(task.render(task.sample(1, seed=1)))
        tokens   0 0 1 1 0 0 0 0 > > > >
        answers  . . . . . . . . 0 1 1 0

    Source: Deletang et al. 2023, arXiv 2207.02098, appendix A.
    """

    @property
    def num_symbols(self) -> int:
        return 2

    @property
    def output_size(self) -> int:
        return 2

    def written(self, read: int) -> int:
        return (read + 1) // 2

    def solve(self, batch: int, read: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        strings = random.integers(2, size=(batch, read))
        unused = -read % 8  # bits with which the last byte is filled up
        packed = np.packbits(strings.astype(bool), axis=1)
        # Numbers of any size: Python's own.
        roots = (math.isqrt(int.from_bytes(row.tobytes()) >> unused) for row in packed)
        width = self.written(read)
        digits = "".join(f"{root:0{width}b}" for root in roots)
        answers = np.frombuffer(digits.encode(), dtype=np.uint8).reshape(batch, width) - ord("0")
        return strings, answers
