"""Linear recurrent layers whose states mix: BD-LRU and H-LRU for PyTorch.

    bdlru_scan, hlru_scan    the recurrences as operators
    BDLRU, HLRU              the recurrences as layers

Source: arXiv 2602.12021.
"""

from .nn import BDLRU, HLRU
from .ops import backend_for, bdlru_scan, hlru_scan, kernel_counts, reset_kernel_counts

__version__ = "0.1.0"

__all__ = [
    "BDLRU",
    "HLRU",
    "__version__",
    "backend_for",
    "bdlru_scan",
    "hlru_scan",
    "kernel_counts",
    "reset_kernel_counts",
]
