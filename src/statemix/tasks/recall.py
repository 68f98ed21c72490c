"""In-context recall: keys and values come in pairs; a key that came before asks for its value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from .mad import MadTask, first_of_same, key_value_name, noise_mask
from .streams import choose
from .task import IGNORED


@dataclass(frozen=True, kw_only=True)
class InContextRecall(MadTask):
    """Pairs of a key and a value come in; asked at a key that came before is its value, which comes next.

    Values are drawn anew for every sequence. The last key is one that came before. With noise, some pairs
    are two noise tokens. Tokens: keys, values (half of the ordinary tokens each), noise, and where one
    query is asked the prefix ``>`` before it. Targets are tokens.

    Examples:
        >>> task = InContextRecall(vocabulary=6, length=9)
        >>> print(task.render(task.sample(1)))
        tokens   k0 v1 k0 v1 k1 v0 k0 v1 k1
        answers  .  .  v1 .  .  .  v1 .  v0

    Source: Poli et al. 2024, arXiv 2403.17844; Arora et al. 2023, arXiv 2312.04927 (many queries).
    """

    length: int = 128
    """Tokens in a sequence, all counted: inputs and targets are (B, length)."""

    multi_query: bool = True
    """Whether every repeated key asks for its value, or only one key at the end, after a prefix."""

    train_on: Literal["asked", "next"] = "asked"
    """In training, targets are what is asked, or the next token everywhere, as in the published code.
    Tests ask for values in either case."""

    @property
    def num_special(self) -> int:
        return 0 if self.multi_query else 1

    @property
    def shortest(self) -> int:
        return 3 if self.multi_query else 4

    @property
    def chance(self) -> float:
        return 1 / self.num_values

    def token_name(self, token: int) -> str:
        return key_value_name(self, token, ">")

    def for_split(self, split: str) -> Self:
        return self if split == "train" else replace(self, train_on="asked")

    def generate(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        inputs, targets = self.recall(batch, length, random)
        if self.train_on == "next":
            targets[:, :-1] = inputs[:, 1:]
        return inputs, targets

    def recall(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and the values that are asked for, each (batch, length)."""
        # Many queries: pairs, a key, and its value if one more token fits. One query: pairs, prefix, key.
        pairs = (length - 1) // 2 if self.multi_query else (length - 2) // 2
        shape = (batch, pairs)
        keys = random.integers(self.num_keys, size=shape)
        values = self.num_keys + random.integers(self.num_values, size=shape)
        is_noise = noise_mask(self.noise, shape, random)
        place = np.arange(pairs)
        first = first_of_same(np.where(is_noise, self.num_keys + place, keys))
        values = np.take_along_axis(values, first, axis=1)
        is_new = first == place
        query = choose(is_new & ~is_noise, random)
        key, value = (np.take_along_axis(some, query, axis=1) for some in (keys, values))

        inputs = np.empty((batch, length), dtype=np.int64)
        targets = np.full((batch, length), IGNORED)
        lead = 0 if self.multi_query else length % 2
        inputs[:, :lead] = self.num_keys + random.integers(self.num_values, size=(batch, lead))
        body = np.stack([keys, values], axis=2)
        if self.noise:
            body = np.where(is_noise[..., None], self.draw_noise((*shape, 2), random), body)
        inputs[:, lead : lead + 2 * pairs] = body.reshape(batch, 2 * pairs)
        if self.multi_query:
            targets[:, : 2 * pairs : 2] = np.where(is_new, IGNORED, values)
            ends = (key, value)
        else:
            ends = (np.full_like(key, self.vocabulary - 1), key)
        rest = inputs[:, lead + 2 * pairs :]
        rest[:] = np.concatenate(ends, axis=1)[:, : rest.shape[1]]
        targets[:, 2 * pairs if self.multi_query else -1] = value[:, 0]
        return inputs, targets
