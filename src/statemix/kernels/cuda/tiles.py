"""The tiles that each relay in half precision was measured to be fastest with, on an H100 and on an H200.

Sizes are (steps of a chunk, warps, stages of shared memory), forward and backward, by family and by block
size or order. What a thread block has under way is steps x warps x stages rows of each tensor: 40 to 60 KB
are best for most kernels on a full device, the lower end on an H100, and more where fewer thread blocks run.
More warps with shorter chunks hide more of the waiting than fewer with longer ones. Which of the tables a
problem gets is decided in ``rule.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Sizes = tuple[int, ...]
Table = dict[str, dict[int, tuple[Sizes, Sizes]]]


@dataclass(frozen=True)
class Tiles:
    """A kernel's sizes, and those that differ where memory is faster (H200).

    Those of a part of a device were measured where not all multiprocessors had a thread block.
    """

    usual: Table
    fast: Table = field(default_factory=dict)
    of_a_part: bool = False

    def sizes(self, family: str, m: int, direction: str, *, fast_memory: bool) -> Sizes | None:
        """The sizes of a kernel; None where the table has none for this block size or order."""
        found = self.usual[family].get(m)
        if fast_memory and family in self.fast:
            found = self.fast[family].get(m, found)
        return None if found is None else found[direction == "backward"]


def each(orders: range, *sizes: Sizes) -> dict[int, tuple[Sizes, Sizes]]:
    """The same sizes, forward and backward, for all of these orders."""
    forward, backward = sizes
    return dict.fromkeys(orders, (forward, backward))


# Half precision, rows of 128 bytes (two blocks a lane), one thread block for each tile.
WIDE = Tiles(
    usual={
        "bdlru": {
            1: ((12, 10, 1), (6, 12, 1)),
            2: ((4, 12, 1), (3, 10, 1)),
            3: ((4, 8, 1), (1, 14, 1)),
            4: ((2, 10, 1), (1, 10, 1)),
            5: ((1, 12, 1), (1, 8, 1)),
            6: ((1, 10, 1), (1, 12, 2)),
            **each(range(7, 9), (1, 8, 1), (1, 8, 2)),
        },
        "hlru": {
            1: ((12, 12, 1), (6, 12, 1)),
            2: ((8, 12, 1), (6, 10, 1)),
            3: ((6, 14, 1), (4, 12, 1)),
            4: ((3, 12, 2), (3, 14, 1)),
            5: ((4, 8, 2), (3, 12, 1)),
            6: ((6, 8, 1), (3, 12, 1)),
            7: ((3, 8, 2), (3, 12, 1)),
            8: ((2, 10, 2), (2, 14, 1)),
            **each(range(9, 13), (2, 8, 2), (2, 12, 1)),
            **each(range(13, 17), (4, 8, 1), (1, 10, 2)),
            **each(range(17, 21), (2, 10, 1), (1, 10, 2)),
            **each(range(21, 25), (2, 8, 1), (1, 8, 2)),
            **each(range(25, 33), (1, 8, 2), (1, 8, 2)),
        },
    },
    fast={
        "bdlru": {
            1: ((6, 12, 2), (6, 15, 1)),
            2: ((3, 10, 2), (3, 14, 1)),
            3: ((2, 10, 2), (1, 10, 2)),
            4: ((1, 12, 2), (1, 14, 1)),
            5: ((1, 10, 2), (1, 12, 1)),
            6: ((1, 8, 2), (1, 10, 1)),
            7: ((1, 12, 1), (1, 8, 2)),
            8: ((1, 8, 2), (1, 8, 2)),
        },
        "hlru": {
            1: ((6, 12, 2), (6, 15, 1)),
            2: ((6, 10, 2), (6, 14, 1)),
            3: ((4, 12, 2), (4, 15, 1)),
            4: ((8, 8, 2), (3, 10, 2)),
            5: ((4, 8, 2), (3, 10, 2)),
            6: ((4, 10, 2), (4, 14, 1)),
            **each(range(7, 9), (4, 8, 2), (3, 8, 2)),
            **each(range(9, 11), (3, 8, 2), (3, 8, 2)),
            **each(range(11, 13), (3, 8, 2), (2, 8, 2)),
            **each(range(13, 17), (4, 8, 2), (4, 8, 2)),
            **each(range(17, 21), (2, 10, 1), (2, 8, 2)),
            **each(range(21, 25), (2, 8, 1), (1, 12, 1)),
            **each(range(25, 33), (1, 8, 1), (1, 8, 2)),
        },
    },
)

# Half precision, rows of 128 bytes, where several thread blocks work on a tile.
WIDE_CLUSTERED = Tiles(
    usual={
        "bdlru": {
            1: ((16, 8, 2), (4, 8, 2)),
            2: ((6, 8, 2), (2, 15, 1)),
            3: ((2, 8, 2), (1, 8, 2)),
            4: ((2, 8, 2), (1, 12, 1)),
            5: ((1, 12, 1), (1, 12, 1)),
            6: ((1, 12, 2), (1, 12, 1)),
            7: ((1, 8, 2), (1, 8, 1)),
            8: ((1, 8, 1), (1, 8, 1)),
        },
        "hlru": {
            1: ((9, 12, 1), (4, 8, 2)),
            2: ((12, 8, 2), (4, 15, 1)),
            3: ((10, 8, 2), (3, 8, 2)),
            4: ((8, 8, 2), (3, 15, 1)),
            5: ((7, 8, 2), (2, 10, 2)),
            6: ((6, 8, 2), (2, 8, 2)),
            7: ((5, 8, 2), (2, 8, 2)),
            8: ((5, 8, 2), (2, 8, 2)),
            **each(range(9, 13), (3, 10, 2), (2, 15, 1)),
            **each(range(13, 17), (3, 8, 2), (2, 12, 1)),
            **each(range(17, 25), (2, 8, 2), (2, 8, 2)),
            **each(range(25, 33), (1, 8, 1), (1, 8, 1)),
        },
    },
    fast={
        "bdlru": {
            1: ((16, 8, 2), (9, 12, 1)),
            2: ((6, 8, 2), (3, 15, 1)),
            3: ((4, 8, 2), (2, 15, 1)),
            4: ((2, 12, 2), (2, 12, 1)),
            5: ((1, 12, 1), (1, 12, 1)),
            6: ((1, 12, 1), (1, 12, 1)),
            7: ((1, 8, 2), (1, 8, 1)),
            8: ((1, 8, 1), (1, 8, 1)),
        },
        "hlru": {
            1: ((16, 8, 2), (9, 12, 1)),
            2: ((16, 8, 2), (6, 8, 2)),
            3: ((10, 8, 2), (4, 10, 2)),
            4: ((8, 8, 2), (4, 8, 2)),
            5: ((7, 8, 2), (4, 8, 2)),
            6: ((6, 8, 2), (3, 10, 2)),
            7: ((6, 8, 2), (3, 8, 2)),
            8: ((6, 8, 2), (3, 8, 2)),
            **each(range(9, 13), (3, 10, 2), (3, 8, 2)),
            **each(range(13, 17), (3, 8, 2), (2, 12, 2)),
            **each(range(17, 25), (2, 12, 1), (2, 8, 2)),
            **each(range(25, 33), (1, 8, 1), (1, 8, 1)),
        },
    },
)

# Half precision, rows of 128 bytes, one thread block for each tile, where a gate takes two special functions
# (sigmoid, tanh), whose units are an eighth as fast as others: two stages, since a turn is longer, and mostly
# as many warps on each of the four schedulers.
WIDE_FUNCTIONS = Tiles(
    usual={
        "bdlru": {
            1: ((6, 12, 2), (6, 15, 1)),
            2: ((3, 10, 2), (3, 14, 1)),
            3: ((1, 14, 2), (1, 10, 2)),
            4: ((1, 10, 2), (1, 8, 2)),
            5: ((1, 10, 2), (1, 8, 2)),
            6: ((1, 12, 1), (1, 8, 2)),
            7: ((1, 12, 2), (1, 8, 2)),
            8: ((1, 8, 1), (1, 8, 1)),
        },
        "hlru": {
            1: ((6, 12, 2), (6, 15, 1)),
            2: ((8, 8, 2), (6, 15, 1)),
            3: ((6, 8, 2), (4, 10, 2)),
            4: ((5, 8, 2), (4, 8, 2)),
            5: ((3, 12, 2), (2, 12, 2)),
            6: ((4, 8, 2), (4, 10, 2)),
            **each(range(7, 9), (2, 12, 2), (2, 12, 2)),
        },
    },
    fast={
        "bdlru": {
            1: ((8, 12, 2), (6, 12, 2)),
            2: ((3, 12, 2), (3, 12, 2)),
            3: ((2, 12, 2), (2, 12, 2)),
            4: ((1, 12, 2), (1, 12, 2)),
            5: ((1, 12, 2), (1, 12, 2)),
            **each(range(6, 8), (1, 12, 2), (1, 8, 2)),
            8: ((1, 8, 2), (1, 8, 2)),
        },
        "hlru": {
            1: ((8, 12, 2), (6, 12, 2)),
            **each(range(2, 4), (6, 12, 2), (6, 12, 2)),
            4: ((8, 12, 2), (5, 12, 2)),
            5: ((4, 12, 2), (4, 12, 2)),
            6: ((8, 12, 2), (4, 12, 2)),
            **each(range(7, 9), (6, 12, 2), (3, 12, 2)),
        },
    },
)

# Sizes of relays in rows of 64 bytes whose blocks have two lanes, whatever their clusters.
TWO_LANES = {
    8: ((3, 8, 2), (2, 8, 2)),
    **each(range(9, 11), (2, 12, 1), (2, 8, 1)),
    **each(range(11, 13), (1, 12, 1), (1, 8, 1)),
    **each(range(13, 17), (1, 8, 1), (1, 8, 1)),
}
TWO_LANES_FAST = {
    **TWO_LANES,
    **each(range(9, 11), (1, 8, 1), (1, 12, 1)),
    **each(range(11, 13), (1, 12, 2), (1, 8, 1)),
}

# Half precision, rows of 64 bytes (one block a lane, or half of one from block size 8 on), one thread block
# for each tile.
NARROW = Tiles(
    usual={
        "bdlru": {
            1: ((12, 10, 2), (5, 10, 2)),
            2: ((6, 8, 2), (2, 12, 2)),
            3: ((3, 8, 2), (1, 12, 2)),
            4: ((2, 8, 2), (1, 8, 2)),
            5: ((1, 10, 2), (1, 15, 1)),
            6: ((1, 8, 2), (1, 10, 1)),
            7: ((1, 12, 1), (1, 10, 1)),
            **TWO_LANES,
        },
        "hlru": {
            1: ((16, 15, 1), (8, 15, 1)),
            2: ((12, 8, 2), (4, 12, 2)),
            3: ((10, 8, 2), (5, 8, 2)),
            4: ((8, 8, 2), (3, 12, 2)),
            5: ((7, 8, 2), (4, 8, 2)),
            6: ((6, 8, 2), (4, 15, 1)),
            **each(range(7, 8), (5, 8, 2), (3, 8, 2)),
            8: ((3, 12, 2), (3, 8, 2)),
            **each(range(9, 12), (4, 8, 2), (3, 8, 2)),
            12: ((3, 8, 2), (3, 15, 1)),
            **each(range(13, 16), (3, 8, 2), (2, 8, 2)),
            16: ((3, 8, 2), (2, 8, 2)),
            **each(range(17, 21), (3, 8, 2), (2, 8, 2)),
            **each(range(21, 24), (2, 8, 2), (2, 8, 2)),
            24: ((2, 8, 2), (3, 12, 1)),
            **each(range(25, 33), (2, 8, 2), (2, 8, 2)),
        },
    },
    fast={
        "bdlru": {
            1: ((18, 8, 2), (9, 8, 2)),
            2: ((6, 8, 2), (2, 15, 2)),
            3: ((3, 10, 2), (2, 8, 2)),
            4: ((2, 10, 2), (1, 12, 2)),
            5: ((1, 12, 2), (1, 8, 2)),
            6: ((1, 12, 2), (1, 15, 1)),
            7: ((1, 8, 2), (1, 12, 1)),
            **TWO_LANES_FAST,
        },
        "hlru": {
            1: ((16, 8, 2), (6, 12, 2)),
            2: ((8, 12, 2), (5, 12, 2)),
            3: ((10, 8, 2), (7, 8, 2)),
            4: ((10, 8, 2), (6, 8, 2)),
            5: ((10, 8, 2), (5, 8, 2)),
            6: ((9, 8, 2), (5, 8, 2)),
            **each(range(7, 8), (7, 8, 2), (4, 8, 2)),
            8: ((7, 8, 2), (4, 8, 2)),
            **each(range(9, 12), (6, 8, 2), (3, 8, 2)),
            12: ((5, 8, 2), (2, 15, 2)),
            **each(range(13, 16), (4, 8, 2), (3, 8, 2)),
            16: ((4, 8, 2), (2, 12, 2)),
            **each(range(17, 24), (4, 8, 2), (3, 8, 2)),
            24: ((4, 12, 1), (3, 8, 2)),
            **each(range(25, 33), (3, 8, 2), (2, 8, 2)),
        },
    },
)

# The same where several thread blocks work on a tile. Forward the chain of states is what limits, and a warp
# that has a scheduler to itself runs it fastest. Orders from 9 on have as much under way as order 8.
NARROW_CLUSTERED = Tiles(
    usual={
        "bdlru": {
            1: ((32, 5, 2), (16, 8, 2)),
            2: ((20, 4, 2), (6, 12, 1)),
            3: ((9, 4, 2), (3, 12, 1)),
            4: ((5, 4, 2), (3, 8, 1)),
            5: ((4, 4, 2), (2, 12, 1)),
            6: ((2, 8, 1), (1, 12, 1)),
            7: ((2, 8, 1), (2, 8, 1)),
            **TWO_LANES,
        },
        "hlru": {
            1: ((32, 4, 3), (16, 12, 1)),
            2: ((32, 4, 2), (20, 12, 1)),
            3: ((32, 4, 2), (16, 8, 2)),
            4: ((32, 4, 2), (12, 12, 1)),
            5: ((20, 4, 2), (8, 8, 2)),
            6: ((17, 4, 2), (4, 10, 2)),
            7: ((15, 4, 2), (4, 10, 2)),
            8: ((13, 4, 2), (6, 12, 1)),
            **each(range(9, 13), (9, 4, 2), (4, 8, 2)),
            **each(range(13, 17), (7, 4, 2), (3, 8, 2)),
            **each(range(17, 25), (5, 4, 2), (2, 8, 2)),
            **each(range(25, 33), (4, 4, 2), (2, 8, 2)),
        },
    },
    fast={
        "bdlru": {
            1: ((32, 4, 3), (16, 8, 2)),
            2: ((20, 4, 2), (6, 15, 1)),
            3: ((9, 4, 2), (3, 15, 1)),
            4: ((5, 4, 2), (2, 15, 1)),
            5: ((4, 4, 2), (1, 15, 1)),
            6: ((2, 8, 2), (1, 15, 1)),
            7: ((2, 12, 2), (1, 12, 2)),
            **TWO_LANES_FAST,
        },
        "hlru": {
            1: ((32, 4, 3), (16, 8, 2)),
            2: ((32, 4, 2), (10, 8, 2)),
            3: ((30, 4, 2), (8, 8, 2)),
            4: ((24, 4, 2), (9, 10, 2)),
            5: ((20, 4, 2), (8, 8, 2)),
            6: ((17, 4, 2), (6, 8, 2)),
            7: ((15, 4, 2), (6, 8, 2)),
            8: ((13, 4, 2), (6, 8, 2)),
            **each(range(9, 13), (9, 4, 2), (4, 8, 2)),
            **each(range(13, 17), (7, 4, 2), (4, 8, 2)),
            **each(range(17, 25), (5, 4, 2), (3, 8, 2)),
            **each(range(25, 33), (4, 4, 2), (2, 8, 2)),
        },
    },
)

#: Bytes under way in a thread block for which relays of whole lines are fastest where rows of the tensors do
#: not begin at lines of 128 bytes: L2 must hold what two tiles share until both have had it. By what rows
#: begin at: sectors of 32 bytes, pieces of 16, or single elements; on an H100 and on an H200.
UNDER_WAY = {
    "forward": {"sectors": (40_000, 52_000), "pieces": (37_000, 47_000), "elements": (28_000, 38_000)},
    "backward": {"sectors": (36_000, 50_000), "pieces": (30_000, 42_000), "elements": (24_000, 32_000)},
}

#: The same in rows of 256 bytes.
UNDER_WAY_BROAD = {
    "forward": {"sectors": (48_000, 56_000), "pieces": (48_000, 56_000), "elements": (49_500, 50_000)},
    "backward": {"sectors": (42_000, 54_000), "pieces": (42_000, 54_000), "elements": (37_000, 46_000)},
}

#: The same where neighbouring tiles keep pace.
UNDER_WAY_PACED = 66_000

#: Steps of a chunk of relays in rows of 64 bytes that keep pace, backward.
NARROW_PACED = {
    "bdlru": {1: 16, 2: 8, 3: 4, 4: 4, 5: 2, 6: 2, 7: 1},
    "hlru": {
        **dict.fromkeys(range(1, 5), 16),
        **dict.fromkeys(range(5, 9), 8),
        **dict.fromkeys(range(9, 17), 4),
        **dict.fromkeys(range(17, 33), 2),
    },
}
