"""Selective copying: write out, in order, the tokens that lay scattered among blanks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .task import IGNORED, Task


@dataclass(frozen=True, kw_only=True)
class SelectiveCopying(Task):
    """Tokens come in among blanks, then a sign to copy and blanks; asked at these are the tokens, in order.

    Each blank lies before a token chosen at random, so that the last token stands next to the sign.
    Tokens: those to copy, the blank ``_``, the sign ``>``. Targets are tokens.

    Raises:
        ValueError: a vocabulary below 4, nothing to copy, or a length without room for it.

    Examples:
        >>> task = SelectiveCopying(length=12, num_copied=3)
        >>> print(task.render(task.sample(1)))
        tokens   _ _ _ 0 _ _ 0 8 > _ _ _
        answers  . . . . . . . . . 0 0 8

    Source: Poli et al. 2024, arXiv 2403.17844; Gu and Dao 2023, arXiv 2312.00752.
    """

    length: int = 256
    """Tokens in a sequence, all counted: inputs and targets are (B, length)."""

    vocabulary: int = 16
    """Input tokens: those to copy, the blank and the sign, without the start token."""

    num_copied: int = 16
    """Tokens to copy."""

    selective: bool = True
    """Whether blanks lie between the tokens; else all of them come after."""

    def check(self) -> None:
        self.check_at_least(4, "vocabulary")
        self.check_at_least(1, "num_copied")
        super().check()

    @property
    def num_tokens(self) -> int:
        return self.vocabulary

    @property
    def output_size(self) -> int:
        return self.vocabulary

    @property
    def shortest(self) -> int:
        return 2 * self.num_copied + 1

    @property
    def chance(self) -> float:
        return 1 / (self.vocabulary - 2)

    def token_name(self, token: int) -> str:
        special = token - (self.vocabulary - 2)
        return str(token) if special < 0 else "_>"[special]

    def answer_name(self, answer: int) -> str:
        return self.token_name(answer)

    def generate(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        blank, sign = self.vocabulary - 2, self.vocabulary - 1
        count = self.num_copied
        spare = length - 2 * count - 1
        copied = random.integers(blank, size=(batch, count))
        places = np.broadcast_to(np.arange(count), copied.shape)
        if self.selective:
            rows = np.arange(batch)[:, None]
            before = random.integers(count, size=(batch, spare)) + rows * count
            gaps = np.bincount(before.ravel(), minlength=batch * count).reshape(batch, count)
            places = places + gaps.cumsum(1)
        inputs = np.full((batch, length), blank)
        np.put_along_axis(inputs, places, copied, axis=1)
        inputs[:, -count - 1] = sign
        targets = np.full((batch, length), IGNORED)
        targets[:, -count:] = copied
        return inputs, targets
