"""Which kernel runs with which tile, chunk and cluster: a pure function over a small table.

No tuning at run time. ``tiles.py`` holds what was measured, ``costs.py`` what a step should cost; the rule
here fits both to the problem and to the limits of other devices. The letters are those of ``arguments.cuh``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from statemix.kernels.cuda.costs import USUAL_MEMORY, alignment, step_nanoseconds
from statemix.kernels.cuda.tiles import (
    CONDUCTED,
    FLOAT32,
    FLOAT32_CLUSTERED,
    NARROW,
    NARROW_PACED,
    RING,
    RING_HALVES,
    UNDER_WAY,
    UNDER_WAY_PACED,
    WIDE,
    WIDE_CLUSTERED,
    WIDE_FUNCTIONS,
    Tiles,
)

NORMALIZATIONS = ("softmax", "sigmoid", "relu", "tanh", "linear", "none")
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ELEMENT_TYPES = {"float32": "Float32", "bfloat16": "Bfloat16", "float16": "Float16"}

#: Relays: of whole lines with one thread block for each tile, with several, and of rows of 64 bytes.
RELAYS = ("wide", "clustered", "narrow")

#: Kernels that compose maps: their tiles, and the chunks that a warp computes at once.
COMPOSED = {
    "ring": (RING, 1),
    "ring halves": (RING_HALVES, 2),
    "conducted": (CONDUCTED, 1),
    "conducted halves": (CONDUCTED, 2),
}

#: From how many GB/s on memory is fast: between an H100 (3350) and an H200 (4815).
FAST_MEMORY = 4000

#: Turns of its warps for which neighbouring tiles are left alone.
PACED_TURNS = 4

#: Normalizations with two special functions a gate.
FUNCTIONS = ("sigmoid", "tanh")

#: The largest block size (BD-LRU) and order (H-LRU) whose coefficients fit the registers.
LARGEST = {"bdlru": 16, "hlru": 32}


@dataclass(frozen=True, slots=True)
class Device:
    """What the rule must know of a device.

    Attributes:
        shared_memory: bytes that one thread block can have.
        memory_gb_s: what its memory is made for.
    """

    capability: tuple[int, int]
    multiprocessors: int
    shared_memory: int
    memory_gb_s: int = USUAL_MEMORY

    @property
    def fast_memory(self) -> bool:
        return self.memory_gb_s > FAST_MEMORY

    @property
    def clusters(self) -> bool:
        return self.capability >= (9, 0) and self.capability[0] != 12

    def resident_clusters(self, size: int) -> int:
        """How many clusters of `size` thread blocks run at once, one thread block a multiprocessor."""
        of_132 = {1: 132, 2: 66, 3: 39, 4: 30, 5: 22, 6: 17, 7: 15, 8: 15}  # measured, H100
        return of_132[size] * self.multiprocessors // 132


@dataclass(frozen=True, slots=True)
class Configuration:
    """One kernel instantiation, completely: equal configurations are the same machine code."""

    kernel: str  # the function in the .cuh file of the same name
    block_size: int  # or order
    dtype: str
    normalization: str
    rows: str  # packed | stepped | strided | unaligned
    time_broadcast: bool
    gate_gradient: bool
    blocks_per_lane: int
    lanes_per_block: int
    steps: int
    warps: int
    stages: int
    cluster: int  # thread blocks that work on a tile: a cluster of the hardware but where maps are conducted
    groups: int = 0  # of warps, where maps are conducted; 0: the state goes round a ring
    chunks: int = 1  # that a warp computes at once
    streams: bool = True  # gradients in rows of 64 bytes may leave L2 before all others
    paced: bool = False  # a tile waits for its neighbours, with whom it shares lines of memory
    prefetch: int | None = None  # bytes; None: 128 where rows are narrower than that

    @property
    def composes(self) -> bool:
        """Whether warps compose maps of states before they have a state."""
        return self.kernel.startswith("composed")

    @property
    def one_row(self) -> bool:
        """Whether the kernel has one row of logits a step: H-LRU, and BD-LRU with blocks of one as such."""
        return "hlru" in self.kernel

    @property
    def tile(self) -> int:
        """Blocks (channels) of a thread block."""
        return 32 * self.blocks_per_lane // self.lanes_per_block // self.chunks

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a thread block; the generated source asserts that the kernel agrees."""
        m, s = self.block_size, self.steps
        row = self.tile * self.element_bytes + (16 if self.rows == "unaligned" else 0)
        logit_steps = 1 if self.time_broadcast else s
        backward = "backward" in self.kernel
        if self.one_row:
            state = m
            rows = logit_steps * (m + 1) + s
            if backward:
                rows = logit_steps * (m + 1) + (3 * s + m - 1 if self.gate_gradient else s)
        else:
            state = -(-m // self.lanes_per_block)
            slack = m + 1 if m % self.lanes_per_block else 0
            rows = logit_steps * m * (m + 1) + s * m * (3 if backward and self.gate_gradient else 1) + slack
        if self.composes:
            matrices = self.element_bytes == 2 and self.rows != "unaligned"
            region = rows * row
            if self.chunks == 2:  # so that the two chunks of a warp lie in different banks
                if matrices:
                    region = (region + 63) // 128 * 128 + 64
                elif region % 64 == 0:
                    region += row
            # Eight rows of each chunk on their way out, those of two chunks in different banks.
            written = (8 * row + (64 if self.chunks == 2 else 0)) * self.chunks if matrices else 0
            staged = self.warps * (self.stages * self.chunks * region + written)
            lanes = 32 // self.chunks
            of_state, of_map = 4 * lanes * m, 4 * lanes * m * (m + 1)
            if self.conducted:
                worker = self.chunks * self.warps * of_map + self.groups * of_state + staged
                return max(worker, 2 * self.cluster * of_map)
            teams = self.warps // 2 * (of_state + of_map + of_state + 16)
            return -(-(128 + teams) // 128) * 128 + staged
        return 128 + self.warps * (32 * state * self.blocks_per_lane * 4 + self.stages * rows * row)

    @property
    def conducted(self) -> bool:
        """Whether one thread block more runs the states of each tile; all of a launch must run together."""
        return self.groups > 0

    def thread_blocks(self, tiles: int) -> int:
        """Thread blocks of a launch."""
        return tiles * (self.cluster + self.conducted)

    @property
    def exchange_floats(self) -> int:
        """What a tile's thread blocks tell others, in a buffer of zeros: maps and states; or their turn."""
        if self.paced:
            return 8
        m, lanes = self.block_size, 32 // self.chunks
        return lanes * self.groups * self.cluster * (m * (m + 1) + m)

    @property
    def element_bytes(self) -> int:
        return ELEMENT_BYTES[self.dtype]

    @property
    def step_bytes(self) -> int:
        """What a relay reads in one step of a tile."""
        rows = 1 if self.one_row else self.block_size
        rows *= self.block_size + (4 if "backward" in self.kernel else 2)
        return rows * self.tile * self.element_bytes

    @property
    def coefficient_registers(self) -> int:
        columns = self.block_size + 1
        rows = 1 if self.one_row else -(-self.block_size // self.lanes_per_block)
        return self.steps * self.blocks_per_lane * rows * columns

    def source(self) -> str:
        """The translation unit that NVRTC is given."""
        cluster = (
            f"__cluster_dims__({self.cluster}, 1, 1) " if self.cluster > 1 and not self.conducted else ""
        )
        narrow = self.tile * self.element_bytes <= 64
        prefetch = (128 if narrow else 0) if self.prefetch is None else self.prefetch
        stage = f"{'Backward' if 'backward' in self.kernel else 'Forward'}{'Map' * self.composes}Stage"
        flag = {False: "false", True: "true"}
        return f"""#include "{self.kernel}.cuh"
struct Configuration {{
    typedef {ELEMENT_TYPES[self.dtype]} E;
    static constexpr Normalization F = Normalization::{self.normalization};
    static constexpr Rows ROWS = Rows::{self.rows};
    static constexpr bool TIME_BROADCAST = {flag[self.time_broadcast]},
                          GATE_GRADIENT = {flag[self.gate_gradient]};
    static constexpr int M = {self.block_size}, NB = {self.blocks_per_lane}, R = {self.lanes_per_block},
                         S = {self.steps}, W = {self.warps}, D = {self.stages}, K = {self.cluster},
                         CH = {self.chunks}, G = {self.groups}, PREFETCH = {prefetch};
    static constexpr bool COMPOSES = {flag[self.composes]}, STREAMS = {flag[self.streams]},
                          PACED = {flag[self.paced]};
}};
static_assert({stage}<Configuration>::SHARED == {self.shared_bytes}, "configurations.py counts otherwise");
extern "C" __global__ void {cluster}__launch_bounds__({32 * self.warps}, 1)
    statemix_kernel(const __grid_constant__ Arguments arguments) {{
    {self.kernel}<Configuration>(arguments);
}}
"""


def kernel_for(family: str, block_size: int) -> str:
    """Names the kernel that runs a block size (or order): relay, relay with two lanes a block, or none.

    With few lanes and long sequences block sizes to 4 and orders to 8 run composed maps instead; block size 8
    runs either relay.
    """
    if not 1 <= block_size <= LARGEST[family]:
        return "none"
    return "relay with two lanes a block" if family == "bdlru" and block_size > 8 else "relay"


def _candidate(
    family: str, direction: str, m: int, dtype: str, shape: str, device: Device, **rest
) -> Configuration | None:
    """A kernel's configuration before it is fitted to a problem; None where it has none for this size."""
    if shape in RELAYS:
        return _relay(family, direction, m, dtype, shape, device, **rest)
    kind = "hlru" if m == 1 else family  # a block of one is a channel of order one
    table, chunks = COMPOSED[shape]
    sizes = table.sizes(kind, m, direction, fast_memory=device.fast_memory)
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
    half, wide = ELEMENT_BYTES[dtype] == 2, shape != "narrow"
    lanes = 2 if family == "bdlru" and not wide and m >= 8 else 1
    if not (wide or half or lanes == 2):
        return None  # one block a lane in 32 bits is a row of 128 bytes already
    functions = half and wide and rest["normalization"] in FUNCTIONS
    sizes = _relay_tiles(shape, half).sizes(family, m, direction, fast_memory=device.fast_memory)
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
        blocks_per_lane=2 if wide and half else 1,
        lanes_per_block=lanes,
        steps=steps,
        warps=warps,
        stages=2 if functions and shape == "clustered" else stages,
        cluster=1,
        **rest,
    )


def _relay_tiles(shape: str, half: bool) -> Tiles:
    if shape == "narrow":
        return NARROW
    if shape == "clustered":
        return WIDE_CLUSTERED if half else FLOAT32_CLUSTERED
    return WIDE if half else FLOAT32


def _between_lines(
    configuration: Configuration, shape: str, steps: int, width: int, device: Device
) -> Configuration:
    """A relay where rows lie between lines, so that a tile shares lines with its neighbours.

    L2 must hold those for both, so less is under way. Where one step of eight warps is more than that, and in
    clusters, tiles keep pace backward, where most is written, if there is time to drift apart. A relay in
    rows of 64 bytes does where rows share sectors too.
    """
    beginning = alignment(configuration, width)
    if configuration.composes or configuration.lanes_per_block > 1 or beginning == "lines":
        return configuration
    backward = "backward" in configuration.kernel
    if shape == "clustered":
        shared = replace(configuration, stages=1)
        return _paced(shared, steps) if backward else shared
    if shape == "narrow":
        if not backward or beginning == "sectors":
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
    # As near as possible, with many warps: one less is as bad as to miss by three percent.
    sizes = [(chunk, warps) for warps in range(8, 16) for chunk in range(1, 33)]
    chunk, warps = min(
        sizes, key=lambda size: abs(size[0] * size[1] * chunk_bytes / limit - 1) + 0.03 * (15 - size[1])
    )
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


def _spread(
    configuration: Configuration, shape: str, batch: int, steps: int, width: int, device: Device
) -> tuple[float, Configuration]:
    """The best number of thread blocks for a tile, and the nanoseconds that a step should take with it."""
    tiles = batch * -(-width // configuration.tile)
    chunks = -(-steps // (configuration.steps * configuration.chunks))
    best = (float("inf"), configuration)
    for size in _tile_sizes(configuration, shape, tiles, device):
        candidate = replace(configuration, cluster=size)
        if size > 1 and (size - 1) * configuration.warps >= chunks:
            break  # the last thread block of the tile would have nothing to do
        if candidate.shared_bytes > device.shared_memory:
            break
        cost = step_nanoseconds(candidate, batch, steps, width, device)
        if cost < best[0]:
            best = (cost, candidate)
    return best


def _tile_sizes(configuration: Configuration, shape: str, tiles: int, device: Device) -> list[int]:
    """How many thread blocks a tile can have; but for narrow relays, all clusters run at once."""
    if configuration.conducted:
        return list(range(2, min(32, device.multiprocessors // max(1, tiles) - 1) + 1))
    if shape == "wide":
        return [1]
    sizes = range(2 if shape == "clustered" else 1, 9 if device.clusters else 2)
    if shape == "narrow":
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
    """Each kernel's best configuration with the nanoseconds that a step should take, the fastest first."""
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
            scored = _spread(_fit(candidate, device), shape, batch, steps, width, device)
            if scored[0] < float("inf"):
                found.append(scored)
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
