"""The tiles that each kernel with composed maps was measured to be fastest with, as in ``tiles.py``.

Where maps are conducted, the fourth number is groups of warps.
"""

from __future__ import annotations

from statemix.kernels.cuda.tiles import Tiles

# Composed maps that go round a ring of teams of two warps, in rows of 64 bytes (half precision).
RING = Tiles(
    usual={
        "bdlru": {
            2: ((11, 10, 1), (6, 12, 1)),
            3: ((4, 12, 1), (4, 10, 1)),
            4: ((4, 10, 1), (2, 12, 1)),
        },
        "hlru": {
            1: ((17, 8, 2), (20, 12, 1)),
            2: ((17, 8, 2), (16, 12, 1)),
            3: ((8, 12, 2), (8, 14, 2)),
            4: ((14, 8, 2), (8, 8, 2)),
            5: ((12, 8, 2), (7, 8, 2)),
            6: ((8, 8, 2), (4, 8, 2)),
            7: ((10, 8, 2), (5, 8, 2)),
            8: ((8, 8, 2), (4, 8, 2)),
        },
    },
    fast={
        "bdlru": {
            2: ((8, 8, 2), (8, 12, 1)),
            3: ((8, 8, 2), (5, 14, 1)),
            4: ((3, 10, 2), (2, 12, 2)),
        },
        "hlru": {
            1: ((22, 8, 2), (11, 8, 2)),
            2: ((16, 12, 2), (11, 8, 2)),
            3: ((14, 8, 2), (7, 10, 2)),
            4: ((10, 12, 2), (8, 8, 2)),
            5: ((10, 12, 2), (8, 8, 2)),
            6: ((8, 12, 2), (8, 8, 2)),
            7: ((10, 8, 2), (8, 8, 2)),
            8: ((8, 8, 2), (6, 8, 2)),
        },
    },
)

# The same with longer chunks, of which a ring of many thread blocks has fewer links.
RING_LONG = Tiles(
    of_a_part=True,
    usual={
        "bdlru": {
            2: ((16, 8, 1), (6, 16, 1)),
            3: ((6, 12, 1), (5, 12, 1)),
            4: ((5, 12, 1), (3, 12, 1)),
        },
        "hlru": {
            1: ((24, 12, 1), (20, 12, 1)),
            2: ((17, 8, 2), (16, 12, 1)),
            3: ((12, 16, 2), (12, 12, 1)),
            4: ((20, 8, 2), (8, 8, 2)),
            5: ((14, 8, 2), (8, 8, 2)),
            6: ((12, 8, 2), (6, 8, 2)),
            7: ((12, 8, 2), (6, 8, 2)),
            8: ((10, 8, 2), (5, 8, 2)),
        },
    },
    fast={
        "bdlru": {
            2: ((12, 16, 1), (8, 8, 2)),
            3: ((8, 8, 2), (5, 8, 2)),
            4: ((4, 12, 2), (3, 8, 2)),
        },
        "hlru": {
            1: ((32, 12, 1), (16, 8, 2)),
            2: ((16, 12, 2), (16, 8, 2)),
            3: ((16, 12, 2), (10, 12, 2)),
            4: ((14, 12, 2), (8, 12, 2)),
            5: ((12, 12, 2), (10, 8, 2)),
            6: ((10, 12, 2), (8, 8, 2)),
            7: ((12, 8, 2), (8, 8, 2)),
            8: ((10, 8, 2), (6, 8, 2)),
        },
    },
)

# Rings in rows of 32 bytes, each warp with two chunks.
RING_HALVES = Tiles(
    {
        "bdlru": {
            2: ((14, 12, 1), (10, 8, 2)),
            3: ((8, 8, 2), (6, 8, 2)),
            4: ((5, 8, 2), (3, 8, 2)),
        },
        "hlru": {
            1: ((32, 12, 1), (20, 8, 2)),
            2: ((32, 8, 1), (16, 8, 2)),
            3: ((24, 8, 1), (14, 8, 2)),
            4: ((24, 8, 1), (12, 8, 2)),
            5: ((16, 8, 1), (8, 10, 2)),
            6: ((16, 8, 1), (8, 8, 2)),
            7: ((14, 8, 1), (8, 8, 2)),
            8: ((9, 8, 2), (6, 8, 2)),
        },
    }
)

# Composed maps that are conducted, in rows of 64 bytes; the fourth number is groups of warps. While a group
# waits for the conductor the others compute, and four or five of them have enough to do with as many warps as
# registers allow.
CONDUCTED = Tiles(
    usual={
        "bdlru": {
            2: ((14, 15, 1, 5), (8, 15, 1, 5)),
            3: ((6, 16, 1, 4), (5, 12, 1, 6)),
            4: ((5, 12, 1, 4), (3, 12, 2, 4)),
        },
        "hlru": {
            1: ((32, 16, 1, 4), (20, 16, 1, 4)),
            2: ((24, 16, 2, 4), (16, 16, 2, 4)),
            3: ((18, 16, 2, 4), (13, 16, 1, 4)),
            4: ((20, 12, 2, 4), (14, 12, 2, 6)),
            5: ((14, 12, 2, 4), (8, 12, 2, 4)),
        },
    },
    fast={
        "bdlru": {
            2: ((14, 15, 1, 5), (8, 15, 2, 5)),
            3: ((6, 16, 1, 4), (4, 16, 2, 4)),
        },
    },
)

# The same in rows of 32 bytes, each warp with two chunks; and in rows of 64 where a gate takes two special
# functions, which takes registers, and in float32.
CONDUCTED_FEWER_WARPS = Tiles(
    {
        "bdlru": {
            2: ((14, 12, 1, 4), (10, 12, 1, 4)),
            3: ((8, 12, 1, 4), (5, 12, 2, 4)),
            4: ((5, 12, 1, 4), (3, 12, 2, 4)),
        },
        "hlru": {
            1: ((32, 16, 1, 4), (20, 12, 2, 6)),
            2: ((24, 12, 2, 4), (16, 12, 2, 6)),
            3: ((20, 12, 2, 4), (12, 12, 2, 4)),
            4: ((20, 12, 2, 4), (11, 12, 2, 4)),
            5: ((14, 12, 2, 4), (8, 12, 2, 4)),
        },
    }
)
