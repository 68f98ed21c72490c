"""Binary addition: read two numbers, write their sum."""

from __future__ import annotations

from dataclasses import dataclass

from .binary import BinaryTask


@dataclass(frozen=True, kw_only=True)
class BinaryAddition(BinaryTask):
    """Two binary numbers above zero come in, lowest bits first, with + between; asked is their sum.

    The sum is written lowest bit first, without zeros at its high end. The answer 2, ``$``, ends it;
    nothing is asked after it. Where the + stands is uniform. Tokens: 0, 1, +, then ``>``.

    Examples:
        >>> task = BinaryAddition(length=12)
        >>> print(task.render(task.sample(1, seed=4)))
        tokens   0 1 + 0 1 0 > > > > > >
        answers  . . . . . . 0 0 1 $ . .

    Source: Deletang et al. 2023, arXiv 2207.02098, appendix A.
    """

    @property
    def sign(self) -> str:
        return "+"

    def combine(self, first: int, second: int) -> int:
        return first + second
