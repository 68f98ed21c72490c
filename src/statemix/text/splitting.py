"""Which split a document falls into: its content decides, so that copies of it fall on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from .documents import Part
from .shards import SPLITS


class Splitter:
    """Divides documents between training and validation.

    Args:
        parts: all that is read; where these are a few files, one of them is held out whole.
        share: of documents that are held out, in [0, 1).
        separator: where plain files are cut into documents; "" leaves a file whole.
    """

    def __init__(self, parts: Sequence[Part], share: float, separator: str) -> None:
        self._share, self._separator, self._parts = share, separator, len(parts)
        self._held_out = _held_out_file(parts, share)

    def is_whole_file(self, part: Part) -> bool:
        """Whether a part is one document."""
        return part.kind == "text" and not self._separator

    def split(self, part: Part, document: bytes) -> list[tuple[bytes, str]]:
        """The document with its split; the only one there is falls into two pieces."""
        if self.is_whole_file(part) and self._parts == 1 and self._share:
            cut = _cut(document, self._share)
            pieces = zip((document[:cut], document[cut:]), SPLITS, strict=True)
            return [(data, split) for data, split in pieces if data]
        held_out = part.name == self._held_out or hash_share(document) < self._share
        return [(document, SPLITS[held_out])]


def _held_out_file(parts: Sequence[Part], share: float) -> str | None:
    """Of so few files that none may fall into validation, the one that does, by the hash of its name."""
    if not share or len(parts) < 2 or len(parts) >= 5 / share or any(part.kind != "text" for part in parts):
        return None
    return min((part.name for part in parts), key=lambda name: hashlib.sha256(name.encode()).digest())


def hash_share(data: bytes) -> float:
    """A number in [0, 1) that the content decides."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") / 2**64


def _cut(text: bytes, share: float) -> int:
    """Where the last ``share`` of a text begins: at a line if one begins near, never inside a character."""
    cut = int(len(text) * (1 - share))
    line = text.find(b"\n", cut, cut + (len(text) - cut) // 2)
    return line + 1 if line >= 0 else character_at(text, cut)


def character_at(text: bytes, place: int) -> int:
    """The first place from ``place`` on at which a character of UTF-8 begins, or the text ends.

    Examples:
        >>> [character_at("aé".encode(), place) for place in range(4)]
        [0, 1, 3, 3]
    """
    while place < len(text) and text[place] & 0xC0 == 0x80:
        place += 1
    return place
