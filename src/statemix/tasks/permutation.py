"""State tracking in a finite group: read elements one by one, name their product so far."""

from __future__ import annotations

import difflib
import functools
import itertools
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from .task import Task

LARGEST_ORDER = 1000
NAMED_GROUPS = ("S2", "S3", "S4", "S5", "A4", "A5", "Z2", "Z3", "Z5", "Z60")


class Group(NamedTuple):
    """A finite group whose elements are numbers; 0 is the identity.

    product: (order, order), ``product[a, b]`` is a b: first b, then a where elements are permutations.
    generators: elements that generate it, the identity first.
    """

    name: str
    product: np.ndarray
    generators: np.ndarray

    @property
    def order(self) -> int:
        return len(self.product)


@functools.cache
def group(name: str) -> Group:
    """The symmetric group Sn, the alternating group An or the cyclic group Zn, by name.

    Permutations are numbered in lexicographic order. Generators: the swap of the first two and the
    cycle of all (Sn), the 3-cycles (0 1 k) (An), 1 (Zn); and the identity.

    Raises:
        ValueError: no such group, or more than 1000 elements.

    Example:
        >>> group("S3").order, group("A5").order, group("Z7").order
        (6, 60, 7)
    """
    match = re.fullmatch(r"([SAZ])([1-9]\d*)", name)
    size = int(match[2]) if match else 0
    if match is None or (match[1] == "S" and size < 2) or (match[1] == "A" and size < 3) or size < 2:
        near = difflib.get_close_matches(name, NAMED_GROUPS, n=3, cutoff=0.3) or NAMED_GROUPS
        raise ValueError(f"no group {name!r}; nearest: {', '.join(near)}; Sn, An (n >= 3) and Zn are known")
    if match[1] == "Z":
        _refuse_large(name, size)
        numbers = np.arange(size)
        return Group(name, (numbers[:, None] + numbers) % size, np.array([0, 1]))
    _refuse_large(name, functools.reduce(int.__mul__, range(2, size + 1), 1) // (2 if match[1] == "A" else 1))
    elements = [p for p in itertools.permutations(range(size)) if match[1] == "S" or _is_even(p)]
    number = {p: i for i, p in enumerate(elements)}
    moves = np.array(elements)
    # (a b)(x) = a(b(x)) for every pair, then each row of images back to its number.
    images = moves[:, moves]
    weights = size ** np.arange(size)[::-1]
    codes = moves @ weights
    product = np.argsort(codes)[np.searchsorted(np.sort(codes), images @ weights)]
    identity = tuple(range(size))
    if match[1] == "S":
        swap, cycle = (1, 0, *identity[2:]), (*identity[1:], 0)
        chosen = [identity, swap, cycle]
    else:
        chosen = [identity, *(_three_cycle(size, k) for k in range(2, size))]
    return Group(name, product, np.array(list(dict.fromkeys(number[p] for p in chosen))))


@dataclass(frozen=True, kw_only=True)
class Permutation(Task):
    """Elements of a group come in one by one; asked is their product so far, the newest on the left.

    Input tokens number the group's elements, or its generators. Answers number the elements.

    Raises:
        ValueError: no such group.

    Example:
        >>> inputs, targets = Permutation(group="Z3", length=4).sample(2)
        >>> bool((inputs.cumsum(1) % 3 == targets).all())
        True

    Source: Merrill et al. 2024, arXiv 2404.08819; Liu et al. 2023, arXiv 2210.10749.
    """

    group: str = "S3"
    """Sn, An or Zn: S3, S5, A5, Z7."""

    tokens: Literal["elements", "generators"] = "elements"
    """What comes in: every element, or the generators and the identity only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        group(self.group)

    @property
    def vocab_size(self) -> int:
        table = group(self.group)
        return table.order if self.tokens == "elements" else len(table.generators)

    @property
    def output_size(self) -> int:
        return group(self.group).order

    def generate(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        table = group(self.group)
        inputs = random.integers(self.vocab_size, size=(batch, length))
        elements = inputs if self.tokens == "elements" else table.generators[inputs]
        products = np.empty_like(elements)
        state = np.zeros(batch, dtype=elements.dtype)
        for t in range(length):
            state = table.product[elements[:, t], state]
            products[:, t] = state
        return inputs, products


def _refuse_large(name: str, order: int) -> None:
    if order > LARGEST_ORDER:
        raise ValueError(f"group {name} has {order} elements; the largest allowed has {LARGEST_ORDER}")


def _is_even(permutation: tuple[int, ...]) -> bool:
    swaps = sum(a > b for a, b in itertools.combinations(permutation, 2))
    return swaps % 2 == 0


def _three_cycle(size: int, k: int) -> tuple[int, ...]:
    moved = list(range(size))
    moved[0], moved[1], moved[k] = 1, k, 0
    return tuple(moved)
