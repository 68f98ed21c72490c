"""Bucket sort: read a string, write it sorted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .strings import SymbolStringTask


@dataclass(frozen=True, kw_only=True)
class BucketSort(SymbolStringTask):
    """A string over a small alphabet comes in; asked are its symbols in rising order.

    Examples:
        >>> inputs, targets = BucketSort(length=8).sample(4)
        >>> bool((inputs[:, :4].sort(1).values == targets[:, 4:]).all())
        True

    Source: Deletang et al. 2023, arXiv 2207.02098, appendix A.
    """

    symbols: int = 5
    """Size of the alphabet."""

    def answer(self, strings: np.ndarray) -> np.ndarray:
        return np.sort(strings, axis=1)
