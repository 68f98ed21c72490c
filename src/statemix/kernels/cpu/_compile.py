"""How kernels are compiled: once per machine and dtype, kept in numba's cache on disk."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a piece that kernels are made of."""
    return njit(nogil=True, forceinline=True)(function)


def kernel(function: Callable[..., None]) -> Any:
    """Compile a module-level function to run without the interpreter lock."""
    try:
        compiled = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no directory that it may write its cache to
        return njit(nogil=True)(function)
    _watch_the_whole_folder(compiled)
    return compiled


def _watch_the_whole_folder(compiled: Any) -> None:
    # numba drops a cached kernel when the kernel's own file changes, not when a helper's does.
    cache_file = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if hasattr(cache_file, "_source_stamp"):
        cache_file._source_stamp = _folder_digest()  # type: ignore[union-attr]


@functools.cache
def _folder_digest() -> bytes:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()


def launch(compiled: Any, *arguments: Any) -> None:
    """Call a kernel; a cache that became read-only or full costs the next process a compilation, no more."""
    try:
        compiled(*arguments)
    except OSError:  # raised while saving, before the kernel ran; the compiled code is in place
        compiled(*arguments)
