"""State tracking in a finite group: read elements one by one, name their product so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .groups import Group, drawn_generators, group
from .tracking import StateTracking


@dataclass(frozen=True, kw_only=True)
class Permutation(StateTracking):
    """Elements of a group come in one by one; asked is their product so far, the newest on the left.

    Input tokens number the group's elements, or its generators. Answers number the elements.

    Raises:
        ValueError: no such group, or a number of generators that it cannot have.

    Examples:
        >>> inputs, targets = Permutation(group="Z3", length=4).sample(2)
        >>> bool((inputs.cumsum(1) % 3 == targets).all())
        True
        >>> Permutation(group="A5", tokens="generators", num_generators=4).vocab_size
        4

    Source: Merrill et al. 2024, arXiv 2404.08819; Liu et al. 2023, arXiv 2210.10749.
    """

    group: str = "S3"
    """Sn, An or Zn: S3, S5, A5, Z7."""

    tokens: Literal["elements", "generators"] = "elements"
    """What comes in: every element, or the generators only."""

    num_generators: int | None = None
    """Generators drawn at random, without the identity. Default: the standard ones and the identity."""

    generator_seed: int = 0
    """Decides which generators are drawn."""

    def check(self) -> None:
        super().check()
        self.check_at_least(0, "generator_seed")
        if self.num_generators is not None and self.tokens == "elements":
            raise ValueError(
                f"Permutation: num_generators is {self.num_generators}, but every element comes in; pass "
                'tokens="generators"'
            )
        self.alphabet()

    def alphabet(self) -> np.ndarray:
        """The element that each input token stands for: (num_tokens,)."""
        if self.tokens == "elements":
            return np.arange(self._table.order)
        if self.num_generators is None:
            return self._table.generators
        return drawn_generators(self.group, self.num_generators, self.generator_seed)

    @property
    def num_tokens(self) -> int:
        return len(self.alphabet())

    @property
    def output_size(self) -> int:
        return self._table.order

    def token_name(self, token: int) -> str:
        return self._table.element_names[self.alphabet()[token]]

    def answer_name(self, answer: int) -> str:
        return self._table.element_names[answer]

    def track(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        product = self._table.product
        inputs = random.integers(self.num_tokens, size=(batch, length))
        elements = self.alphabet()[inputs]
        # Products of neighbours, then of neighbouring pairs, and so on: log2(length) steps of whole arrays.
        answers = elements
        reach = 1
        while reach < length:
            longer = answers.copy()
            longer[:, reach:] = product[answers[:, reach:], answers[:, :-reach]]
            answers, reach = longer, 2 * reach
        return inputs, answers

    @property
    def _table(self) -> Group:
        return group(self.group)
