"""Writes shards so that a process that is killed at any moment can go on and leave the same bytes."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .shards import sha256_of

_ENDING = ".writing"


class GrowingArray:
    """A .npy file of one dimension that grows, and can be cut back to a length that was noted."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path = path
        self.dtype = dtype
        self.length = 0
        self._file: BinaryIO | None = None

    def append(self, values: np.ndarray) -> None:
        if self._file is None:
            self._open(0)
        assert self._file is not None
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).data)
        self.length += len(values)

    def sync(self) -> None:
        """Make what was appended last."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def cut_back(self, length: int) -> None:
        """Go back to ``length`` values, also where the file had been finished since.

        Raises:
            OSError: the file is shorter than that.
        """
        if self.path.exists():
            os.replace(self.path, self._temporary)
        needed = len(_header(self.dtype, 0)) + length * self.dtype.itemsize
        if length and (not self._temporary.exists() or self._temporary.stat().st_size < needed):
            raise OSError(
                f"{self._temporary} is shorter than its journal says; remove the folder, start again"
            )
        self._open(length)

    def finish(self) -> dict[str, Any]:
        """Close it under its name; its size and checksum."""
        if self._file is None:
            self._open(0)
        assert self._file is not None
        self._file.seek(0)
        self._file.write(_header(self.dtype, self.length))
        self.sync()
        self._file.close()
        self._file = None
        os.replace(self._temporary, self.path)
        return {"bytes": self.path.stat().st_size, "sha256": sha256_of(self.path)}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def _temporary(self) -> Path:
        return self.path.with_name(self.path.name + _ENDING)

    def _open(self, length: int) -> None:
        header = _header(self.dtype, 0)
        self._temporary.touch()
        self._file = open(self._temporary, "r+b", buffering=2**20)  # noqa: SIM115
        self._file.truncate(len(header) + length * self.dtype.itemsize)
        self._file.write(header)
        self._file.seek(0, os.SEEK_END)
        self.length = length


class SplitWriter:
    """The shards of one split: documents are appended, a shard that is full is finished."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any], shard_tokens: int) -> None:
        self.folder, self.name, self.dtype, self.shard_tokens = folder, name, dtype, shard_tokens
        self.shards: list[dict[str, Any]] = []
        self.files: dict[str, dict[str, Any]] = {}
        self._begin()

    @property
    def tokens(self) -> int:
        return sum(shard["tokens"] for shard in self.shards) + self._tokens.length

    @property
    def documents(self) -> int:
        return sum(shard["documents"] for shard in self.shards) + self._ends.length

    @property
    def bytes(self) -> int:
        return sum(shard["bytes"] for shard in self.shards) + self._size

    def add(self, tokens: np.ndarray, size: int) -> None:
        """Append a document of ``size`` bytes of text, its end token included."""
        if self._tokens.length and self._tokens.length + len(tokens) > self.shard_tokens:
            self._finish_shard()
        self._tokens.append(tokens)
        self._size += size
        self._ends.append(np.array([self._tokens.length], dtype=np.int64))
        self._sizes.append(np.array([self._size], dtype=np.int64))

    def sync(self) -> dict[str, Any]:
        """Make all that was added last, and what :meth:`restore` needs to come back to it."""
        for array in self._arrays:
            array.sync()
        return {
            "shards": self.shards, "files": self.files, "bytes": self._size,
            "tokens": self._tokens.length, "documents": self._ends.length,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what :meth:`sync` gave, whatever was written since."""
        self.shards, self.files = list(state["shards"]), dict(state["files"])
        self._begin()
        self._size = state["bytes"]
        self._tokens.cut_back(state["tokens"])
        self._ends.cut_back(state["documents"])
        self._sizes.cut_back(state["documents"])
        kept = {*self.files, *(array.path.name for array in self._arrays)}
        for file in self.folder.glob(f"{self.name}-*.npy*"):
            if file.name.removesuffix(_ENDING) not in kept:
                file.unlink()

    def finish(self) -> None:
        """Finish the last shard."""
        if self._ends.length:
            self._finish_shard()
        self.close()
        for file in self.folder.glob(f"{self.name}-*{_ENDING}"):
            file.unlink()

    def close(self) -> None:
        for array in self._arrays:
            array.close()

    @property
    def _arrays(self) -> tuple[GrowingArray, GrowingArray, GrowingArray]:
        return self._tokens, self._ends, self._sizes

    def _begin(self) -> None:
        stem = f"{self.name}-{len(self.shards):05d}"
        self._size = 0
        self._tokens = GrowingArray(self.folder / f"{stem}.npy", self.dtype)
        self._ends = GrowingArray(self.folder / f"{stem}.documents.npy", np.dtype(np.int64))
        self._sizes = GrowingArray(self.folder / f"{stem}.bytes.npy", np.dtype(np.int64))

    def _finish_shard(self) -> None:
        entry = {
            "name": self._tokens.path.stem, "tokens": self._tokens.length, "documents": self._ends.length,
            "bytes": self._size,
        }  # fmt: skip
        for array in self._arrays:
            self.files[array.path.name] = array.finish()
        self.shards.append(entry)
        self._begin()


def _header(dtype: np.dtype[Any], length: int) -> bytes:
    """The head of a .npy file; NumPy leaves room in it for a length that grows."""
    head = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(head, description)
    return head.getvalue()
