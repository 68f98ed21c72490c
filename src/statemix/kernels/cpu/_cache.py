"""Compiled kernels on disk: one file for each, which processes may write at the same time."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from numba.core.caching import IndexDataCacheFile


class KernelFiles(IndexDataCacheFile):
    """Numba's cache of one function, without its index.

    Numba numbers its files, and keeps in an index which belongs to which types. Of two processes that compile
    at once for different types both may take one number, and the index then names the code of the other: data
    in bfloat16 would be read as float32. Here a file is named after what it was compiled for.
    """

    def save(self, key: Any, data: Any) -> None:
        """Write the code for ``key``: whole, or not at all."""
        self._save_data(self._file_of(key), (self._version, self._source_stamp, data))

    def load(self, key: Any) -> Any:
        """The code for ``key``; None where there is none, another version's, or a damaged file."""
        try:
            version, stamp, data = self._load_data(self._file_of(key))
        except Exception:  # a file cut short by a crash ends in any of them: it is written anew
            return None
        return data if (version, stamp) == (self._version, self._source_stamp) else None

    def flush(self) -> None:
        """Nothing to do: what is out of date is written over."""

    def _file_of(self, key: Any) -> str:
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        return f"{self._index_name.removesuffix('.nbi')}.{name}.nbc"


def keep_on_disk(compiled: Any) -> None:
    """Let a function that numba caches be kept in such files, for as long as no file beside this one changes.

    Numba itself compiles again when the function's own file changes, not when a helper's does.
    """
    cache = compiled._cache
    numbas = cache._cache_file
    base = numbas._index_name.removesuffix(".nbi")
    cache._cache_file = KernelFiles(numbas._cache_path, base, _folder_digest())


@functools.cache
def _folder_digest() -> bytes:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()
