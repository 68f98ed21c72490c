"""Fuzzy in-context recall: keys and values are motifs of several tokens, of varying length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from .mad import choose, first_of_same, key_value_name
from .recall import InContextRecall
from .task import IGNORED


@dataclass(frozen=True, kw_only=True)
class FuzzyRecall(InContextRecall):
    """Keys and values are motifs of one or more different tokens; a key that came before asks for its value.

    The sizes of motifs are uniform. Each token of an asked value is asked at the step before it. The last
    key is one that came before. Sequences are filled up at the front with a padding token ``_``. Tokens:
    keys, values (half of the ordinary tokens each), noise, padding, and the prefix ``>`` of a single query.

    Raises:
        ValueError: motifs with more tokens than there are, or sizes below 1.

    Example:
        >>> task = FuzzyRecall(length=16, vocabulary=7, key_size=2, value_size=2)
        >>> print(task.render(task.sample(1, seed=3)))
        tokens   _  _  _  _  k1 k2 v2 k2 k0 v2 v1 k1 v0 k2 v0 k1
        answers  .  .  .  .  .  .  .  .  .  .  .  .  .  .  .  v0

    Source: Poli et al. 2024, arXiv 2403.17844, appendix B.
    """

    key_size: int = 3
    """Tokens of the longest keys."""

    value_size: int = 3
    """Tokens of the longest values."""

    full_keys: Literal["never", "test", "always"] = "test"
    """When all keys have the full size. Only in tests is as in the published code."""

    def __post_init__(self) -> None:
        for name in ("key_size", "value_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"FuzzyRecall: {name} must be at least 1; got {getattr(self, name)}")
        if self.full_keys not in ("never", "test", "always"):
            raise ValueError(f"FuzzyRecall: full_keys must be never, test or always; got {self.full_keys!r}")
        super().__post_init__()
        for name, tokens in (("key_size", self.num_keys), ("value_size", self.num_values)):
            if getattr(self, name) > tokens:
                raise ValueError(
                    f"FuzzyRecall: {name} must be at most {tokens}, the tokens that there are for it in a "
                    f"vocabulary of {self.vocabulary}; got {getattr(self, name)}"
                )

    @property
    def num_special(self) -> int:
        return 1 if self.multi_query else 2

    @property
    def shortest(self) -> int:
        return 2 * (self.key_size + self.value_size) - 1 + (not self.multi_query)

    def token_name(self, token: int) -> str:
        return key_value_name(self, token, "_>")

    def for_split(self, split: str) -> Self:
        if split == "train":
            return self
        full_keys = "never" if self.full_keys == "never" else "always"
        return replace(self, train_on="asked", full_keys=full_keys)

    def recall(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        total = length + 1  # the last token of the last value is asked for, and never comes in
        room = total - self.key_size - self.value_size - (not self.multi_query)
        full = self.full_keys == "always"
        pairs = room // (1 + (self.key_size if full else 1))
        shape = (batch, pairs)
        rows = np.arange(batch)[:, None]
        key_sizes = np.full(shape, self.key_size) if full else _sizes(self.key_size, shape, random)
        keys = _motifs(self.num_keys, self.key_size, shape, random)
        value_sizes = _sizes(self.value_size, shape, random)
        values = self.num_keys + _motifs(self.num_values, self.value_size, shape, random)

        # A repeated key takes the value, and so the size, of its first place; so what fits comes after.
        is_noise = random.random(shape) < self.noise if self.noise else np.zeros(shape, dtype=bool)
        is_noise[:, 0] = False
        codes = _codes(keys, key_sizes, self.num_keys)
        first = first_of_same(np.where(is_noise, -1 - np.arange(pairs), codes))
        values, value_sizes = values[rows, first], value_sizes[rows, first]
        fits = (key_sizes + value_sizes).cumsum(1) <= room
        is_new = first == np.arange(pairs)
        query = choose(is_new & ~is_noise & fits, random)

        # Every pair as key_size + value_size places of which some are used, then the query likewise.
        prefix = np.full((batch, 1, int(not self.multi_query)), self.vocabulary - 1)
        motifs = np.concatenate([keys, values], axis=2)
        key_used = np.arange(self.key_size) < key_sizes[..., None]
        value_used = np.arange(self.value_size) < value_sizes[..., None]
        used = np.concatenate([key_used, value_used], axis=2)
        if self.noise:
            motifs = np.where(is_noise[..., None], self.draw_noise(motifs.shape, random), motifs)
        asked = np.concatenate([np.zeros_like(key_used), value_used], axis=2)
        query_asked = asked[rows, query]
        asked &= (~is_new)[..., None] if self.multi_query else False
        tokens = np.concatenate([motifs.reshape(batch, -1), prefix[:, 0], motifs[rows, query][:, 0]], axis=1)
        used_now = (used & fits[..., None]).reshape(batch, -1)
        used = np.concatenate(
            [used_now, np.ones_like(prefix[:, 0], dtype=bool), used[rows, query][:, 0]], axis=1
        )
        asked = np.concatenate(
            [asked.reshape(batch, -1), np.zeros_like(prefix[:, 0], dtype=bool), query_asked[:, 0]], axis=1
        )

        written = np.full((batch, total), self.vocabulary - self.num_special)
        wanted = np.full((batch, total), IGNORED)
        # Used places move together against the right end of the row.
        count = used.sum(1, keepdims=True)
        place = (total - count + used.cumsum(1) - 1)[used]
        row = np.broadcast_to(rows, used.shape)[used]
        written[row, place] = tokens[used]
        wanted[row, place] = np.where(asked, tokens, IGNORED)[used]
        return written[:, :-1], wanted[:, 1:]


def _sizes(largest: int, shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    return random.integers(1, largest + 1, size=shape)


def _motifs(tokens: int, size: int, shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Arrangements of ``size`` different tokens, uniform: (B, P, size). Their beginnings are uniform too."""
    motifs = np.empty((*shape, size), dtype=np.int64)
    for i in range(size):
        # One of the tokens that are left, by its rank among them; tokens taken before it move it up.
        token = random.integers(tokens - i, size=shape)
        taken = np.sort(motifs[..., :i], axis=-1)
        for j in range(i):
            token += token >= taken[..., j]
        motifs[..., i] = token
    return motifs


def _codes(motifs: np.ndarray, sizes: np.ndarray, tokens: int) -> np.ndarray:
    """A number for each motif of its first ``sizes`` tokens: digits to the base tokens + 1, 0 for none."""
    codes = np.zeros(sizes.shape, dtype=np.int64)
    for i in range(motifs.shape[-1]):
        codes = codes * (tokens + 1) + np.where(i < sizes, motifs[..., i] + 1, 0)
    return codes
