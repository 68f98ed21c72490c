"""Compression: one vector, at the last token, from which every token must be read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .mad import MadTask, noise_mask
from .task import IGNORED


@dataclass(frozen=True, kw_only=True)
class Compression(MadTask):
    """Random tokens come in, then a sign ``>``; asked at each place is the token there, seen from the end.

    A task for an autoencoder: the answer at place t must be computed from the last vector and t alone. A
    model that answers step by step has only to repeat what it reads. Noise tokens are not asked for.

    Examples:
        >>> task = Compression(length=6, vocabulary=4)
        >>> print(task.render(task.sample(1, seed=1)))
        tokens   1 0 2 2 1 >
        answers  1 0 2 2 1 .

    Source: Poli et al. 2024, arXiv 2403.17844.
    """

    needs_autoencoder: ClassVar[bool] = True

    length: int = 32
    """Tokens in a sequence, all counted: inputs and targets are (B, length)."""

    ask_sign: bool = False
    """Whether the sign is asked for too, as in the published code: always right, 1/length of the accuracy."""

    @property
    def num_special(self) -> int:
        return 1

    @property
    def shortest(self) -> int:
        return 2

    @property
    def chance(self) -> float:
        return 1 / self.num_ordinary

    def token_name(self, token: int) -> str:
        noise = token - self.num_ordinary
        if noise < 0:
            return str(token)
        return f"~{noise}" if noise < self.noise_vocabulary else ">"

    def generate(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        inputs = random.integers(self.num_ordinary, size=(batch, length))
        inputs[:, -1] = self.vocabulary - 1
        targets = inputs.copy()
        if self.noise:
            is_noise = noise_mask(self.noise, (batch, length - 1), random)
            inputs[:, :-1][is_noise] = self.draw_noise((int(is_noise.sum()),), random)
            targets[:, :-1][is_noise] = IGNORED
        if not self.ask_sign:
            targets[:, -1] = IGNORED
        return inputs, targets
