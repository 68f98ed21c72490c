"""What a step should take with a configuration, good enough to order configurations.

Three things limit a relay: memory, the chain of states, and the turn of a warp, which must load and compute
a chunk before it can begin its next. A ring of maps has the same three limits; where maps are conducted, the
conductor takes the place of the chain. Thread blocks that do not fit the device at once run in waves, of
which the last may be small. A limit slows a kernel before it is reached, so limits are added, but as high
powers.

Constants were fitted together, so that what is put first is what was fastest, to the tables kernel_choice of
an H100 and an H200 in ``benchmarks/results``.
"""

from __future__ import annotations

from dataclasses import dataclass

from statemix.kernels.cuda.configurations import USUAL_MEMORY, Configuration, Device

CLOCK = 1.98  # GHz
REGISTERS = 65536  # of a multiprocessor

#: Shared memory of thread blocks that run on a multiprocessor, each as fast as alone: fitted, as if one with
#: more of it already asked memory for all that a multiprocessor can get.
IN_FLIGHT = 80 * 1024


#: What rows cost more that begin at sectors of 32 bytes, at pieces of 16 or at single elements, and how much
#: more where not all tiles run at once; forward, backward. Below 1: what the rest of a formula overrates.
SHARED_LINES = {
    "broad": ((0.574, 0.915, 1.69, 1.56), (1.11, 0.53, 1.0, 1.83)),
    "broad clustered": ((0.574, 0.915, 0.811, 1.56), (0.777, 0.6, 0.7, 1.83)),
    "wide": ((0.746, 0.817, 1.3, 1.56), (1.11, 1.04, 1.02, 1.83)),
    "narrow": ((0.841, 1.13, 1.7, 1.38), (1.01, 1.48, 2.2, 2.15)),
    "narrow paced": ((1, 1, 1, 1), (1.21, 1.39, 1.07, 1.35)),
    "two lanes": ((1.1, 1.68, 1.6, 1.16), (2.06, 2.5, 2.6, 0.593)),
    "ring": ((1.05, 1.31, 1.47, 1.02), (0.961, 2.81, 2.2, 1.23)),
    "ring halves": ((0.736, 1.3, 1.1, 1.62), (0.88, 1.81, 2.4, 0.93)),
    "conducted": ((1, 1.47, 1.6, 1), (1, 2.08, 2.2, 1)),
    "float32 wide": ((0.895, 0.817, 1.09, 1.34), (1.41, 1.04, 1.43, 0.937)),
    "float32 wide clustered": ((0.884, 0.817, 1.3, 1.56), (1.02, 1.04, 1.02, 1.83)),
    "float32 two lanes": ((1.09, 1.68, 1.12, 1.1), (1.56, 2.5, 2.6, 0.845)),
    "float32 ring": ((1.05, 1.31, 1.2, 1.27), (1.19, 2.81, 2.2, 1.18)),
    "float32 ring halves": ((0.952, 1.3, 1.08, 1.22), (1.43, 1.81, 2.69, 0.677)),
    "float32 conducted": ((0.657, 1.47, 1.6, 1), (0.664, 2.08, 2.2, 1)),
}


@dataclass(frozen=True)
class Factors:
    """Times as much as formulas for half precision say: of parts of a cost, and of all of it.

    Attributes:
        hop: of a ring, which its chunks hide less where they are shorter.
        start: of a ring in halves, until all of its warps have something to do.
    """

    memory: float = 1.0
    everything: float = 1.0
    hop: float = 1.0
    start: float = 1.0


#: Forward and backward.
FLOAT32 = {
    "float32 wide": (Factors(everything=0.95), Factors(memory=0.752, everything=1.45)),
    "float32 wide clustered": (Factors(memory=0.837, everything=1.02), Factors(memory=1.1)),
    "float32 two lanes": (Factors(memory=0.99, everything=1.1), Factors(memory=1.4, everything=0.95)),
    "float32 ring": (Factors(everything=1.01, hop=1.01), Factors(memory=0.951, everything=1.03, hop=1.33)),
    "float32 ring halves": (
        Factors(memory=0.864, everything=0.936, start=0.563),
        Factors(memory=1.06, everything=0.964, start=0.726),
    ),
    "float32 conducted": (Factors(memory=0.643, everything=1.54), Factors(memory=1.4, everything=0.98)),
}


@dataclass(frozen=True)
class Crowding:
    """What it costs that more is under way on a device than memory wants, and than L2 keeps.

    Attributes:
        bytes: under way from which on it does, on an H100 and where memory is fast.
        cost: the most that it costs there, in parts of what memory takes.
        within: the part of those bytes by which more cost all of it.
    """

    bytes: tuple[float, float]
    cost: tuple[float, float]
    within: float

    def slower(self, configuration: Configuration, thread_blocks: int, device: Device) -> float:
        """Times as long as memory would take otherwise."""
        steps = configuration.steps * configuration.warps * configuration.stages * configuration.chunks
        under_way = steps * configuration.step_bytes * thread_blocks
        more = under_way / self.bytes[device.fast_memory] - 1
        return 1 + self.cost[device.fast_memory] * min(1.0, max(0.0, more) / self.within)


#: Of relays, forward and backward.
CROWDING = (
    Crowding((7.46e6, 8.952e6), (0.0844, 0.0844), 1),
    Crowding((5.88e6, 7.056e6), (0.0844, 0.0844), 1),
)

#: Of all kernels in float32, beside that: those that compose maps, and relays.
FLOAT32_CROWDING = {
    True: (
        Crowding((8.8e6, 12.9e6), (0.103, 0.182), 0.251),
        Crowding((9.3e6, 10.5e6), (0.126, 0.127), 0.185),
    ),
    False: (
        Crowding((8.8e6, 12.9e6), (0.154, 0.273), 0.251),
        Crowding((9.3e6, 10.5e6), (0.00634, 0.00639), 0.185),
    ),
}


def step_nanoseconds(
    configuration: Configuration, batch: int, steps: int, width: int, device: Device
) -> float:
    """Nanoseconds that one step of all sequences should take."""
    tiles = batch * -(-width // configuration.tile)
    moved = _bytes(configuration, batch, width) * _shared_lines(configuration, tiles, width, device)
    factors = _factors(configuration)
    moved *= factors.memory
    if configuration.element_bytes == 4:
        crowding = FLOAT32_CROWDING[configuration.composes]["backward" in configuration.kernel]
        running = min(tiles * configuration.cluster, device.multiprocessors)
        moved *= crowding.slower(configuration, running, device)
    return factors.everything * _nanoseconds(configuration, tiles, steps, moved, device)


def _factors(configuration: Configuration) -> Factors:
    if configuration.element_bytes == 2:
        return Factors()
    return FLOAT32[_shape(configuration)]["backward" in configuration.kernel]


def _nanoseconds(configuration: Configuration, tiles: int, steps: int, moved: float, device: Device) -> float:
    if configuration.conducted:
        return _conducted(configuration, tiles, steps, moved, device)
    if configuration.chunks == 2:
        return _ring_halves(configuration, tiles, steps, moved, device)
    moved *= _row_cost(configuration, device)
    return (_ring if configuration.composes else _relay)(configuration, tiles, steps, moved, device)


def _copied(moved: float, device: Device) -> float:
    """Nanoseconds in which a copy moves so many bytes."""
    return moved / (0.875 * device.memory_gb_s)


def _sum(limits: tuple[float, ...], power: float) -> float:
    return sum(limit**power for limit in limits) ** (1 / power)


def _bytes(configuration: Configuration, batch: int, width: int) -> int:
    """What a step of all sequences reads and writes."""
    m = configuration.block_size
    elements = (m + 3) * (1 if configuration.one_row else m) * batch * width
    return elements * configuration.element_bytes * (2 if "backward" in configuration.kernel else 1)


def _relay(configuration: Configuration, tiles: int, steps: int, moved: float, device: Device) -> float:
    """One wave of thread blocks after the other."""
    size = configuration.cluster
    at_once = max(1, device.resident_clusters(size) * _thread_blocks_at_once(configuration, device))
    memory = _copied(moved, device) / 1.17  # what keeps kernels below that is added later
    chain = _chain(configuration)
    crowding = CROWDING["backward" in configuration.kernel]
    whole, rest = divmod(tiles, at_once)
    time = 0.0
    for waves, running in ((whole, at_once), (1, rest)):
        if waves and running:
            crowded = memory * crowding.slower(configuration, running * size, device)
            crowded /= _drawn(configuration, running * size, device)
            turn = _turn(configuration, -(-running * size // device.multiprocessors))
            # A wave takes some microseconds to start, to fill its rings and to empty them.
            time += waves * (_sum((crowded * running / tiles, chain, turn), 4.06) + 5300 / steps)
    # Thread blocks of a cluster start, wait and leave together.
    return time * (1 + (0.065 if configuration.blocks_per_lane > 1 else 0.0504) * (size - 1))


def _drawn(configuration: Configuration, thread_blocks: int, device: Device) -> float:
    """The part of what memory gives that so many multiprocessors can draw."""
    enough = 0.533 if device.fast_memory else 0.48
    if configuration.tile * configuration.element_bytes < 64:
        enough = 0.76  # narrow rows
    return min(1, thread_blocks / device.multiprocessors / enough)


def _thread_blocks_at_once(configuration: Configuration, device: Device) -> int:
    """How many thread blocks a multiprocessor runs, each as fast as if it were alone."""
    by_registers = REGISTERS // (_registers(configuration) * 32 * configuration.warps)
    by_memory = min(IN_FLIGHT, device.shared_memory) // configuration.shared_bytes
    return max(1, int(min(by_registers, by_memory)))


def _registers(configuration: Configuration) -> int:
    """Of a thread of a relay, as the compiler should give them."""
    # Lines through what it gives. Of 266 relays in resources.csv they place all but four as the compiler's
    # own number would; logits of those four are the same at all times: fewer registers suffice.
    first, each = (66, 1.5) if "backward" in configuration.kernel else (56, 1.1)
    return 8 * -(-int(first + each * configuration.coefficient_registers) // 8)


def fits_registers(configuration: Configuration) -> bool:
    """Whether a relay with more steps would not spill registers."""
    return _registers(configuration) <= min(232, REGISTERS // (32 * configuration.warps))


def alignment(configuration: Configuration, width: int) -> str:
    """What rows begin at: lines of 128 bytes, sectors of 32, pieces of 16, or single elements."""
    row = width * configuration.element_bytes
    return next(
        (name for name, size in (("lines", 128), ("sectors", 32), ("pieces", 16)) if row % size == 0),
        "elements",
    )


def _shared_lines(configuration: Configuration, tiles: int, width: int, device: Device) -> float:
    """What it costs that rows begin inside lines, which neighbouring tiles share then."""
    beginning = alignment(configuration, width)
    if beginning == "lines":
        return 1.0
    forward, backward = SHARED_LINES[_shape(configuration)]
    *costs, in_waves = backward if "backward" in configuration.kernel else forward
    cost = costs[("sectors", "pieces", "elements").index(beginning)]
    return cost * (in_waves if _waves(configuration, tiles, device) > 1 else 1.0)


def _shape(configuration: Configuration) -> str:
    shape = _shape_of_rows(configuration)
    if configuration.element_bytes == 2:
        return shape
    return f"float32 {shape}{' clustered' if shape == 'wide' and configuration.cluster > 1 else ''}"


def _shape_of_rows(configuration: Configuration) -> str:
    if configuration.conducted:
        return "conducted"
    if configuration.composes:
        return "ring" if configuration.chunks == 1 else "ring halves"
    row = configuration.tile * configuration.element_bytes
    if row > 128:
        return "broad clustered" if configuration.cluster > 1 else "broad"
    if row == 128:
        return "wide"
    if configuration.lanes_per_block > 1:
        return "two lanes"
    return "narrow paced" if configuration.paced else "narrow"


def _row_cost(configuration: Configuration, device: Device) -> float:
    """What rows of a tile cost more than whole lines of 128 bytes do."""
    row, backward = configuration.tile * configuration.element_bytes, "backward" in configuration.kernel
    if row >= 128:
        return 1.0
    if row < 64:
        return 1.48 if backward else 1.14
    # L2 asks for the other halves of lines, and is not as much faster as memory may be.
    if configuration.composes:
        cost, power = (0.77, 0.334) if backward else (1.04, 0.233)
    else:
        apart = 0.686 if configuration.cluster > 1 else 0.12  # neighbouring tiles are, on the chip
        cost, power = (1.06, apart) if backward else (1.04, 0.032)
    if backward and not configuration.one_row and configuration.cluster == 2:
        # m rows of gradients, from all multiprocessors, are more than L2 keeps.
        cost *= 1.33 if configuration.composes else 0.955
    return cost * (device.memory_gb_s / USUAL_MEMORY) ** power


def _turn(configuration: Configuration, neighbours: int) -> float:
    """What a step costs of a warp's turn, with that many thread blocks on its multiprocessor."""
    latency = 960 * (1.0 if configuration.stages == 1 else 0.288)  # most of it passes in the turn before
    # Ten to thirty instructions for a coefficient, from each warp, on four schedulers.
    work = (2.76 if "backward" in configuration.kernel else 1.3) * configuration.coefficient_registers
    turn = latency + work * configuration.warps * neighbours
    return turn / (configuration.steps * configuration.warps * configuration.cluster)


def _chain(configuration: Configuration) -> float:
    """What a step costs in the chain of states."""
    m, lanes = configuration.block_size, configuration.lanes_per_block
    rows = 1 if configuration.one_row else -(-m // lanes)
    # In cycles.
    hand_over = 76.5 if configuration.one_row and "backward" in configuration.kernel else 79.8
    step = configuration.blocks_per_lane * (4.45 + 1.36 * rows * m)
    exchange = 32 if lanes > 1 else 0  # of the parts of a sum
    return (hand_over / configuration.steps + step + exchange) / CLOCK


def _waves(configuration: Configuration, tiles: int, device: Device) -> int:
    """Of thread blocks in clusters, one on a multiprocessor; where maps are conducted all run at once."""
    if configuration.conducted:
        return 1
    return -(-tiles // max(1, device.resident_clusters(configuration.cluster)))


def _ring(configuration: Configuration, tiles: int, steps: int, moved: float, device: Device) -> float:
    """Maps that go round a ring in rows of 64 bytes: by memory, by a warp's turn, or by the ring.

    A hop of the ring is two chunks long and applies two maps; some go to another multiprocessor.
    """
    m, coefficients = configuration.block_size, configuration.coefficient_registers
    waves = _waves(configuration, tiles, device)
    warps = configuration.warps * configuration.cluster
    memory = _copied(moved, device)
    # Instructions of all warps of a multiprocessor: for each coefficient, and to compose it into the map.
    if "backward" in configuration.kernel:
        power, start = 3.39, 3930
        turn = 641 * (configuration.stages == 1) + 11.4 * warps
        turn += (2.81 + 0.24 * m) * coefficients * configuration.warps
        memory *= 1.3 if configuration.cluster < 3 else 1.0  # all multiprocessors ask for more than L2 keeps
        hop, remote = 32 + 2.82 * m * m, 32.8
    else:
        power, start = 3.73, 3690
        turn = 20 * warps + (0.774 + 0.22 * m) * coefficients * configuration.warps
        hop, remote = 36.4 + 2.03 * m * m, 109
    chain = _factors(configuration).hop * hop / 2 + (
        remote / configuration.warps if configuration.cluster > 1 else 0
    )
    limits = (memory, waves * turn / (configuration.steps * warps), waves * chain / configuration.steps)
    return _sum(limits, power) + (start + turn / 2) * waves / steps


def _ring_halves(configuration: Configuration, tiles: int, steps: int, moved: float, device: Device) -> float:
    """The same in rows of 32 bytes: by memory or by a turn."""
    m, waves = configuration.block_size, _waves(configuration, tiles, device)
    rows, work = (1.27, 26.8) if "backward" in configuration.kernel else (1.41, 15.8)
    warps = configuration.warps * configuration.cluster
    turn = 635 + work * configuration.coefficient_registers + 29 * m * m + 20.7 * warps
    limits = (rows * _copied(moved, device), waves * turn / (2 * configuration.steps * warps))
    return _sum(limits, 3.56) + (_factors(configuration).start * 5020 + turn / 2) * waves / steps


def _conducted(configuration: Configuration, tiles: int, steps: int, moved: float, device: Device) -> float:
    """Maps that are conducted: by memory, by a worker's turn, or by the conductor's."""
    size, maps = configuration.cluster, configuration.block_size * (configuration.block_size + 1)
    coefficients, halves = configuration.coefficient_registers, configuration.chunks == 2
    # And the part of the multiprocessors that draws all that memory gives.
    if "backward" in configuration.kernel:
        rows, enough, start = 0.72 if halves else 0.578, 1.26, 680
        turn = 55.8 * maps + 127 * coefficients
        conductor = 2.6 * size * maps
    else:
        rows, enough, start = 1.19 if halves else 1.1, 0.12, 2550
        turn = 40 * maps + 38.1 * coefficients
        conductor = 617 + 1.19 * size * maps
    memory = rows * _copied(moved, device) / min(1.0, tiles * size / device.multiprocessors / enough)
    of_group = configuration.chunks * configuration.steps * configuration.warps // configuration.groups * size
    limits = (memory, turn / (of_group * configuration.groups), conductor / of_group)
    return _sum(limits, 3.71) + (start + turn) / steps
