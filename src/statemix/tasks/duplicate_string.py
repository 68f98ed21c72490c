"""Duplicate string: read a string, write it twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .strings import SymbolStringTask


@dataclass(frozen=True, kw_only=True)
class DuplicateString(SymbolStringTask):
    """A string comes in; asked is the string, twice.

    Examples:
        >>> inputs, targets = DuplicateString(length=9).sample(4)
        >>> bool((inputs[:, :3] == targets[:, 3:6]).all() and (inputs[:, :3] == targets[:, 6:]).all())
        True

    Source: Deletang et al. 2023, arXiv 2207.02098, appendix A.
    """

    def written(self, read: int) -> int:
        return 2 * read

    def answer(self, strings: np.ndarray) -> np.ndarray:
        return np.concatenate([strings, strings], axis=1)
