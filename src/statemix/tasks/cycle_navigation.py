"""Walking on a circle: where one stands after steps to the left, to the right, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .tracking import StateTracking


@dataclass(frozen=True, kw_only=True)
class CycleNavigation(StateTracking):
    """Steps -1, 0 and +1 come in as tokens 0, 1 and 2; asked is the place on a circle, from 0.

    Raises:
        ValueError: a cycle of fewer than 2 places.

    Examples:
        >>> inputs, targets = CycleNavigation(length=9).sample(4)
        >>> bool(((inputs - 1).sum(1) % 5 == targets[:, -1]).all())
        True

    Source: Deletang et al. 2023, arXiv 2207.02098, appendix A.
    """

    length: int = 40
    """Tokens in a sequence, all counted: inputs and targets are (B, length)."""

    asked: Literal["every", "last"] = "last"
    """Whether the answer is asked at every step or at the last one only."""

    cycle: int = 5
    """Places on the circle."""

    def check(self) -> None:
        super().check()
        self.check_at_least(2, "cycle")

    @property
    def num_tokens(self) -> int:
        return 3

    @property
    def output_size(self) -> int:
        return self.cycle

    def token_name(self, token: int) -> str:
        return "-0+"[token]

    def track(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        inputs = random.integers(3, size=(batch, length))
        return inputs, (inputs - 1).cumsum(1) % self.cycle
