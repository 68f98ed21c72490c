"""Text to train on that needs no download: the standard library's source, or files of one's own."""

from __future__ import annotations

import functools
import hashlib
import platform
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .documents import TEXT_END, SourceError
from .splitting import character_at, hash_share

HELD_OUT_SHARE = 0.05

# Of the standard library.
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
# Generated: near copies of one table that would lie on both sides of the split, and one file of 0.7 MB.
LEFT_OUT |= {"encodings", "pydoc_data"}


@dataclass(frozen=True, eq=False)
class Corpus:
    """Bytes to learn from and bytes held out, from different files.

    name, version, license: what it is and what allows its use.
    train, held_out: uint8, files one after the other with a zero byte behind each.
    files: path of every file within the corpus, in order. held_out_files: those that are held out.
    sha256: over the paths and contents of all files in order.
    """

    name: str
    version: str
    license: str
    sha256: str
    files: tuple[str, ...] = field(repr=False)
    held_out_files: tuple[str, ...] = field(repr=False)
    train: np.ndarray = field(repr=False)
    held_out: np.ndarray = field(repr=False)

    def describe(self) -> str:
        """One line that says exactly what was read."""
        return (
            f"{self.name} {self.version} ({self.license}): {len(self.files)} files, "
            f"{len(self.train):,} bytes to train on, {len(self.held_out):,} held out "
            f"in {len(self.held_out_files)} files, SHA-256 {self.sha256[:16]}"
        )


def standard_library() -> Corpus:
    """The source of the running Python's standard library, sorted by path.

    Left out are tests and what is generated: ``encodings`` and ``pydoc_data``.

    Raises:
        SourceError: this Python carries its library without source.

    Examples:
        >>> corpus = standard_library()
        >>> corpus.license, "this.py" in corpus.files
        ('PSF-2.0', True)
    """
    return _standard_library(sysconfig.get_path("stdlib"))


@functools.cache
def _standard_library(folder: str) -> Corpus:
    root = Path(folder)
    paths = [p for p in root.rglob("*.py") if not LEFT_OUT.intersection(p.relative_to(root).parts)]
    contents = {p.relative_to(root).as_posix(): p.read_bytes() for p in paths}
    contents = {name: data for name, data in contents.items() if data}
    if not contents:
        raise SourceError(f"corpus: {root} holds no *.py file; this Python has no source of its library")
    return _split("Python standard library", platform.python_version(), "PSF-2.0", contents)


def text_files(path: str | Path, pattern: str = "*") -> Corpus:
    """Text of one's own: a file, or every file under a folder whose name fits ``pattern``.

    One file is split at 95 %, between two characters; of a folder, about 5 % of the files are held out.

    Raises:
        FileNotFoundError: nothing there.
        SourceError: an empty file, zero bytes (a binary file) or bytes that are not UTF-8, with the path;
            a folder of fewer than two files.

    Examples:
        >>> _ = Path("a.txt").write_text("to be or not to be " * 10)
        >>> corpus = text_files("a.txt")
        >>> len(corpus.train), len(corpus.held_out)  # with the zero byte that ends a file
        (181, 11)
    """
    root = Path(path).expanduser()
    if root.is_file():
        data = _read_text(root)
        cut = character_at(data, int(len(data) * (1 - HELD_OUT_SHARE)))
        if not 0 < cut < len(data):
            raise SourceError(f"corpus: {root} has {len(data)} bytes: too few to hold some out")
        parts = {root.name: data[:cut], f"{root.name} (end)": data[cut:]}
        return _split(root.name, "-", "unknown license", parts, lambda name: name.endswith(" (end)"))
    if not root.is_dir():
        raise FileNotFoundError(f"corpus: no file or folder at {root}")
    paths = [p for p in root.rglob(pattern) if p.is_file()]
    if len(paths) < 2:
        raise SourceError(f"corpus: {root} must hold at least 2 files that fit {pattern!r}; got {len(paths)}")
    contents = {p.relative_to(root).as_posix(): _read_text(p) for p in paths}
    return _split(root.name, "-", "unknown license", contents)


def open_corpus(name: str) -> Corpus:
    """The corpus called "stdlib", or the text at that path.

    Raises:
        FileNotFoundError: neither.
        SourceError: as of :func:`standard_library` and :func:`text_files`.

    Examples:
        >>> open_corpus("stdlib").name
        'Python standard library'
    """
    if name == "stdlib":
        return standard_library()
    try:
        return text_files(name)
    except FileNotFoundError:
        raise FileNotFoundError(f"corpus {name!r} is neither 'stdlib' nor a file or folder here") from None


def _read_text(path: Path) -> bytes:
    data = path.read_bytes()
    if not data.strip():
        raise SourceError(f"corpus: {path} is empty; leave it out")
    if TEXT_END in data:
        raise SourceError(f"corpus: {path} holds zero bytes: it is no text; leave it out")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"corpus: {path} is not UTF-8 (byte {error.start}); convert it: iconv -f latin1 -t utf-8"
        ) from None
    return data


def _is_held_out(name: str) -> bool:
    """Decided by the path alone, so that a file keeps its side whatever else the corpus holds."""
    return hash_share(name.encode()) < HELD_OUT_SHARE


def _split(
    name: str,
    version: str,
    license: str,
    contents: dict[str, bytes],
    held_out: Callable[[str], bool] = _is_held_out,
) -> Corpus:
    files = sorted(contents)
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file}\0{len(contents[file])}\0".encode())
        total.update(contents[file])
    aside = [file for file in files if held_out(file)]
    if not aside or len(aside) == len(files):
        aside = files[-1:]
    learned = [file for file in files if file not in set(aside)]

    def join(chosen: list[str]) -> np.ndarray:
        return np.frombuffer(b"".join(contents[file] + bytes([TEXT_END]) for file in chosen), dtype=np.uint8)

    return Corpus(
        name, version, license, total.hexdigest(), tuple(files), tuple(aside), join(learned), join(aside)
    )
