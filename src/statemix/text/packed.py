"""Files as they are read: plain, or packed by gzip or zstd, where one that is torn off is an error."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from statemix.extras import import_extra

_PIECE = 2**16


def open_unpacked(path: Path) -> BinaryIO:
    """What a file holds, unpacked by the ending of its name; reading raises :func:`reading_errors`.

    Raises:
        ModuleNotFoundError: a .zst file where ``zstandard`` is not installed.
    """
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix.lower() == ".zst":
        library = import_extra("zstandard", "text: this source")
        return io.BufferedReader(_Frames(open(path, "rb"), library.ZstdDecompressor()), _PIECE)
    return open(path, "rb")


def reading_errors() -> tuple[type[Exception], ...]:
    """What reading a file raises that is torn or damaged, packed or not."""
    module = sys.modules.get("zstandard")
    return (EOFError, OSError, zlib.error, *((module.ZstdError,) if module is not None else ()))


class _Frames(io.RawIOBase):
    """The content of a .zst file, frame after frame.

    The library's own reader takes the end of a file for the end of a frame that is torn off.
    """

    def __init__(self, file: BinaryIO, decompressor: Any) -> None:
        self._file = file
        self._pieces = self._unpacked(decompressor)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()

    def _unpacked(self, decompressor: Any) -> Iterator[bytes]:
        packed = self._file.read(_PIECE)
        while packed:
            frame = decompressor.decompressobj()
            while not frame.eof:
                if not packed:
                    raise EOFError("it ends inside a frame of zstd, and was not copied whole")
                yield frame.decompress(packed)
                packed = b"" if frame.eof else self._file.read(_PIECE)
            packed = frame.unused_data or self._file.read(_PIECE)
