"""Compiled kernels on disk: one file a kernel, named by what went into it, checked when read.

A damaged file counts as missing. A folder that cannot be written to costs a compilation in every process and
one warning.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from pathlib import Path

from statemix.files import cache_folder

_DIGEST_BYTES = 32
_warned = False


def directory() -> Path:
    """The folder of the compiled kernels; it may not exist."""
    return cache_folder() / "cuda"


def key(*parts: str) -> str:
    """A file name from everything that determines the machine code."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part.encode())
    return digest.hexdigest()


def load(name: str) -> bytes | None:
    """The stored bytes, or None if there are none or they are not what was stored."""
    try:
        stored = (directory() / name).read_bytes()
    except OSError:
        return None
    digest, payload = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
    return payload if payload and hashlib.sha256(payload).digest() == digest else None


def store(name: str, payload: bytes) -> None:
    """Stores bytes so that a reader at any moment finds all of them or none."""
    folder = directory()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{name[:16]}-", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            os.replace(temporary, folder / name)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        global _warned
        if not _warned:
            _warned = True
            warnings.warn(
                f"statemix cannot store compiled kernels in {folder} ({error.strerror}): they are compiled "
                "anew in every process. Set STATEMIX_CACHE_DIR to a folder that can be written to.",
                stacklevel=2,
            )
