"""What every generated task is: a frozen config that can sample itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from .streams import stream

IGNORED = -100
"""The target where nothing is asked: what cross-entropy in PyTorch leaves out."""


class Batch(NamedTuple):
    """Token sequences and what is asked at each place.

    inputs: (B, T) int64. targets: (B, T) int64, :data:`IGNORED` where nothing is asked.
    """

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A task with its settings. A new one gives the two vocabulary sizes and :meth:`generate`."""

    length: int = 32
    """Tokens in a sequence."""

    asked: Literal["every", "last"] = "every"
    """Whether the answer is asked at every step or at the last one only."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"{type(self).__name__}: length must be at least 1; got {self.length}")

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """How many input tokens there are."""

    @property
    @abstractmethod
    def output_size(self) -> int:
        """How many answers there are: guessing is right once in so many times."""

    @abstractmethod
    def generate(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and the answer at every step, each (batch, length)."""

    def with_length(self, length: int) -> Self:
        """The same task at another length."""
        return replace(self, length=length)

    def sample(self, batch: int, seed: int = 0, *, step: int = 0, split: str = "train") -> Batch:
        """The batch of ``step`` in a split's stream: the same arguments give the same tokens anywhere.

        Splits ("train", "validation", "test") draw from streams that are disjoint by construction, see
        :func:`statemix.tasks.streams.stream`. Short sequences can still come up twice by chance.
        """
        inputs, targets = self.generate(batch, self.length, stream(seed, split, step))
        if self.asked == "last":
            targets = targets.copy()
            targets[:, :-1] = IGNORED
        return Batch(torch.from_numpy(inputs.astype(np.int64)), torch.from_numpy(targets.astype(np.int64)))
