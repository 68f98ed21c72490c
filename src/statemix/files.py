"""Files that several processes meet in: one of them writes at a time, whole or not at all; and the cache."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

LOCK = ".lock"
"""The file that is locked in a folder that one process writes at a time."""

_held: set[int] = set()


def is_occupied(folder: Path) -> bool:
    """Whether a folder holds anything that is not written over.

    Hidden files are nothing: locks, and what a process had begun to write when it was killed.
    """
    return folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir())


def cache_folder() -> Path:
    """Where lies what can be made again: ``$STATEMIX_CACHE_DIR``, else statemix among the user's caches.

    A ``~`` is the user's home, also where no shell has read it. A relative ``$XDG_CACHE_HOME`` counts as
    none, as its specification wants.
    """
    if chosen := os.environ.get("STATEMIX_CACHE_DIR"):
        return Path(os.path.expanduser(chosen))
    caches = os.environ.get("XDG_CACHE_HOME", "")
    return Path(caches if os.path.isabs(caches) else os.path.expanduser("~/.cache")) / "statemix"


def write_whole(path: Path, data: bytes) -> None:
    """Put data in the place of a file, for good: who reads it meanwhile, or after a crash, finds old or new.

    What is there and no file, such as /dev/stdout, is written to and stays what it is.

    Examples:
        >>> write_whole(Path("notes.txt"), b"all of it")
        >>> Path("notes.txt").read_bytes()
        b'all of it'
    """
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:
            file.write(data)
        return
    temporary = path.with_name(f".{path.name}.writing")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, values: Any) -> None:
    """:func:`write_whole` of values as JSON."""
    write_whole(path, (json.dumps(values, indent=2) + "\n").encode())


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """:func:`write_whole` of rows as CSV, in a folder that is made where there is none.

    Examples:
        >>> write_table(Path("tables/t.csv"), ("name", "size"), [{"name": "a, b", "size": 2}])
        >>> Path("tables/t.csv").read_text()
        'name,size\\n"a, b",2\\n'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=columns)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


@contextlib.contextmanager
def locked(path: Path, refusal: Exception) -> Iterator[None]:
    """While entered, whoever else enters it for this file gets ``refusal``, in this process or another.

    The lock goes with the process that has it, however that ends. The file is made where there is none, and
    stays: one that is taken away could be locked twice.
    """
    # Opened to be written: file systems of a network lock no file that is only read.
    file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    _held.add(file)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise refusal from None
            except OSError:  # a file system without locks
                pass
        yield
    finally:
        if file in _held:
            _held.discard(file)
            os.close(file)


def _forget() -> None:
    """In a process that was forked, which would hold on to what its parent has, and may outlive it."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
