"""Token shards: arrays in memory-mapped .npy files, where documents end, and checksums of it all.

FOLDER/
    index.json                     what it is, and size and SHA-256 of every file
    tokenizer.json                 unless tokens are bytes
    train-00000.npy                tokens, uint8, uint16 or uint32, each document closed by the end token
    train-00000.documents.npy      int64: where in it each document ends
    train-00000.bytes.npy          int64: how many bytes of text (an end counts as one) lie before that
    validation-00000.npy ...
"""

from __future__ import annotations

import hashlib
import json
import shlex
from bisect import bisect_right
from pathlib import Path
from typing import Any

import numpy as np

from .tokenizers import Tokenizer, open_tokenizer

FORMAT = "statemix-shards-1"
INDEX = "index.json"
JOURNAL = "preparing.json"
"""How far a preparation has come; it is there until the index is."""

SPLITS = ("train", "validation")

_CHECKED_AT_OPENING = 2**30


class ShardError(ValueError):
    """Prepared text that cannot be used; the message has the file, the reason and what to do."""


class TokenSplit:
    """One split as one long row of tokens, read from its shards as if they were one array.

    Examples:
        >>> from statemix.text import prepare
        >>> _ = Path("a.txt").write_text("to be or not to be")
        >>> split = prepare(["a.txt"], "shards", progress=False).split("train")
        >>> bytes(split.read(0, 5)), len(split), split.documents
        (b'to be', 18, 1)
    """

    def __init__(self, folder: Path, name: str, entries: list[dict[str, Any]], end_token: int) -> None:
        self.name = name
        self.end_token = end_token
        self._tokens = [_mapped(folder / f"{entry['name']}.npy") for entry in entries]
        self._ends = [_mapped(folder / f"{entry['name']}.documents.npy") for entry in entries]
        self._bytes = [_mapped(folder / f"{entry['name']}.bytes.npy") for entry in entries]
        self._first = np.cumsum([0, *map(len, self._tokens)]).tolist()
        self._first_document = np.cumsum([0, *map(len, self._ends)]).tolist()

    def __len__(self) -> int:
        """Tokens, ends of documents included."""
        return self._first[-1]

    @property
    def documents(self) -> int:
        return self._first_document[-1]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens start, start + 1, ..., stop - 1; before the first and after the last it goes round."""
        size = len(self)
        pieces = []
        while start < stop:
            at = start % size
            shard = bisect_right(self._first, at) - 1
            inside = at - self._first[shard]
            piece = self._tokens[shard][inside : inside + stop - start]
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else np.concatenate([*pieces, self._tokens[0][:0]])

    def starts(self, start: int, stop: int) -> np.ndarray:
        """The places in [start, stop) at which a document begins, counted on where it goes round."""
        size = len(self)
        found = []
        while start < stop:
            at = start % size
            shard = bisect_right(self._first, at) - 1
            first, after = self._first[shard], self._first[shard + 1]
            here = min(stop - start, after - at)
            ends = self._ends[shard]
            low, high = np.searchsorted(ends, [at - first, at - first + here])
            # A document begins where the one before it ends; the first begins with its shard.
            places = np.asarray(ends[low:high])
            places = np.concatenate([[0], places]) if at == first else places
            places = places[(places >= at - first) & (places < at - first + here)]
            found.append(places + (start - (at - first)))
            start += here
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    def document(self, number: int) -> tuple[int, int, int]:
        """Where document ``number`` begins and ends among the tokens, and its bytes (its end is one)."""
        shard = bisect_right(self._first_document, number) - 1
        inside = number - self._first_document[shard]
        ends, sizes = self._ends[shard], self._bytes[shard]
        start, before = (int(ends[inside - 1]), int(sizes[inside - 1])) if inside else (0, 0)
        first = self._first[shard]
        return first + start, first + int(ends[inside]), int(sizes[inside]) - before


class TokenShards:
    """A folder that ``statemix text prepare`` made.

    Args:
        folder: where.
        verify: whether checksums of all files are taken: True, False (sizes only), or None: where they
            hold less than a GiB.

    Raises:
        ShardError: nothing prepared there, not finished, or a damaged file, which is named.

    Examples:
        >>> from statemix.text import prepare
        >>> _ = Path("a.txt").write_text("to be or not to be")
        >>> _ = prepare(["a.txt"], "shards", progress=False)
        >>> shards = TokenShards("shards")
        >>> shards.vocab_size, len(shards.split("train"))
        (256, 18)
    """

    def __init__(self, folder: str | Path, *, verify: bool | None = None) -> None:
        self.folder = Path(folder)
        self.index = read_index(self.folder)
        sizes = sum(f["bytes"] for f in self.index["files"].values())
        check_files(
            self.folder, self.index, checksums=sizes < _CHECKED_AT_OPENING if verify is None else verify
        )
        self.vocab_size: int = self.index["vocab_size"]
        self.end_token: int = self.index["end_token"]
        self._splits: dict[str, TokenSplit] = {}

    def split(self, name: str) -> TokenSplit:
        """ "train" or "validation".

        Raises:
            ValueError: another name.
            ShardError: it holds nothing.
        """
        if name not in SPLITS:
            raise ValueError(f"shards: split must be one of {SPLITS}; got {name!r}")
        if not self.index["splits"][name]["tokens"]:
            raise ShardError(
                f"shards {self.folder}: no document fell into {name!r}; prepare it anew with another "
                f"--validation-share, or cut files into documents with --separator"
            )
        if name not in self._splits:
            entries = self.index["splits"][name]["shards"]
            self._splits[name] = TokenSplit(self.folder, name, entries, self.end_token)
        return self._splits[name]

    @property
    def text_sha256(self) -> str:
        """Over all files and the end token: the same for the same tokens, wherever they came from."""
        files = {name: entry["sha256"] for name, entry in self.index["files"].items()}
        return digest({"files": files, "end_token": self.end_token})

    def tokenizer(self) -> Tokenizer:
        """What made the tokens, to make text of them again."""
        return open_tokenizer(self.index["tokenizer"], self.folder, self.end_token)

    def describe(self) -> str:
        """One line that says what was read."""
        sizes = [self.index["splits"][name] for name in SPLITS]
        train, validation = ((s["tokens"], s["documents"]) for s in sizes)
        return (
            f"{self.folder}: {self.index['tokenizer']} tokens of a vocabulary of {self.vocab_size:,}; "
            f"{train[0]:,} to train on in {train[1]:,} documents, {validation[0]:,} for validation in "
            f"{validation[1]:,}; SHA-256 {self.index['sha256'][:16]}"
        )


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a prepared folder.

    Raises:
        ShardError: there is none, or it is damaged.
    """
    file = folder / INDEX
    if folder.is_file():
        hint = f"statemix text prepare {shlex.quote(str(folder))} --out FOLDER makes a folder of it"
        raise ShardError(f"shards {folder}: it is a file and no folder of shards; {hint}")
    if not file.is_file():
        hint = (
            "its preparation was not finished; run the same statemix text prepare again and it goes on"
            if (folder / JOURNAL).is_file()
            else f"make one: statemix text prepare SOURCE --out {shlex.quote(str(folder))}"
        )
        raise ShardError(f"shards {folder}: there is no {INDEX} in it; {hint}")
    again = "prepare the text again, with another --out"
    try:
        index = json.loads(file.read_bytes())
    except ValueError as error:
        raise ShardError(f"shards {file}: it is damaged: {error}; {again}") from None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise ShardError(f"shards {file}: it is not of format {FORMAT}; another version wrote it")
    if index.get("sha256") != digest(index):
        raise ShardError(f"shards {file}: it is damaged: its checksum does not fit; {again}")
    return index


def check_files(folder: Path, index: dict[str, Any], *, checksums: bool) -> None:
    """Raise :class:`ShardError` with the name of the first file that is not as it was written."""
    for name, expected in index["files"].items():
        file = folder / name
        if not file.is_file():
            raise ShardError(f"shards {file}: it is missing; copy it again or prepare the text again")
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise ShardError(f"shards {file}: it is damaged: {size} bytes, written with {expected['bytes']}")
        if checksums and sha256_of(file) != expected["sha256"]:
            raise ShardError(f"shards {file}: it is damaged: its checksum does not fit; copy it again")


def digest(index: dict[str, Any]) -> str:
    """SHA-256 over an index without its own checksum."""
    plain = {key: value for key, value in index.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _mapped(file: Path) -> np.ndarray:
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    # A plain array over the same memory: slices of np.memmap are slow to make.
    return array.view(np.ndarray)
