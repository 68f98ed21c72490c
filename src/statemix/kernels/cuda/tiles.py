"""The tiles that each kernel was measured to be fastest with, on an H100 and on an H200.

Sizes are (steps of a chunk, warps, stages of shared memory), forward and backward, by family and by block
size or order. Which of them a problem gets is decided in ``configurations.py``.
"""

from __future__ import annotations

# Wide: rows of 128 bytes (two blocks a lane in 16 bits, one in 32). Narrow: one block a lane in 16 bits.
WIDE = {
    "bdlru": {
        1: ((16, 8, 1), (12, 8, 2)),
        2: ((8, 8, 2), (6, 8, 2)),
        3: ((4, 8, 1), (3, 8, 2)),
        4: ((2, 8, 2), (2, 8, 2)),
        5: ((2, 8, 1), (2, 8, 1)),
        6: ((1, 8, 1), (1, 8, 1)),
        7: ((1, 8, 1), (1, 8, 1)),
        8: ((1, 8, 1), (1, 8, 1)),
    },
    "hlru": {
        1: ((16, 8, 1), (16, 8, 1)),
        2: ((16, 8, 2), (12, 8, 2)),
        3: ((8, 8, 2), (6, 8, 2)),
        4: ((8, 8, 2), (6, 8, 2)),
        **dict.fromkeys((5, 6), ((8, 8, 1), (8, 8, 1))),
        **dict.fromkeys((7, 8), ((6, 8, 2), (6, 8, 2))),
        **dict.fromkeys(range(9, 17), ((4, 8, 1), (4, 8, 1))),
        **dict.fromkeys(range(17, 25), ((2, 8, 1), (2, 8, 1))),
        **dict.fromkeys(range(25, 33), ((1, 8, 1), (1, 8, 1))),
    },
}

# Where rows of 128 bytes do not begin at lines: less is under way, since L2 must hold what two tiles share
# until both have had it. Other sizes have the wide tile and one stage.
BETWEEN_LINES = {
    "bdlru": {
        1: ((12, 8, 1), (16, 8, 1)),
        2: ((6, 8, 1), (8, 8, 1)),
        3: ((3, 8, 1), (3, 8, 1)),
        4: ((1, 12, 1), (2, 8, 1)),
    },
    "hlru": {
        **dict.fromkeys((1, 2), ((12, 8, 1), (16, 8, 1))),
        3: ((8, 8, 1), (12, 8, 1)),
        4: ((8, 8, 1), (10, 8, 1)),
        8: ((4, 8, 1), (6, 8, 1)),
    },
}

# Where memory is faster (H200) forward has longer chunks.
BETWEEN_LINES_FAST_MEMORY = {
    "bdlru": {
        1: ((16, 8, 1), (16, 8, 1)),
        2: ((8, 8, 1), (8, 8, 1)),
        3: ((4, 8, 1), (3, 8, 1)),
        4: ((2, 8, 1), (2, 8, 1)),
    },
    "hlru": {
        **dict.fromkeys((1, 2), ((16, 8, 1), (16, 8, 1))),
        3: ((8, 8, 1), (12, 8, 1)),
        4: ((8, 8, 1), (12, 8, 1)),
        8: ((8, 8, 1), (6, 8, 1)),
    },
}

NARROW = {
    "bdlru": {
        1: ((16, 8, 1), (16, 8, 1)),
        2: ((8, 8, 1), (8, 12, 1)),
        3: ((4, 8, 1), (4, 8, 1)),
        4: ((4, 8, 1), (4, 8, 1)),
        5: ((2, 8, 1), (2, 8, 1)),
        6: ((2, 8, 1), (2, 8, 1)),
        7: ((2, 8, 1), (1, 8, 1)),
        8: ((2, 8, 1), (4, 8, 1)),  # two lanes a block
        **dict.fromkeys(range(9, 17), ((1, 8, 1), (1, 8, 1))),  # two lanes a block
    },
    "hlru": {
        1: ((16, 8, 1), (16, 8, 1)),
        **dict.fromkeys((2, 3), ((16, 8, 1), (16, 8, 1))),
        4: ((16, 8, 2), (16, 12, 1)),
        **dict.fromkeys(range(5, 9), ((8, 8, 1), (8, 8, 1))),
        **dict.fromkeys(range(9, 17), ((4, 8, 1), (4, 8, 1))),
        **dict.fromkeys(range(17, 33), ((4, 8, 1), (2, 8, 1))),
    },
}

# Where half precision wants other sizes than float32 in the narrow table: the fastest on average, on an H100
# and on an H200. A second stage is mostly worth more than warps, above all where memory is fast.
NARROW_HALF = {
    "bdlru": {
        1: ((24, 8, 2), (12, 8, 2)),
        2: ((8, 8, 1), (8, 12, 1)),
        3: ((6, 8, 2), (6, 8, 2)),
        4: ((6, 8, 1), (3, 12, 1)),
        5: ((4, 8, 1), (2, 12, 2)),
        8: ((2, 8, 2), (2, 8, 2)),
    },
    "hlru": {
        1: ((32, 8, 2), (16, 8, 2)),
        2: ((24, 8, 2), (20, 8, 2)),
        3: ((16, 8, 2), (16, 8, 2)),
        4: ((20, 8, 2), (12, 8, 2)),
        5: ((16, 8, 2), (8, 8, 2)),
        6: ((16, 8, 2), (8, 8, 2)),
        7: ((12, 8, 2), (8, 8, 2)),
        8: ((10, 8, 2), (8, 8, 2)),
    },
}

# Composed maps that go round a ring of teams of two warps, in rows of 64 bytes (half precision). With one
# stage L2 has less to keep for the neighbour who reads the other half of each line.
RING = {
    "bdlru": {
        2: ((16, 8, 1), (6, 16, 1)),
        3: ((6, 12, 1), (5, 12, 1)),
        4: ((5, 12, 1), (3, 12, 1)),
    },
    "hlru": {
        1: ((24, 12, 1), (20, 12, 1)),
        2: ((24, 16, 1), (16, 12, 1)),
        3: ((12, 16, 2), (12, 12, 1)),
        4: ((20, 8, 2), (11, 12, 1)),
        5: ((14, 8, 2), (8, 8, 2)),
        6: ((12, 8, 2), (6, 8, 2)),
        7: ((12, 8, 2), (6, 8, 2)),
        8: ((10, 8, 2), (5, 8, 2)),
    },
}

# Where memory is faster (H200) two stages mostly keep it busier.
RING_FAST_MEMORY = {
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
}

# The same in rows of 32 bytes, each warp with two chunks.
RING_HALVES = {
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

# Composed maps that are conducted; the fourth number is groups of warps.
CONDUCTED = {
    "bdlru": {
        2: ((14, 12, 1, 4), (10, 12, 1, 4)),
        3: ((8, 12, 1, 4), (5, 12, 2, 4)),
        4: ((5, 12, 1, 4), (3, 12, 2, 3)),
    },
    "hlru": {
        1: ((32, 12, 1, 4), (20, 12, 2, 6)),
        2: ((24, 12, 2, 4), (16, 12, 2, 6)),
        3: ((20, 12, 2, 4), (12, 12, 2, 4)),
        4: ((20, 12, 2, 4), (11, 12, 2, 4)),
        5: ((14, 12, 2, 4), (8, 12, 2, 4)),
    },
}
