"""Modular counting: the sum so far of small numbers, modulo another. Parity is modulus 2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .tracking import StateTracking


@dataclass(frozen=True, kw_only=True)
class Counting(StateTracking):
    """Numbers below ``symbols`` come in; asked is their sum so far modulo ``modulus``.

    Raises:
        ValueError: modulus or symbols below 2.

    Examples:
        >>> inputs, targets = Counting(modulus=2, length=5, asked="last").sample(3)
        >>> bool((inputs.sum(1) % 2 == targets[:, -1]).all()), int(targets[0, 0])
        (True, -100)

    Source: Deletang et al. 2023, arXiv 2207.02098 (parity, cycle navigation).
    """

    modulus: int = 2
    """What the sum is taken modulo."""

    symbols: int = 2
    """Inputs are 0 .. symbols - 1."""

    def check(self) -> None:
        super().check()
        self.check_at_least(2, "modulus", "symbols")

    @property
    def num_tokens(self) -> int:
        return self.symbols

    @property
    def output_size(self) -> int:
        return self.modulus

    def track(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        inputs = random.integers(self.symbols, size=(batch, length))
        return inputs, inputs.cumsum(1) % self.modulus
