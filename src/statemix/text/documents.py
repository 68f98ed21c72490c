"""Documents from files, folders, JSON lines, Parquet and Hugging Face datasets, in an order that is fixed."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from statemix.extras import import_extra

from .packed import open_unpacked, reading_errors

TEXT_END = 0
"""The byte that no text holds, and that ends one where texts lie one behind the other."""

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_JSON_LINES = (".jsonl", ".ndjson", ".json")
_DATASET_FILES = ("state.json", "dataset_dict.json")


class SourceError(ValueError):
    """What cannot be read as text; the message has the file, the place in it and what to do."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How sources become documents."""

    pattern: str = "*"
    """Which files of a folder are read, by name: "*.py"."""

    exclude: tuple[str, ...] = ()
    """Names of files and folders within a folder that are left out: tests build."""

    field: str = "text"
    """The field of JSON lines, or the column of Parquet and datasets, that holds the text."""

    separator: str = ""
    """Where a plain file is cut into documents, as "\\n\\n". Default: a file is one document."""

    dataset_config: str = ""
    """Which configuration of a Hugging Face dataset."""

    dataset_split: str = "train"
    """Which split of a Hugging Face dataset."""

    stream: bool = False
    """Whether a dataset of the hub is read over the network as it goes, and not downloaded first."""

    replace_errors: bool = False
    """Whether zero bytes and bytes that are no UTF-8 become U+FFFD in place of an error."""

    skip_errors: bool = False
    """Whether files and rows that are no text are left out, and named at the end, in place of an error."""


@dataclass(frozen=True)
class Part:
    """One file or dataset: ``name`` tells it from others, ``size`` (bytes, -1 unknown) that it changed."""

    name: str
    size: int
    kind: str
    given: bool = False


def names_of(sources: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Sources as texts, each path in its one spelling: a slash at the end of a folder says nothing.

    Raises:
        TypeError: one name in place of a list, or a source that is no name. ValueError: an empty name.

    Examples:
        >>> names_of(["notes/", "./a.txt", "hf:roneneldan/TinyStories"])
        ['notes', 'a.txt', 'hf:roneneldan/TinyStories']
    """
    required = "text: sources must be a list of files, folders or 'hf:NAME'"
    if isinstance(sources, str | os.PathLike):
        raise TypeError(f"{required}; got {sources!r}: write [{sources!r}]")
    for source in sources:
        if not isinstance(source, str | os.PathLike):
            raise TypeError(
                f"{required}; got {type(source).__name__} among them: write a dataset down with "
                f"save_to_disk, or rows as JSON lines, and give their path"
            )
        if not os.fspath(source):
            raise ValueError("text: a source has an empty name; give a file, a folder or hf:NAME")
    names = [os.fspath(source) for source in sources]
    return [name if name.startswith("hf:") else str(Path(name)) for name in names]


def list_parts(sources: list[str], options: ReadOptions) -> list[Part]:
    """The files and datasets that sources name, folders sorted by path and without hidden files.

    Raises:
        FileNotFoundError: a source that is not there, or a folder without a fitting file.
        ValueError: no sources, or a pattern that is none.
    """
    if not sources:
        raise ValueError("text: there are no sources; give at least one file, folder or hf:NAME")
    parts: list[Part] = []
    for source in sources:
        if source.startswith("hf:"):
            if source == "hf:":
                raise ValueError(
                    "text: a dataset of the Hugging Face hub is written hf:NAME, as "
                    "hf:roneneldan/TinyStories; got 'hf:' without a name"
                )
            parts.append(Part(source, -1, "hub", given=True))
            continue
        path = Path(source).expanduser()
        if path.is_file():
            parts.append(_file_part(path, given=True))
        elif path.is_dir() and any((path / name).is_file() for name in _DATASET_FILES):
            parts.append(Part(str(path), -1, "disk", given=True))
        elif path.is_dir():
            try:
                fitting = sorted(path.rglob(options.pattern))
            except (ValueError, NotImplementedError) as error:
                raise ValueError(
                    f"text: pattern must fit names within a folder, as '*.py'; got {options.pattern!r}: "
                    f"{error}"
                ) from None
            files = [p for p in fitting if p.is_file() and not _is_excluded(p, path, options.exclude)]
            if not files:
                raise FileNotFoundError(f"text: folder {path} holds no file that fits {options.pattern!r}")
            parts += [_file_part(file) for file in files]
        else:
            raise FileNotFoundError(
                f"text: no file or folder at {source}; a dataset of the Hugging Face hub is written hf:NAME"
            )
    return parts


def read_part(part: Part, options: ReadOptions, start: int = 0) -> Iterator[bytes | SourceError]:
    """The documents of a part from number ``start`` on, UTF-8; a row that is no text comes as its error.

    Empty documents come as b"". A part that is unreadable as a whole raises.
    """
    readers = {"text": _plain, "json": _json_lines, "parquet": _parquet, "hub": _dataset, "disk": _dataset}
    for data, place, offset in readers[part.kind](part, options, start):
        yield data if isinstance(data, SourceError) else _checked(data, place, offset, options)


def _is_excluded(file: Path, folder: Path, names: tuple[str, ...]) -> bool:
    parts = file.relative_to(folder).parts
    return any(part.startswith(".") or part == "__pycache__" or part in names for part in parts)


def _file_part(path: Path, given: bool = False) -> Part:
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".zst"):
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    # .json is JSON lines only when it was named itself: in a folder it is a file like others.
    json_lines = last in _JSON_LINES and (last != ".json" or given)
    kind = "parquet" if last == ".parquet" else "json" if json_lines else "text"
    return Part(str(path), path.stat().st_size, kind, given)


def _checked(data: bytes, place: str, offset: int, options: ReadOptions) -> bytes | SourceError:
    """What is text; offsets are counted from the beginning of ``place``, ``offset`` bytes before the data."""
    zero = data.find(TEXT_END)
    if zero >= 0:
        if not options.replace_errors:
            if data.startswith(_UTF16_MARKS):
                return SourceError(
                    f"text: {place} is UTF-16 and not UTF-8: byte 0x{data[0]:02x} at offset {offset}; "
                    f"convert it (iconv -f utf-16 -t utf-8), or pass --skip-errors"
                )
            return SourceError(
                f"text: {place} is binary: a zero byte at offset {offset + zero}; leave it out with "
                f"--pattern or --skip-errors"
            )
        data = data.replace(b"\0", "\ufffd".encode())
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        if not options.replace_errors:
            return SourceError(
                f"text: {place} is not UTF-8: byte 0x{data[error.start]:02x} at offset "
                f"{offset + error.start}; convert it (iconv -f latin1 -t utf-8), or pass --replace-errors or "
                f"--skip-errors"
            )
        data = data.decode("utf-8", errors="replace").encode()
    return data if data.strip() else b""


# A document or why it is none, where it is, and how many bytes of that place lie before it.
Found = Iterator[tuple[bytes | SourceError, str, int]]


def _plain(part: Part, options: ReadOptions, start: int) -> Found:
    with open_unpacked(Path(part.name)) as file:
        data = _read_all(file, part.name)
    separator = options.separator.encode()
    pieces = data.split(separator) if separator else [data]
    offset = 0
    if data.startswith(codecs.BOM_UTF8):  # it says how the file is written, and is none of its text
        offset = len(codecs.BOM_UTF8)
        pieces[0] = pieces[0][offset:]
    for number, piece in enumerate(pieces):
        if number >= start:
            yield piece, part.name if len(pieces) == 1 else f"{part.name} (document {number + 1})", offset
        offset += len(piece) + len(separator)


def _json_lines(part: Part, options: ReadOptions, start: int) -> Found:
    offset = 0
    with open_unpacked(Path(part.name)) as file:
        for number, line in enumerate(_lines(file, part.name)):
            if number >= start:
                yield *_json_row(line, options, f"{part.name} line {number + 1} (byte {offset})"), 0
            offset += len(line)


def _json_row(line: bytes, options: ReadOptions, place: str) -> tuple[bytes | SourceError, str]:
    if not line.strip():
        return b"", place
    try:
        row = json.loads(line.decode().removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        if not options.replace_errors:
            reason = f"is not UTF-8: byte 0x{line[error.start]:02x} at offset {error.start} of the line"
            return SourceError(f"text: {place} {reason}; pass --replace-errors or --skip-errors"), place
        return _json_row(line.decode("utf-8", errors="replace").encode(), options, place)
    except (ValueError, RecursionError) as error:
        return SourceError(f"text: {place} is no JSON: {error}; pass --skip-errors to leave it out"), place
    if not isinstance(row, dict) or options.field not in row:
        fields = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        reason = f"has no text in field {options.field!r} (it holds: {fields})"
        return SourceError(f"text: {place} {reason}; name another with --field"), place
    return _cell(row[options.field], place, replace_errors=options.replace_errors)


def _parquet(part: Part, options: ReadOptions, start: int) -> Found:
    parquet = import_extra("pyarrow.parquet", "text: this source")
    try:
        file = parquet.ParquetFile(part.name)
    except Exception as error:
        raise SourceError(f"text: {part.name} is no Parquet file: {error}") from None
    _check_column(part.name, options.field, file.schema_arrow.names)
    number = 0
    with _named(part.name, SourceError):
        for batch in file.iter_batches(batch_size=1024, columns=[options.field]):
            if number + len(batch) > start:
                for row, text in enumerate(batch.column(0).to_pylist(), number):
                    if row >= start:
                        yield *_cell(text, f"{part.name} row {row + 1}"), 0
            number += len(batch)


def _dataset(part: Part, options: ReadOptions, start: int) -> Found:
    datasets = import_extra("datasets", "text: this source")
    # A hub that does not answer is no reason to leave its text out.
    with _named(part.name, SourceError if part.kind == "disk" else OSError):
        for number, row in enumerate(_opened_dataset(datasets, part, options).skip(start), start):
            yield *_cell(row[options.field], f"{part.name} row {number + 1}"), 0


def _opened_dataset(datasets: Any, part: Part, options: ReadOptions) -> Any:
    if part.kind == "disk":
        found = datasets.load_from_disk(part.name)
        if isinstance(found, dict):
            if options.dataset_split not in found:
                raise SourceError(
                    f"text: {part.name} has no split {options.dataset_split!r}; it holds {', '.join(found)}"
                )
            found = found[options.dataset_split]
    else:
        found = datasets.load_dataset(
            part.name.removeprefix("hf:"),
            options.dataset_config or None,
            split=options.dataset_split,
            streaming=options.stream,
        )
    if found.column_names is not None:
        _check_column(part.name, options.field, found.column_names)
    return found


@contextlib.contextmanager
def _named(name: str, kind: type[Exception]) -> Iterator[None]:
    """Whatever a library raises becomes a ``kind`` that names what was read."""
    try:
        yield
    except SourceError:
        raise
    except Exception as error:
        raise kind(f"text: {name} cannot be read: {error.__cause__ or error}") from None


def _cell(text: Any, place: str, *, replace_errors: bool = False) -> tuple[bytes | SourceError, str]:
    if text is None:
        return b"", place
    if isinstance(text, bytes):
        return text, place
    if not isinstance(text, str):
        return SourceError(f"text: {place} holds {type(text).__name__} and no text; name a --field"), place
    # Lone surrogates, which JSON can write and UTF-8 cannot.
    return text.encode("utf-8", errors="replace" if replace_errors else "surrogatepass"), place


def _check_column(where: str, field: str, columns: list[str]) -> None:
    if field not in columns:
        raise SourceError(
            f"text: {where} has no column {field!r}; it holds {', '.join(columns)}: name one with --field"
        )


def _read_all(file: BinaryIO, name: str) -> bytes:
    try:
        return file.read()
    except (ValueError, *reading_errors()) as error:
        raise SourceError(f"text: {name} cannot be read: {error}") from None


def _lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    try:
        yield from file
    except reading_errors() as error:
        raise SourceError(f"text: {name} cannot be read further: {error}") from None
