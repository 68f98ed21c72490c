"""What formal languages beyond state tracking share: the lengths of their protocol."""

from __future__ import annotations

from dataclasses import dataclass

from .task import Task
from .tracking import published_test_lengths, published_train_lengths


@dataclass(frozen=True, kw_only=True)
class FormalLanguage(Task):
    """A task that needs a stack, a queue or a tape: trained on lengths to 40, tested on longer ones.

    Source: Deletang et al. 2023, arXiv 2207.02098.
    """

    length: int = 40
    """Tokens in a sequence, all counted: inputs and targets are (B, length)."""

    @property
    def train_lengths(self) -> tuple[int, int]:
        return published_train_lengths(self)

    @property
    def test_lengths(self) -> tuple[int, ...]:
        return published_test_lengths(self)
