"""Even pairs: whether a binary string changes an even number of times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .tracking import StateTracking


@dataclass(frozen=True, kw_only=True)
class EvenPairs(StateTracking):
    """Bits come in; asked is whether the pairs 01 and 10 are together odd in number (1) or even (0).

    Counting is not needed: the string changes an odd number of times if it ends unlike it began.

    Examples:
        >>> inputs, targets = EvenPairs(length=9).sample(4)
        >>> bool(((inputs[:, 0] != inputs[:, -1]) == targets[:, -1]).all())
        True

    Source: Deletang et al. 2023, arXiv 2207.02098, appendix A.
    """

    length: int = 40
    """Tokens in a sequence, all counted: inputs and targets are (B, length)."""

    asked: Literal["every", "last"] = "last"
    """Whether the answer is asked at every step or at the last one only."""

    @property
    def num_tokens(self) -> int:
        return 2

    @property
    def output_size(self) -> int:
        return 2

    def track(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        inputs = random.integers(2, size=(batch, length))
        return inputs, inputs ^ inputs[:, :1]
