"""Random numbers that are named, not drawn in order: one stream for each (seed, split, step)."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

SPLITS = ("train", "validation", "test")


def stream(seed: int, split: str = "train", step: int = 0) -> np.random.Generator:
    """The generator for one batch: the same arguments always give the same numbers.

    Philox is a counter put through a keyed permutation. The key here is (seed, split), the upper half
    of the counter is the step, so training and evaluation have different keys and two steps of one
    split never read the same counter: the streams are disjoint by construction, and a run that resumes
    at step k needs no state but k.

    Raises:
        TypeError: a seed or step that is no whole number.
        ValueError: an unknown split, or a seed or step below 0 or from 2**64 on.

    Examples:
        >>> int(stream(0, "train", 7).integers(100)) == int(stream(0, "train", 7).integers(100))
        True

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    if split not in SPLITS:
        raise ValueError(f"stream: split must be one of {SPLITS}; got {split!r}")
    seed, step = whole_number("stream: seed", seed), whole_number("stream: step", step)
    if seed < 0 or step < 0:
        raise ValueError(f"stream: seed and step must be at least 0; got {seed} and {step}")
    counter = np.array([0, 0, _below_2_64("step", step), 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=_key(seed, SPLITS.index(split)), counter=counter))


def fixed_stream(seed: int) -> np.random.Generator:
    """The generator for what belongs to a task and not to a batch: a dictionary, a choice of generators.

    Its keys are those of no split.

    Examples:
        >>> int(fixed_stream(1).integers(100)) == int(fixed_stream(1).integers(100))
        True
    """
    return np.random.Generator(np.random.Philox(key=_key(seed, len(SPLITS))))


def choose(allowed: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One place of each row of (B, P) among those that are allowed, uniformly: (B, 1).

    Examples:
        >>> choose(np.array([[False, True], [True, False]]), stream(0)).tolist()
        [[1], [0]]
    """
    return np.where(allowed, random.random(allowed.shape), -1.0).argmax(1)[:, None]


def whole_number(what: str, value: Any) -> int:
    """A whole number as Python's own, whatever its kind; another value is refused, never rounded.

    Examples:
        >>> whole_number("steps", np.int64(3))
        3
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be an integer; got {value!r}") from None


def _key(seed: int, place: int) -> np.ndarray:
    return np.array([_below_2_64("seed", seed), place], dtype=np.uint64)


def _below_2_64(what: str, number: int) -> int:
    if number >= 2**64:
        raise ValueError(f"stream: {what} must be below 2**64; got {number}")
    return number
