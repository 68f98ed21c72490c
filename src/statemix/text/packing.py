"""Documents packed side by side into rows, with the boundaries that keep their states apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .shards import TokenSplit

_ROUNDS = 4


class Packed(NamedTuple):
    """Rows of packed documents, laid one after the other.

    inputs, targets: (1, R * T) int64: what is read, and what comes next. cu_seqlens: (S + 1,) int32: where
    documents and rows begin, then R * T, repeated up to a power of two (sequences of no tokens), so that
    few shapes come up. rows, length: R and T.
    """

    inputs: Tensor
    targets: Tensor
    cu_seqlens: Tensor
    rows: int
    length: int


def pack(split: TokenSplit, starts: np.ndarray, length: int) -> Packed:
    """The rows that begin at ``starts``, each ``length`` tokens of the split.

    Every token is a target once: a document's first token is predicted from the end token before it, from
    a state that knows nothing. A row that begins inside a document starts from such a state too.

    Examples:
        >>> from pathlib import Path
        >>> from statemix.text import PrepareOptions, prepare
        >>> _ = Path("t.jsonl").write_text('{"text": "abc"}\\n{"text": "de"}\\n')
        >>> options = PrepareOptions(validation_share=0)
        >>> split = prepare(["t.jsonl"], "shards", options, progress=False).split("train")
        >>> packed = pack(split, np.array([0]), 6)
        >>> bytes(packed.inputs[0].tolist()), bytes(packed.targets[0].tolist()), packed.cu_seqlens.tolist()
        (b'\\x00abc\\x00d', b'abc\\x00de', [0, 4, 6])
    """
    inputs = np.empty((len(starts), length), dtype=np.int64)
    targets = np.empty_like(inputs)
    bounds = []
    for row, start in enumerate(starts.tolist()):
        tokens = split.read(start - 1, start + length)
        inputs[row], targets[row] = tokens[:-1], tokens[1:]
        inside = split.starts(start + 1, start + length)
        bounds += [np.array([row * length]), inside - start + row * length]
    total = inputs.size
    places = np.concatenate([*bounds, [total]])
    # Powers of two, so that a compiler meets few sizes.
    padded = 1 + (1 << (len(places) - 2).bit_length())
    cu_seqlens = np.full(padded, total, dtype=np.int32)
    cu_seqlens[: len(places)] = places
    return Packed(
        torch.from_numpy(inputs).view(1, -1),
        torch.from_numpy(targets).view(1, -1),
        torch.from_numpy(cu_seqlens),
        len(starts),
        length,
    )


def permuted(places: np.ndarray, size: int, key: int) -> np.ndarray:
    """Where a permutation of 0, 1, ..., size - 1 sends places; ``key`` names the permutation.

    Nothing of length ``size`` is made, so that the windows of a corpus of any size can be shuffled, and any
    step of a run finds its own without those before it.

    Raises:
        ValueError: a place that is not below ``size``.

    Examples:
        >>> sorted(permuted(np.arange(10), 10, key=3).tolist()) == list(range(10))
        True

    Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains" (a Feistel network, walked in
    cycles until it falls inside).
    """
    half = max(1, -(-(size - 1).bit_length() // 2))
    mask = np.uint64((1 << half) - 1)
    found = places.astype(np.uint64)
    if len(found) and int(found.max()) >= size:
        raise ValueError(f"permuted: places must lie below {size}; got {int(found.max())}")
    outside = np.ones(len(found), dtype=bool)
    while outside.any():
        left, right = found[outside] >> np.uint64(half), found[outside] & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mixed(right, key, turn) & mask)
        found[outside] = (left << np.uint64(half)) | right
        outside = found >= size
    return found.astype(np.int64)


def _mixed(numbers: np.ndarray, key: int, turn: int) -> np.ndarray:
    """The finaliser of SplitMix64 over number, key and round."""
    with np.errstate(over="ignore"):
        x = numbers + np.uint64((key * 0x9E3779B97F4A7C15 + (turn + 1) * 0xD1B54A32D192ED03) % 2**64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
