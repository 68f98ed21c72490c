"""Which kernel ran, and how often: so that nobody has to guess, and a test can assert it."""

from __future__ import annotations

from collections import Counter

_counts: Counter[str] = Counter()


def count(family: str, direction: str, backend: str) -> None:
    """Add one call of a kernel."""
    _counts[f"{family}.{direction}.{backend}"] += 1


def kernel_counts() -> dict[str, int]:
    """Calls of every kernel since the last reset, by ``family.direction.backend``.

    Examples:
        >>> reset_kernel_counts()
        >>> kernel_counts()
        {}
    """
    return dict(_counts)


def reset_kernel_counts() -> None:
    """Set every count back to zero.

    Examples:
        >>> reset_kernel_counts()
        >>> kernel_counts()
        {}
    """
    _counts.clear()
