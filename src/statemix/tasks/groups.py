"""Finite groups as tables: what permutation tasks compose."""

from __future__ import annotations

import functools
import itertools
import math
import re
from typing import NamedTuple

import numpy as np

from statemix.names import unknown_name

from .streams import fixed_stream

LARGEST_ORDER = 1000
MOST_DRAWS = 1000
NAMED_GROUPS = ("S2", "S3", "S4", "S5", "A4", "A5", "Z2", "Z3", "Z5", "Z60")


class Group(NamedTuple):
    """A finite group whose elements are numbers; 0 is the identity.

    product: (order, order), ``product[a, b]`` is a b: first b, then a where elements are permutations.
    generators: elements that generate it, the identity first.
    element_names: images of 0, 1, ... for a permutation, the number itself in Zn.
    """

    name: str
    product: np.ndarray
    generators: np.ndarray
    element_names: tuple[str, ...]

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

    Examples:
        >>> group("S3").order, group("A5").order, group("Z7").order
        (6, 60, 7)
    """
    match = re.fullmatch(r"([SAZ])([1-9]\d*)", name)
    size = int(match[2]) if match else 0
    if match is None or (match[1] == "S" and size < 2) or (match[1] == "A" and size < 3) or size < 2:
        raise unknown_name("group", name, NAMED_GROUPS, all_of_them="Sn, An (n >= 3) and Zn are known")
    if match[1] == "Z":
        _refuse_large(name, size)
        numbers = np.arange(size)
        names = tuple(map(str, range(size)))
        return Group(name, (numbers[:, None] + numbers) % size, np.array([0, 1]), names)
    counted = min(size, 20)
    order = math.factorial(counted) // (2 if match[1] == "A" else 1)
    _refuse_large(name, order, "more than " if counted < size else "")
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
    generators = np.array(list(dict.fromkeys(number[p] for p in chosen)))
    return Group(name, product, generators, tuple("".join(map(str, p)) for p in elements))


@functools.lru_cache(maxsize=256)
def drawn_generators(name: str, count: int, seed: int) -> np.ndarray:
    """Different elements, none the identity, drawn until they generate the group: (count,), in rising order.

    Raises:
        ValueError: more than the group has, or too few to generate it.

    Examples:
        >>> drawn_generators("A5", 2, seed=0)
        array([ 7, 29])
    """
    table = group(name)
    if not 1 <= count < table.order:
        raise ValueError(
            f"group {name}: the number of generators must lie between 1 and {table.order - 1}, the elements "
            f"besides the identity; got {count}"
        )
    random = fixed_stream(seed)
    for _ in range(MOST_DRAWS):
        drawn = 1 + np.sort(random.choice(table.order - 1, size=count, replace=False))
        if generates(table, drawn):
            drawn.flags.writeable = False
            return drawn
    raise ValueError(f"no {count} elements of {name} were found that generate it; take more")


def generates(table: Group, elements: np.ndarray) -> bool:
    """Whether every element of the group is a product of these.

    Examples:
        >>> generates(group("Z6"), np.array([2])), generates(group("Z6"), np.array([2, 3]))
        (False, True)
    """
    reached = np.zeros(table.order, dtype=bool)
    newest = np.array([0])
    while len(newest):
        reached[newest] = True
        products = np.zeros(table.order, dtype=bool)
        products[table.product[np.ix_(elements, newest)]] = True
        newest = np.flatnonzero(products & ~reached)
    return bool(reached.all())


def _refuse_large(name: str, order: int, above: str = "") -> None:
    if order > LARGEST_ORDER:
        raise ValueError(f"group {name} has {above}{order} elements; the largest allowed has {LARGEST_ORDER}")


def _is_even(permutation: tuple[int, ...]) -> bool:
    swaps = sum(a > b for a, b in itertools.combinations(permutation, 2))
    return swaps % 2 == 0


def _three_cycle(size: int, k: int) -> tuple[int, ...]:
    moved = list(range(size))
    moved[0], moved[1], moved[k] = 1, k, 0
    return tuple(moved)
