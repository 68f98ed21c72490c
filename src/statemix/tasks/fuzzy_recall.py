"""Fuzzy in-context recall: keys and values are motifs of several tokens, of varying length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from .mad import first_of_same, key_value_name
from .recall import InContextRecall
from .streams import choose
from .task import IGNORED


@dataclass(frozen=True, kw_only=True)
class FuzzyRecall(InContextRecall):
    """Keys and values are motifs of one or more different tokens; a key that came before asks for its value.

    The sizes of motifs are uniform. Each token of an asked value is asked at the step before it. The last
    key is one that came before. Sequences are filled up at the front with a padding token ``_``. Tokens:
    keys, values (half of the ordinary tokens each), noise, padding, and the prefix ``>`` of a single query.

    Raises:
        ValueError: motifs with more tokens than there are, or sizes below 1.

    Examples:
        >>> task = FuzzyRecall(length=16, vocabulary=7, key_size=2, value_size=2)
        >>> print(task.render(task.sample(1, seed=3)))
        tokens   _  _  _  k2 k0 v0 k0 k2 v0 v2 k0 v1 k1 v0 v1 k0
        answers  .  .  .  .  .  .  .  .  .  .  .  .  .  .  .  v1

    Source: Poli et al. 2024, arXiv 2403.17844, appendix B.
    """

    key_size: int = 3
    """Tokens of the longest keys."""

    value_size: int = 3
    """Tokens of the longest values."""

    full_keys: Literal["never", "test", "always"] = "test"
    """When all keys have the full size. Only in tests is as in the published code."""

    def check(self) -> None:
        self.check_at_least(1, "key_size", "value_size")
        super().check()
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
        value_sizes = _sizes(self.value_size, shape, random)
        keys = _motifs(self.num_keys, self.key_size, shape, random)

        # A repeated key takes the value, and so the size, of its first place; so what fits comes after.
        is_noise = random.random(shape) < self.noise if self.noise else np.zeros(shape, dtype=bool)
        is_noise[:, 0] = False
        codes = _codes(keys, key_sizes, self.num_keys)
        first = first_of_same(np.where(is_noise, -1 - np.arange(pairs), codes))
        value_sizes = np.take_along_axis(value_sizes, first, axis=1)
        fits = (key_sizes + value_sizes).cumsum(1) <= room
        is_new = first == np.arange(pairs)
        query = choose(is_new & ~is_noise & fits, random)

        # Pairs that fit in no row are left out.
        shown = np.arange(fits.sum(1).max())
        fits, is_new, first = fits[:, shown], is_new[:, shown], first[:, shown]
        values = _motifs(self.num_values, self.value_size, first.shape, random)
        values = self.num_keys + values[rows, first]
        tokens = np.concatenate([keys[:, shown], values], axis=2)
        if self.noise:
            noise = self.draw_noise(tokens.shape, random)
            tokens = np.where(is_noise[:, shown, None], noise, tokens)

        # The query is one pair more, shown and asked for in any case.
        which = np.concatenate([np.broadcast_to(shown, fits.shape), query], axis=1)
        always = np.ones((batch, 1), dtype=bool)
        is_shown = np.concatenate([fits, always], axis=1)
        is_asked = np.concatenate([~is_new & self.multi_query, always], axis=1)
        sizes = key_sizes[rows, which], value_sizes[rows, which]
        return self._lay_out(tokens[rows, which], *sizes, is_shown, is_asked, total)

    def _lay_out(
        self,
        tokens: np.ndarray,
        key_sizes: np.ndarray,
        value_sizes: np.ndarray,
        is_shown: np.ndarray,
        is_asked: np.ndarray,
        total: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pairs one after another: (B, P, key_size + value_size) tokens of which each pair uses its sizes."""
        key_used = np.arange(self.key_size) < key_sizes[..., None]
        value_used = np.arange(self.value_size) < value_sizes[..., None]
        used = np.concatenate([key_used, value_used], axis=2) & is_shown[..., None]
        asked = np.concatenate([np.zeros_like(key_used), value_used & is_asked[..., None]], axis=2)
        if not self.multi_query:
            # One place more before each key, used by the prefix of the last.
            front = ((0, 0), (0, 0), (1, 0))
            tokens = np.pad(tokens, front, constant_values=self.vocabulary - 1)
            used, asked = np.pad(used, front), np.pad(asked, front)
            used[:, -1, 0] = True
        written = _at_right_end(tokens, used, total, fill=self.vocabulary - self.num_special)
        wanted = _at_right_end(np.where(asked, tokens, IGNORED), used, total, fill=IGNORED)
        return written[:, :-1], wanted[:, 1:]


def _at_right_end(tokens: np.ndarray, used: np.ndarray, width: int, fill: int) -> np.ndarray:
    """The used of (B, P, S) tokens of each row, moved together, with ``fill`` before them: (B, width)."""
    batch = len(tokens)
    count = used.reshape(batch, -1).sum(1)
    packed = np.full((batch, width), fill)
    packed[np.arange(width) >= width - count[:, None]] = tokens[used]
    return packed


def _sizes(largest: int, shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    return random.integers(1, largest + 1, size=shape)


def _motifs(tokens: int, size: int, shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Arrangements of ``size`` different tokens, uniform: (B, P, size). Their beginnings are uniform too."""
    motif, taken = [], []  # the tokens so far, as drawn and in rising order
    for i in range(size):
        # One of the tokens that are left, by its rank among them; tokens taken before it move it up.
        token = random.integers(tokens - i, size=shape)
        for smaller in taken:
            token += token >= smaller
        motif.append(token)
        for j, other in enumerate(taken):
            taken[j], token = np.minimum(other, token), np.maximum(other, token)
        taken.append(token)
    return np.stack(motif, axis=-1)


def _codes(motifs: np.ndarray, sizes: np.ndarray, tokens: int) -> np.ndarray:
    """A number for each motif of its first ``sizes`` tokens: digits to the base tokens + 1, 0 for none."""
    codes = np.zeros(sizes.shape, dtype=np.int64)
    for i in range(motifs.shape[-1]):
        codes = codes * (tokens + 1) + np.where(i < sizes, motifs[..., i] + 1, 0)
    return codes
