"""Memorization: a fixed dictionary, which stands nowhere but in the weights."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from .mad import MadTask, key_value_name, noise_mask
from .streams import fixed_stream
from .task import IGNORED


@dataclass(frozen=True, kw_only=True)
class Memorization(MadTask):
    """Keys come in, each before a sign ``>``; asked at the sign is the value of the key.

    The dictionary gives each key a value of its own. It depends on the vocabulary and the dictionary's
    seed alone: every split and every seed of samples has the same. Tokens: keys, values, noise, the sign.
    Targets are tokens.

    Examples:
        >>> task = Memorization(vocabulary=9, length=6, dictionary_seed=2)
        >>> print(task.render(task.sample(1)))
        tokens   k0 >  k0 >  k2 >
        answers  .  v0 .  v0 .  v3
        >>> task.dictionary().tolist()
        [4, 6, 7, 5]

    Source: Poli et al. 2024, arXiv 2403.17844.
    """

    length: int = 32
    """Tokens in a sequence, all counted: inputs and targets are (B, length)."""

    vocabulary: int = 256
    """Input tokens: ordinary, noise and special ones, without the start token."""

    dictionary_seed: int = 0
    """Decides the dictionary."""

    def check(self) -> None:
        super().check()
        self.check_at_least(0, "dictionary_seed")

    @property
    def num_special(self) -> int:
        return 1

    @property
    def shortest(self) -> int:
        return 2

    @property
    def chance(self) -> float:
        return 1 / self.num_values

    def token_name(self, token: int) -> str:
        return key_value_name(self, token, ">")

    def dictionary(self) -> np.ndarray:
        """The value token of every key token: (num_keys,)."""
        return _dictionary(self.num_keys, self.num_values, self.dictionary_seed)

    def generate(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        pairs = length // 2
        shape = (batch, pairs)
        inputs = np.empty((batch, length), dtype=np.int64)
        targets = np.full((batch, length), IGNORED)
        keys = random.integers(self.num_keys, size=(batch, pairs + length % 2))
        inputs[:, ::2] = keys
        inputs[:, 1::2] = self.vocabulary - 1
        targets[:, 1::2] = self.dictionary()[keys[:, :pairs]]
        if self.noise:
            is_noise = noise_mask(self.noise, shape, random).repeat(2, axis=1)
            inputs[:, : 2 * pairs][is_noise] = self.draw_noise((int(is_noise.sum()),), random)
            targets[:, : 2 * pairs][is_noise] = IGNORED
        return inputs, targets


@functools.lru_cache(maxsize=64)
def _dictionary(keys: int, values: int, seed: int) -> np.ndarray:
    dictionary = keys + fixed_stream(seed).permutation(values)[:keys]
    dictionary.flags.writeable = False
    return dictionary
