"""Reverse string: read a string, write it backwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .strings import SymbolStringTask


@dataclass(frozen=True, kw_only=True)
class ReverseString(SymbolStringTask):
    """A string comes in; asked is the string backwards.

    Examples:
        >>> task = ReverseString(length=8)
        >>> inputs, targets = task.sample(4)
        >>> bool((inputs[:, :4].flip(1) == targets[:, 4:]).all())
        True

    Source: Deletang et al. 2023, arXiv 2207.02098, appendix A.
    """

    def answer(self, strings: np.ndarray) -> np.ndarray:
        return strings[:, ::-1]
