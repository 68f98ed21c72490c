"""What callers use: the two operators, their checks, the choice of a backend, the registration."""

from .bdlru import bdlru_scan
from .counters import kernel_counts, reset_kernel_counts
from .dispatch import BACKENDS, backend_for
from .hlru import hlru_scan

__all__ = [
    "BACKENDS",
    "backend_for",
    "bdlru_scan",
    "hlru_scan",
    "kernel_counts",
    "reset_kernel_counts",
]
