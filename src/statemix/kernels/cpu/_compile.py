"""How kernels are compiled: once per machine and dtype, kept in numba's cache on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

from ._cache import keep_on_disk


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a piece that kernels are made of."""
    return njit(nogil=True, forceinline=True)(function)


def kernel(function: Callable[..., None]) -> Any:
    """Compile a module-level function to run without the interpreter lock."""
    try:
        compiled = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no directory that it may write its cache to
        return njit(nogil=True)(function)
    keep_on_disk(compiled)
    return compiled


def launch(compiled: Any, *arguments: Any) -> None:
    """Call a kernel; a cache that became read-only or full costs the next process a compilation, no more."""
    try:
        compiled(*arguments)
    except OSError:  # raised while saving, before the kernel ran; the compiled code is in place
        compiled(*arguments)
