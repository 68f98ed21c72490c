"""Random numbers that are named, not drawn in order: one stream for each (seed, split, step)."""

from __future__ import annotations

import numpy as np

SPLITS = ("train", "validation", "test")


def stream(seed: int, split: str = "train", step: int = 0) -> np.random.Generator:
    """The generator for one batch: the same arguments always give the same numbers.

    Philox is a counter put through a keyed permutation. The key here is (seed, split), the upper half
    of the counter is the step, so training and evaluation have different keys and two steps of one
    split never read the same counter: the streams are disjoint by construction, and a run that resumes
    at step k needs no state but k.

    Raises:
        ValueError: an unknown split, or a negative seed or step.

    Examples:
        >>> int(stream(0, "train", 7).integers(100)) == int(stream(0, "train", 7).integers(100))
        True

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    if split not in SPLITS:
        raise ValueError(f"stream: split must be one of {SPLITS}; got {split!r}")
    if seed < 0 or step < 0:
        raise ValueError(f"stream: seed and step must be at least 0; got {seed} and {step}")
    key = np.array([seed, SPLITS.index(split)], dtype=np.uint64)
    counter = np.array([0, 0, step, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def fixed_stream(seed: int) -> np.random.Generator:
    """The generator for what belongs to a task and not to a batch: a dictionary, a choice of generators.

    Its keys are those of no split.

    Examples:
        >>> int(fixed_stream(1).integers(100)) == int(fixed_stream(1).integers(100))
        True
    """
    key = np.array([seed, len(SPLITS)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def choose(allowed: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One place of each row of (B, P) among those that are allowed, uniformly: (B, 1).

    Examples:
        >>> choose(np.array([[False, True], [True, False]]), stream(0)).tolist()
        [[1], [0]]
    """
    return np.where(allowed, random.random(allowed.shape), -1.0).argmax(1)[:, None]
