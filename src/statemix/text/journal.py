"""What makes a preparation the same as before: its sources, options, and how far it had come."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from statemix.files import is_occupied
from statemix.nested import differences

from .documents import Part
from .shards import JOURNAL, ShardError
from .tokenizers import TOKENIZER_FILE


class LeftOut(TypedDict):
    """What is no document: how many were empty or no text, and the errors of the first of these."""

    empty: int
    not_text: int
    named: list[str]


class Journal(TypedDict):
    """How far a preparation has come.

    made_from: what decides the bytes, as :func:`identity` gives it. position: the part that is read and how
    many of its documents are done. parts_before: digest of the parts up to there. splits: for each split
    what its writer goes back to.
    """

    made_from: dict[str, Any]
    position: Sequence[int]
    parts_before: str
    left_out: LeftOut
    splits: dict[str, dict[str, Any]]


def identity(sources: list[str], options: dict[str, Any], parts: list[Part]) -> dict[str, Any]:
    """What decides the bytes of the shards."""
    unused = () if options["tokenizer"] == "train-bpe" else ("vocab_size", "training_bytes")
    kept = {name: value for name, value in options.items() if name not in unused}
    found = {"sources": sources, "options": kept, "parts": digest_of_parts(parts)}
    # As it will be read back, where tuples are lists.
    return json.loads(json.dumps(found))


def check_same(folder: Path, journal: Journal, identity: dict[str, Any], parts: list[Part]) -> None:
    """Raise unless a journal's preparation can go on: what is done must still come first."""
    # These only matter for what is still to come; the parts before it are compared by themselves.
    free = {
        "parts",
        "options.read.pattern",
        "options.read.exclude",
        "options.read.skip_errors",
        "options.read.replace_errors",
    }
    unlike = differences(journal["made_from"], identity, free=free)
    if unlike:
        raise ShardError(
            f"shards {folder}: its preparation was begun otherwise ({'; '.join(unlike)}); go on with "
            f"the same, or choose another --out"
        )
    part, document = journal["position"]
    if digest_of_parts(parts[: part + (document > 0)]) != journal["parts_before"]:
        raise ShardError(
            f"shards {folder}: files that were already prepared have changed since; choose another --out"
        )


def check_free(folder: Path) -> None:
    """Raise :class:`ShardError` unless a folder is empty or can be made."""
    if folder.exists() and not folder.is_dir():
        raise ShardError(f"shards {folder}: it is a file; choose another --out")
    if is_occupied(folder) and {f.name for f in folder.iterdir() if f.name[0] != "."} != {TOKENIZER_FILE}:
        raise ShardError(f"shards {folder}: it is not empty and holds no shards; choose another --out")


def read_journal(folder: Path) -> Journal | None:
    """How far a preparation had come; None where there is none."""
    file = folder / JOURNAL
    try:
        return json.loads(file.read_bytes()) if file.is_file() else None
    except ValueError as error:
        raise ShardError(f"shards {file}: it is damaged: {error}; choose another --out") from None


def nothing_done(journal: Journal) -> bool:
    """Whether a preparation stands before its first document: it may begin anew, and otherwise."""
    return journal["position"] == [0, 0]


def digest_of_parts(parts: list[Part]) -> str:
    """SHA-256 over the names and sizes of parts."""
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{part.name}\0{part.size}\0".encode())
    return total.hexdigest()
