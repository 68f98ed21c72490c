"""What a step should take with a configuration, good enough to order configurations.

Three things limit a relay: memory, the chain of states, and the turn of a warp, which must load and compute
a chunk before it can begin its next. Where maps are composed the turn has the chain in it. Thread blocks that
do not fit the device at once run in waves, of which the last may be small.

Constants were fitted to tables in ``benchmarks/results``: those of the relay to tiles_training_shapes and
tiles_candidates of an H100 and an H200 (whose memory differs, and whose best choices mostly do not), those of
maps that go round a ring to composed_maps and ring_order of an H100, those of maps that are conducted to
conducted_maps of both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .configurations import Configuration, Device

CLOCK = 1.98  # GHz
REGISTERS = 65536  # of a multiprocessor

#: Shared memory of thread blocks that run on a multiprocessor, each as fast as alone: fitted, as if one with
#: more of it already asked memory for all that a multiprocessor can get.
IN_FLIGHT = 76 * 1024


def step_nanoseconds(
    configuration: Configuration, batch: int, steps: int, width: int, device: Device
) -> float:
    """Nanoseconds that one step of all sequences should take."""
    tiles = batch * -(-width // configuration.tile)
    moved = _bytes(configuration, batch, width)
    if configuration.conducted:
        return _conducted(configuration, tiles, steps, moved, device)
    if configuration.composes:
        return _ring(configuration, tiles, steps, moved, device)
    return _relay(configuration, tiles, steps, _row_cost(configuration, width) * moved, device)


def _bytes(configuration: Configuration, batch: int, width: int) -> int:
    """What a step of all sequences reads and writes."""
    m = configuration.block_size
    elements = (m + 3) * (1 if configuration.one_row else m) * batch * width
    return elements * configuration.element_bytes * (2 if "backward" in configuration.kernel else 1)


def _relay(configuration: Configuration, tiles: int, steps: int, moved: float, device: Device) -> float:
    """One wave of thread blocks after the other."""
    size = configuration.cluster
    at_once = max(1, device.resident_clusters(size) * _thread_blocks_at_once(configuration, device))
    # 3.7 TB/s on 132 multiprocessors, between both data sheets: what keeps kernels below it is added later.
    memory = moved / (28.0 * device.multiprocessors)
    chain = _chain(configuration)
    whole, rest = divmod(tiles, at_once)
    time = 0.0
    for waves, running in ((whole, at_once), (1, rest)):
        if waves and running:
            turn = _turn(configuration, -(-running * size // device.multiprocessors))
            # A limit slows a kernel before it is reached, so limits are added, but as high powers.
            limits = (memory * running / tiles, chain, turn)
            # A wave takes eight microseconds to start, to fill its rings and to empty them.
            time += waves * (sum(limit**5 for limit in limits) ** 0.2 + 8400 / steps)
    return time * (1 + 0.055 * (size - 1))  # thread blocks of a cluster start, wait and leave together


def _thread_blocks_at_once(configuration: Configuration, device: Device) -> int:
    """How many thread blocks a multiprocessor runs, each as fast as if it were alone."""
    # Lines through what the compiler gives. Of 266 relays in resources.csv they place all but four as the
    # compiler's own number would; logits of those four are the same at all times: fewer registers suffice.
    first, each = (66, 1.5) if "backward" in configuration.kernel else (56, 1.1)
    registers = 8 * -(-(first + each * configuration.coefficient_registers) // 8)
    by_registers = REGISTERS // (registers * 32 * configuration.warps)
    by_memory = min(IN_FLIGHT, device.shared_memory) // configuration.shared_bytes
    return max(1, int(min(by_registers, by_memory)))


def _row_cost(configuration: Configuration, width: int) -> float:
    """What rows of a tile cost more than whole lines of 128 bytes do."""
    row = configuration.tile * configuration.element_bytes
    if row >= 128:
        # Rows that begin inside a line lie in two, and neighbouring tiles want the other parts of both.
        return 1.33 if width * configuration.element_bytes % 128 else 1.0
    return 1.03 if row == 64 else 1.26


def _turn(configuration: Configuration, neighbours: int) -> float:
    """What a step costs of a warp's turn, with that many thread blocks on its multiprocessor."""
    latency = 714 * (1.0 if configuration.stages == 1 else 0.33)  # most of it passes in the turn before
    # Ten to thirty instructions for a coefficient, from each warp, on four schedulers.
    work = (3.08 if "backward" in configuration.kernel else 1.58) * configuration.coefficient_registers
    turn = latency + work * configuration.warps * neighbours
    return turn / (configuration.steps * configuration.warps * configuration.cluster)


def _chain(configuration: Configuration) -> float:
    """What a step costs in the chain of states."""
    m, lanes = configuration.block_size, configuration.lanes_per_block
    rows = 1 if configuration.one_row else -(-m // lanes)
    state = configuration.blocks_per_lane * (m if configuration.one_row else rows)
    # In cycles. What H-LRU hands on backward are sums that are still to be added to.
    hand_over = (116 if configuration.one_row and "backward" in configuration.kernel else 104) + 1.1 * state
    step = configuration.blocks_per_lane * (3.1 + 1.13 * rows * m)
    exchange = 37 if lanes > 1 else 0  # of the parts of a sum
    return (hand_over / configuration.steps + step + exchange) / CLOCK


def _ring(configuration: Configuration, tiles: int, steps: int, moved: int, device: Device) -> float:
    """Maps that go round a ring, all tiles at once, or nearly: by memory, or by a turn of the ring."""
    size = configuration.cluster
    waves = -(-tiles // max(1, device.resident_clusters(size)))
    at_once = tiles * size / waves / device.multiprocessors
    # Each tile has a place of its own in time: rows of 32 bytes lose what L2 would keep for others.
    memory = 1.25 * moved / _memory(device) / min(1.0, 0.5 + 0.7 * at_once)
    if tiles > 40 and steps > 16_384 and moved > 15_000:
        memory *= 1.3  # the more tiles, and the longer, the farther apart in time they drift
    turn = _ring_turn(configuration)
    waiting = turn / (2 * configuration.steps * configuration.warps * size)
    start = 4400 + turn / 2
    return (max(memory, waiting * waves) + start * waves / steps) * (1.0 + 0.01 * size)


def _ring_turn(configuration: Configuration) -> float:
    """The turn of a warp of a ring: it computes two chunks, then waits for the state."""
    m = configuration.block_size
    work = (44 if "backward" in configuration.kernel else 23.5) * configuration.coefficient_registers
    teams = configuration.warps // 2 * configuration.cluster
    return 590 + work + 31 * m * m + 29 * teams


def _conducted(configuration: Configuration, tiles: int, steps: int, moved: int, device: Device) -> float:
    """Maps that are conducted: by memory, by a worker's turn, or by the conductor's."""
    size, maps = configuration.cluster, configuration.block_size * (configuration.block_size + 1)
    # Rows of 64 and of 32 bytes; the part of the multiprocessors that draws all that memory gives.
    if "backward" in configuration.kernel:
        rows, enough = (1.2, 1.38), 0.7
        turn = 75 * maps + 62 * configuration.coefficient_registers
        conductor, start = 2.3 * size * maps, 2600
    else:
        rows, enough = (1.05, 1.2), 0.55
        turn = 1260 + 63 * maps + 17.6 * configuration.coefficient_registers
        conductor, start = 200 + 2.3 * size * maps, 4600
    memory = rows[configuration.chunks == 2] * moved / _memory(device)
    memory /= min(1.0, tiles * size / device.multiprocessors / enough)
    of_group = configuration.chunks * configuration.steps * configuration.warps // configuration.groups * size
    limits = (memory, turn / (of_group * configuration.groups), conductor / of_group)
    return sum(limit**4 for limit in limits) ** 0.25 + (start + turn) / steps


def _memory(device: Device) -> float:
    """Bytes in a nanosecond where maps are composed: 3 TB/s on 132 multiprocessors."""
    return 23.0 * device.multiprocessors
