"""Odds first: read a string, write every second of its symbols, then the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .strings import SymbolStringTask


@dataclass(frozen=True, kw_only=True)
class OddsFirst(SymbolStringTask):
    """A string comes in; asked are its symbols at places 1, 3, 5, ... (from 0), then at 0, 2, 4, ...

    Examples:
        >>> inputs, targets = OddsFirst(length=6).sample(4)
        >>> bool((inputs[:, [1, 0, 2]] == targets[:, 3:]).all())
        True

    Source: Deletang et al. 2023, arXiv 2207.02098; the order of the published code, which counts from 0.
    """

    def answer(self, strings: np.ndarray) -> np.ndarray:
        return np.concatenate([strings[:, 1::2], strings[:, ::2]], axis=1)
