"""Intervals over seeds: Student's t for a mean, Welch's for the difference of two."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence

Interval = tuple[float, float]

LEVEL = 0.95

_AS_GOOD_AS_NORMAL = 10_000


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """The t-interval of a mean; None for fewer than two values, and where one is no finite number.

    Such a value is not left out: those that remain would be the ones that went well.

    Examples:
        >>> low, high = mean_interval([0.9, 1.0, 1.1])
        >>> round(low, 3), round(high, 3)
        (0.752, 1.248)
    """
    if not _say_something(values):
        return None
    error = statistics.stdev(values) / math.sqrt(len(values))
    reach = t_quantile((1 + level) / 2, len(values) - 1) * error
    mean = statistics.fmean(values)
    return mean - reach, mean + reach


def difference_interval(
    one: Sequence[float], other: Sequence[float], level: float = LEVEL
) -> Interval | None:
    """Welch's interval of mean(one) - mean(other); None where either has no interval of its own mean.

    Source: Welch 1947, "The generalization of Student's problem".
    """
    if not (_say_something(one) and _say_something(other)):
        return None
    errors = [statistics.variance(values) / len(values) for values in (one, other)]
    difference = statistics.fmean(one) - statistics.fmean(other)
    total = sum(errors)
    if total == 0:
        return difference, difference
    freedom = total**2 / sum(
        error**2 / (len(values) - 1) for error, values in zip(errors, (one, other), strict=True)
    )
    reach = t_quantile((1 + level) / 2, freedom) * math.sqrt(total)
    return difference - reach, difference + reach


def _say_something(values: Sequence[float]) -> bool:
    return len(values) >= 2 and all(map(math.isfinite, values))


@functools.lru_cache(maxsize=4096)
def t_quantile(share: float, freedom: float) -> float:
    """The value below which so large a share of Student's t distribution lies.

    Examples:
        >>> round(t_quantile(0.975, 2), 4), round(t_quantile(0.975, 1e6), 3)
        (4.3027, 1.96)
    """
    if not 0 < share < 1 or freedom <= 0:
        raise ValueError(f"t_quantile: share must lie in (0, 1) and freedom above 0; got {share}, {freedom}")
    if share < 0.5:
        return -t_quantile(1 - share, freedom)
    if freedom > _AS_GOOD_AS_NORMAL:
        return statistics.NormalDist().inv_cdf(share)
    # With t = sqrt(freedom) tan(angle) the density becomes cos(angle)^(freedom - 1), on a finite interval.
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)

    def above_half(angle: float) -> float:
        return scale * _integral(lambda a: math.cos(a) ** (freedom - 1), angle)

    low, high = 0.0, math.pi / 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if above_half(middle) < share - 0.5 else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _integral(function: Callable[[float], float], end: float, pieces: int = 200) -> float:
    """Simpson's rule from 0."""
    step = end / pieces
    inner = sum((4 if i % 2 else 2) * function(i * step) for i in range(1, pieces))
    return (function(0.0) + inner + function(end)) * step / 3
