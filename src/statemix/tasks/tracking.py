"""Tasks whose answer after every token is known: it is a function of the state so far."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .task import IGNORED, Task


@dataclass(frozen=True, kw_only=True)
class StateTracking(Task):
    """Tokens move a state; asked is the state after each of them or after the last.

    Asked at every step, one training length shows all shorter ones. Asked at the last step only, lengths
    are drawn: 3-40 in training and 40-256 in tests is the protocol that peers share.

    Raises:
        ValueError, TypeError: as of :class:`Task`.

    Examples:
        >>> from statemix.tasks import make
        >>> make("counting", length=12).test_lengths, make("parity", length=40).test_lengths
        ((12, 48, 192), (40, 64, 128, 256))
    """

    asked: Literal["every", "last"] = "every"
    """Whether the answer is asked at every step or at the last one only."""

    @abstractmethod
    def track(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and the answer at every step, each (batch, length); the last step has one."""

    @property
    def train_lengths(self) -> tuple[int, int]:
        if self.asked == "every":
            return self.length, self.length
        return published_train_lengths(self)

    @property
    def test_lengths(self) -> tuple[int, ...]:
        if self.asked == "every":
            return self.length, 4 * self.length, 16 * self.length
        return published_test_lengths(self)

    def generate(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        inputs, answers = self.track(batch, length, random)
        if self.asked == "last":
            last, answers = answers[:, -1], np.full_like(answers, IGNORED)
            answers[:, -1] = last
        return inputs, answers


def published_train_lengths(task: Task) -> tuple[int, int]:
    """From 3, or the shortest that there is, to the task's length."""
    shortest = max(3, task.minimum_length)
    return min(shortest, task.length), task.length


def published_test_lengths(task: Task) -> tuple[int, ...]:
    """The task's length and 1.6, 3.2 and 6.4 times it: 40, 64, 128 and 256."""
    return tuple(task.length * fifths // 5 for fifths in (5, 8, 16, 32))
