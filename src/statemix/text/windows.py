"""Windows of a text: random ones to train on, neighbouring ones to measure on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def random_windows(
    text: np.ndarray, length: int, batch: int, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Tokens and the ones that follow them, each (B, T) int64, from anywhere in the text.

    Raises:
        ValueError: the text is no longer than one window.

    Examples:
        >>> text = np.arange(100, dtype=np.uint8)
        >>> inputs, targets = random_windows(text, 8, 4, np.random.default_rng(0))
        >>> inputs.shape, bool((targets == inputs + 1).all())
        (torch.Size([4, 8]), True)
    """
    if len(text) <= length:
        raise ValueError(f"windows: a text of {len(text)} tokens holds no window of {length} and one more")
    starts = random.integers(len(text) - length, size=batch)
    windows = torch.from_numpy(text[starts[:, None] + np.arange(length + 1)].astype(np.int64))
    return windows[:, :-1], windows[:, 1:]


def parallel_rows(text: np.ndarray, rows: int, tokens: int | None = None) -> tuple[Tensor, Tensor]:
    """Tokens and the ones that follow them, cut into ``rows`` long stretches that lie evenly over a text.

    Args:
        rows: B, how many stretches are read side by side.
        tokens: how many tokens all stretches hold together at most; the whole text by default.

    Returns:
        (B, T) int64 each. Without ``tokens`` the stretches are neighbours and fewer than B tokens at the
        end of the text are left out.

    Raises:
        ValueError: the text is too short for so many stretches.

    Examples:
        >>> inputs, targets = parallel_rows(np.arange(9, dtype=np.uint8), 2)
        >>> inputs.tolist(), targets.tolist()
        ([[0, 1, 2, 3], [4, 5, 6, 7]], [[1, 2, 3, 4], [5, 6, 7, 8]])
    """
    stride = (len(text) - 1) // rows
    length = stride if tokens is None else min(stride, max(1, tokens // rows))
    if length < 1:
        raise ValueError(f"windows: a text of {len(text)} tokens cannot be cut into {rows} rows")
    starts = np.arange(rows)[:, None] * stride
    windows = torch.from_numpy(text[starts + np.arange(length + 1)].astype(np.int64))
    return windows[:, :-1], windows[:, 1:]
