"""What the tasks of mechanistic architecture design (MAD) share: one vocabulary, some of it noise."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from .task import Task


@dataclass(frozen=True, kw_only=True)
class MadTask(Task):
    """A task over ordinary tokens, then noise tokens, then special ones: ``vocabulary`` in all.

    Raises:
        ValueError: a noise share outside [0, 1), noise without tokens for it, or too few ordinary tokens.

    Source: Poli et al. 2024, arXiv 2403.17844, section 3 and appendix B.
    """

    vocabulary: int = 16
    """Input tokens: ordinary, noise and special ones, without the start token."""

    noise_vocabulary: int = 0
    """How many of them are noise."""

    noise: float = 0.0
    """Share of the sequence that is noise."""

    def check(self) -> None:
        name = type(self).__name__
        if not 0 <= self.noise < 1:
            raise ValueError(f"{name}: noise must lie in [0, 1); got {self.noise}")
        if self.noise_vocabulary < 0 or (self.noise > 0 and self.noise_vocabulary == 0):
            raise ValueError(
                f"{name}: noise {self.noise} needs a noise_vocabulary of at least 1; "
                f"got {self.noise_vocabulary}"
            )
        if self.num_ordinary < 2:
            raise ValueError(
                f"{name}: vocabulary must be at least {self.vocabulary - self.num_ordinary + 2}, for two "
                f"ordinary tokens, {self.noise_vocabulary} of noise and {self.num_special} special; "
                f"got {self.vocabulary}"
            )
        super().check()

    @property
    @abstractmethod
    def num_special(self) -> int:
        """Tokens at the end of the vocabulary that have a meaning of their own."""

    @property
    def num_ordinary(self) -> int:
        """Tokens that carry content."""
        return self.vocabulary - self.noise_vocabulary - self.num_special

    @property
    def num_keys(self) -> int:
        """The first half of the ordinary tokens, where these are keys and values."""
        return self.num_ordinary // 2

    @property
    def num_values(self) -> int:
        """The other half."""
        return self.num_ordinary - self.num_keys

    @property
    def num_tokens(self) -> int:
        return self.vocabulary

    @property
    def output_size(self) -> int:
        return self.vocabulary

    def answer_name(self, answer: int) -> str:
        return self.token_name(answer)

    def draw_noise(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        """Noise tokens."""
        return self.num_ordinary + random.integers(self.noise_vocabulary, size=shape)


def key_value_name(task: MadTask, token: int, special: str) -> str:
    """``k3`` for a key, ``v0`` for a value, ``~2`` for noise, and a letter for each special token."""
    if token < task.num_keys:
        return f"k{token}"
    if token < task.num_ordinary:
        return f"v{token - task.num_keys}"
    noise = token - task.num_ordinary
    return f"~{noise}" if noise < task.noise_vocabulary else special[noise - task.noise_vocabulary]


def noise_mask(share: float, shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Which of (B, P) places are noise: each with probability ``share``, but one of each row is not."""
    if share == 0:
        return np.zeros(shape, dtype=bool)
    is_noise = random.random(shape) < share
    kept = random.integers(shape[1], size=shape[0])
    is_noise[np.arange(shape[0]), kept] = False
    return is_noise


def first_of_same(codes: np.ndarray) -> np.ndarray:
    """For each of (B, P) codes, the first place in its row that holds the same.

    Examples:
        >>> first_of_same(np.array([[5, 3, 5, 3, 9]]))
        array([[0, 1, 0, 1, 4]])
    """
    order = np.argsort(codes, axis=1, kind="stable")
    in_order = np.take_along_axis(codes, order, axis=1)
    place = np.arange(codes.shape[1])
    begins = np.ones(codes.shape, dtype=bool)
    begins[:, 1:] = in_order[:, 1:] != in_order[:, :-1]
    start = np.maximum.accumulate(np.where(begins, place, 0), axis=1)
    first = np.empty_like(order)
    np.put_along_axis(first, order, np.take_along_axis(order, start, axis=1), axis=1)
    return first
