"""Which kernel runs with which tile, chunk and cluster: a pure function over a small table.

No tuning at run time. ``tiles.py`` holds what was measured, ``costs.py`` what a step should cost; the rule
here fits both to the problem and to the limits of other devices.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from statemix.kernels.cuda.configurations import ELEMENT_BYTES, Configuration, Device
from statemix.kernels.cuda.costs import alignment, fits_registers, step_nanoseconds
from statemix.kernels.cuda.float32_tiles import (
    FLOAT32,
    FLOAT32_CLUSTERED,
    FLOAT32_RING,
    FLOAT32_RING_HALVES,
    FLOAT32_RING_LONG,
)
from statemix.kernels.cuda.map_tiles import CONDUCTED, CONDUCTED_FEWER_WARPS, RING, RING_HALVES, RING_LONG
from statemix.kernels.cuda.tiles import (
    NARROW,
    NARROW_CLUSTERED,
    NARROW_PACED,
    UNDER_WAY,
    UNDER_WAY_BROAD,
    UNDER_WAY_PACED,
    WIDE,
    WIDE_CLUSTERED,
    WIDE_FUNCTIONS,
    Tiles,
)

#: Relays in rows of 256 bytes, of 128 and of 64, with one thread block for each tile and with several: blocks
#: of a lane in half precision, their tiles in half precision and in float32. Broad ones have sizes by what is
#: under way.
RELAYS: dict[str, tuple[int, Tiles, Tiles | None]] = {
    "broad": (4, WIDE, None),
    "broad clustered": (4, WIDE_CLUSTERED, None),
    "wide": (2, WIDE, FLOAT32),
    "wide clustered": (2, WIDE_CLUSTERED, FLOAT32_CLUSTERED),
    "narrow": (1, NARROW, NARROW),
    "narrow clustered": (1, NARROW_CLUSTERED, NARROW_CLUSTERED),
}

#: Kernels that compose maps: chunks that a warp computes at once, tiles in half precision and in float32.
COMPOSED: dict[str, tuple[int, Tiles, Tiles]] = {
    "ring": (1, RING, FLOAT32_RING),
    "ring long": (1, RING_LONG, FLOAT32_RING_LONG),
    "ring halves": (2, RING_HALVES, FLOAT32_RING_HALVES),
    "conducted": (1, CONDUCTED, CONDUCTED_FEWER_WARPS),
    "conducted halves": (2, CONDUCTED_FEWER_WARPS, CONDUCTED_FEWER_WARPS),
}

#: Turns of its warps for which neighbouring tiles are left alone.
PACED_TURNS = 4

#: The part of a device's multiprocessors with a thread block from which on it is full; where searches ended.
FULL, EMPTY = 0.87, 0.5

#: Steps of the longest chunk.
LONGEST = 40

#: The largest blocks and orders of relays in rows of 256 bytes.
LARGEST_BROAD = {"bdlru": 4, "hlru": 8}

#: Normalizations with two special functions a gate.
FUNCTIONS = ("sigmoid", "tanh")


def _tiles(shape: str, dtype: str) -> Tiles | None:
    """The tiles of a kernel in half precision, or in float32; None where it has none."""
    _, half, full = RELAYS[shape] if shape in RELAYS else COMPOSED[shape]
    return half if ELEMENT_BYTES[dtype] == 2 else full


def _candidate(
    family: str, direction: str, m: int, dtype: str, shape: str, device: Device, **rest
) -> Configuration | None:
    """A kernel's configuration before it is fitted to a problem; None where it has none for this size."""
    if shape in RELAYS:
        return _relay(family, direction, m, dtype, shape, device, **rest)
    kind = "hlru" if m == 1 else family  # a block of one is a channel of order one
    chunks, table = COMPOSED[shape][0], _tiles(shape, dtype)
    if table is CONDUCTED and rest["normalization"] in FUNCTIONS:
        table = CONDUCTED_FEWER_WARPS
    sizes = table and table.sizes(kind, m, direction, fast_memory=device.fast_memory)
    if sizes is None:
        return None
    steps, warps, stages, *groups = sizes
    return Configuration(
        kernel=f"composed_{kind}_{direction}",
        block_size=m,
        dtype=dtype,
        blocks_per_lane=1,
        lanes_per_block=1,
        steps=steps,
        warps=warps,
        stages=stages,
        cluster=1,
        groups=sum(groups),
        chunks=chunks,
        streams=direction == "forward" or chunks == 2 or not device.fast_memory,
        **rest,
    )


def _relay(
    family: str, direction: str, m: int, dtype: str, shape: str, device: Device, **rest
) -> Configuration | None:
    half, narrow = ELEMENT_BYTES[dtype] == 2, shape.startswith("narrow")
    lanes = 2 if family == "bdlru" and narrow and m >= 8 else 1
    blocks, table = RELAYS[shape][0], _tiles(shape, dtype)
    if table is None or (narrow and not half and lanes == 1):
        return None  # one block a lane in 32 bits is a row of 128 bytes already
    functions = half and not narrow and rest["normalization"] in FUNCTIONS
    sizes = table.sizes(family, m, direction, fast_memory=device.fast_memory)
    if functions and shape == "wide":
        found = WIDE_FUNCTIONS.sizes(family, m, direction, fast_memory=device.fast_memory)
        sizes = found or sizes
    if sizes is None:
        return None
    steps, warps, stages = sizes
    return Configuration(
        kernel=f"{family}_{direction}",
        block_size=m,
        dtype=dtype,
        blocks_per_lane=blocks if half else 1,
        lanes_per_block=lanes,
        steps=steps,
        warps=warps,
        stages=2 if functions and shape != "wide" else stages,
        cluster=1,
        **rest,
    )


def _between_lines(
    configuration: Configuration, shape: str, steps: int, width: int, device: Device
) -> Configuration | None:
    """A relay where rows lie between lines, so that a tile shares lines with its neighbours.

    L2 must hold those for both, so less is under way. Where one step of eight warps is more than that tiles
    keep pace backward, where most is written, if there is time to drift apart. Clusters and relays in rows
    of 64 bytes do where rows share sectors too. Rows of 256 bytes share half as much, and are for this alone.
    """
    beginning = alignment(configuration, width)
    if shape.startswith("broad"):
        return None if beginning == "lines" else _broad(configuration, beginning, steps, device)
    if configuration.composes or configuration.lanes_per_block > 1 or beginning == "lines":
        return configuration
    backward = "backward" in configuration.kernel
    if shape != "wide" and beginning == "sectors":
        return configuration
    if shape == "wide clustered":
        shared = replace(configuration, stages=1)
        return _paced(shared, steps) if backward else shared
    if shape != "wide":
        if not backward:
            return configuration
        family = "hlru" if configuration.one_row else "bdlru"
        chunk = NARROW_PACED[family][configuration.block_size]
        return _paced(replace(configuration, steps=chunk, warps=8, stages=1), steps)
    functions = configuration.normalization in FUNCTIONS and device.fast_memory
    if functions and (configuration.block_size >= 4 or not backward):
        return configuration  # functions take longer than memory does
    limit = UNDER_WAY["backward" if backward else "forward"][beginning][device.fast_memory]
    chunk_bytes = configuration.step_bytes
    if backward and limit < 11 * chunk_bytes:
        chunk = max(1, UNDER_WAY_PACED // (8 * chunk_bytes))
        return _paced(replace(configuration, steps=chunk, warps=8, stages=1), steps)
    sizes = [(chunk, warps) for warps in range(8, 16) for chunk in range(1, 33)]
    return _with_under_way(configuration, limit, sizes)


def _broad(configuration: Configuration, beginning: str, steps: int, device: Device) -> Configuration | None:
    """A relay in rows of 256 bytes; None where none was measured to be fast."""
    family = "hlru" if configuration.one_row else "bdlru"
    if configuration.block_size > LARGEST_BROAD[family] or configuration.normalization in FUNCTIONS:
        return None
    backward = "backward" in configuration.kernel
    limit = UNDER_WAY_BROAD["backward" if backward else "forward"][beginning][device.fast_memory]
    of_step = configuration.step_bytes
    if backward and beginning == "pieces" and limit < 6 * of_step:
        return _paced(replace(configuration, steps=1, warps=8, stages=1), steps)
    sizes = [(chunk, warps) for warps in range(5, 16) for chunk in range(1, 33)]
    if beginning == "elements":  # fewer warps are faster, most of all where they write as much as they read
        chunk = max(1, limit // (8 * of_step))
        most = 8 if backward or chunk > 1 else 15
        sizes = [(chunk, min(most, max(5, limit // of_step)))]
    fitting = [size for size in sizes if fits_registers(replace(configuration, steps=size[0], warps=size[1]))]
    return _with_under_way(configuration, limit, fitting)


def _with_under_way(configuration: Configuration, limit: int, sizes: list[tuple[int, int]]) -> Configuration:
    """The chunk and warps with so many bytes under way, as nearly as possible, with many warps."""
    of_step = configuration.step_bytes
    # One warp less is as bad as to miss by three percent.
    chunk, warps = min(sizes, key=lambda size: abs(size[0] * size[1] * of_step / limit - 1) - 0.03 * size[1])
    return replace(configuration, steps=chunk, warps=warps, stages=1)


def _paced(configuration: Configuration, steps: int) -> Configuration:
    return replace(configuration, paced=steps >= PACED_TURNS * configuration.steps * configuration.warps)


def _fit(configuration: Configuration, device: Device) -> Configuration:
    """Fewer stages, then shorter chunks, then fewer warps, until the shared memory suffices."""
    while configuration.shared_bytes > device.shared_memory:
        if configuration.stages > 1:
            configuration = replace(configuration, stages=configuration.stages - 1)
        elif configuration.steps > 2:
            configuration = replace(configuration, steps=configuration.steps // 2)
        else:
            together = configuration.groups or 2  # whole groups, or whole teams
            configuration = replace(configuration, warps=configuration.warps - together)
    return configuration


def _filled(configuration: Configuration, shape: str, tiles: int, device: Device) -> Configuration:
    """More steps or stages where fewer thread blocks run than the device has room for.

    What memory wants under way is so much of the whole device, and most tiles were measured on a full one.
    """
    part = max(tiles * configuration.cluster / device.multiprocessors, EMPTY)
    if part > FULL or configuration.conducted or configuration.paced:
        return configuration
    table = _tiles(shape, configuration.dtype)
    if table is None or table.of_a_part:
        return configuration
    if configuration.lanes_per_block > 1 or (configuration.composes and "backward" in configuration.kernel):
        return configuration  # it gains nothing
    steps, stages = configuration.steps, range(configuration.stages, 3)
    wanted = steps * configuration.stages / part
    longest = steps  # maps fill registers already
    if not configuration.composes:
        longest = max(steps, min(int(wanted) + 1, LONGEST))
    sizes = [(chunk, count) for chunk in range(steps, longest + 1) for count in stages]
    # Two stages are better than as much in one.
    sizes.sort(key=lambda size: abs(size[0] * size[1] / wanted - 1) - 0.1 * size[1])
    for chunk, count in sizes:
        larger = replace(configuration, steps=chunk, stages=count)
        if larger.shared_bytes <= device.shared_memory and (chunk == steps or fits_registers(larger)):
            return larger
    return configuration


def _spread(
    configuration: Configuration, shape: str, batch: int, steps: int, width: int, device: Device
) -> list[tuple[float, Configuration]]:
    """Every number of thread blocks for a tile with the nanoseconds of a step, the fastest first."""
    tiles, found = batch * -(-width // configuration.tile), []
    for size in _tile_sizes(configuration, shape, tiles, device):
        candidate = replace(configuration, cluster=size)
        chunks = -(-steps // (candidate.steps * candidate.chunks))
        if size > 1 and (size - 1) * candidate.warps >= chunks:
            break  # the last thread block of the tile would have nothing to do
        if candidate.shared_bytes > device.shared_memory:
            break
        candidate = _filled(candidate, shape, tiles, device)
        found.append((step_nanoseconds(candidate, batch, steps, width, device), candidate))
    return sorted(found, key=lambda scored: scored[0])


def _tile_sizes(configuration: Configuration, shape: str, tiles: int, device: Device) -> list[int]:
    """How many thread blocks a tile can have; but for narrow relays, all clusters run at once."""
    if configuration.conducted:
        return list(range(2, min(32, device.multiprocessors // max(1, tiles) - 1) + 1))
    if shape in ("broad", "wide", "narrow"):
        return [1]
    sizes = range(2 if "clustered" in shape else 1, 9 if device.clusters else 2)
    if shape.startswith("narrow"):
        return list(sizes)
    return [size for size in sizes if size == 1 or device.resident_clusters(size) >= tiles]


def candidates(
    family: str,
    direction: str,
    block_size: int,
    dtype: str,
    normalization: str,
    batch: int,
    steps: int,
    width: int,
    device: Device,
    rows: str = "packed",
    time_broadcast: bool = False,
    gate_gradient: bool = True,
) -> list[tuple[float, Configuration]]:
    """Each kernel's configurations with the nanoseconds that a step should take, the fastest first.

    One for each number of thread blocks that a tile can have.
    """
    rest = {
        "normalization": normalization,
        "rows": rows,
        "time_broadcast": time_broadcast,
        "gate_gradient": gate_gradient,
    }
    found = []
    for shape in (*RELAYS, *COMPOSED):
        candidate = _candidate(family, direction, block_size, dtype, shape, device, **rest)
        if candidate is not None:
            candidate = _between_lines(candidate, shape, steps, width, device)
        if candidate is not None:
            found += _spread(_fit(candidate, device), shape, batch, steps, width, device)
    return sorted(found, key=lambda scored: scored[0])


@lru_cache(maxsize=4096)
def choose(*problem: Any, **options: Any) -> Configuration:
    """Chooses the configuration of a problem, which is what :func:`candidates` takes.

    B = batch (or packed sequences), T = steps, N = width.

    >>> h100 = Device((9, 0), 132, 232448)
    >>> choose("bdlru", "forward", 4, "bfloat16", "softmax", 8, 4096, 1024, h100).tile
    64
    """
    return candidates(*problem, **options)[0][1]
