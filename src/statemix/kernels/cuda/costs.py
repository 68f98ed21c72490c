"""What a step should take with a configuration: the larger of what memory and the way of the state cost.

Fitted to an H100; good enough to order configurations, and checked against the measured tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .configurations import Configuration, Device


def step_nanoseconds(
    configuration: Configuration, batch: int, steps: int, width: int, device: Device
) -> float:
    """Nanoseconds that one step of all sequences should take."""
    size = configuration.cluster
    tiles = batch * -(-width // configuration.tile)
    chunks = -(-steps // (configuration.steps * configuration.chunks))
    waves = 1 if configuration.gathers else -(-tiles // max(1, device.resident_clusters(size)))
    # Five sixths of the multiprocessors are enough to keep the memory busy.
    share = min(1.0, tiles * size / waves / device.multiprocessors / 0.83)
    memory = _memory(configuration, batch, width, device)
    cost = max(memory / share, _waiting(configuration, chunks) * waves)
    # Maps are gathered where it clearly helps.
    return cost * (1.15 if configuration.gathers else 1.0 + 0.01 * size)


def _memory(configuration: Configuration, batch: int, width: int, device: Device) -> float:
    m = configuration.block_size
    elements = (m + 3) * (1 if configuration.one_row else m) * batch * width
    moved = elements * configuration.element_bytes * (2 if "backward" in configuration.kernel else 1)
    row = configuration.tile * configuration.element_bytes
    narrow = {128: 1.0, 64: 1.06}.get(row, 1.25)
    return narrow * moved / (23.0 * device.multiprocessors)  # 3 TB/s on 132 multiprocessors


def _waiting(configuration: Configuration, chunks: int) -> float:
    """What a step costs where only the way of the state limits; a warp takes one of `chunks` at once."""
    m, warps = configuration.block_size, configuration.warps * configuration.cluster
    length = chunks * configuration.chunks * configuration.steps
    if configuration.gathers:
        work = (60 if "backward" in configuration.kernel else 16) * configuration.coefficient_registers
        turn = 3000 + work + 75 * m * (m + 1)
        return turn * (-(-chunks // warps) + 0.5) / length
    chain = _chain(configuration)
    if configuration.chunks == 2:
        # A warp's own work on its two chunks, which cannot be hidden where warps are as few.
        turn = 900 + 25 * configuration.coefficient_registers
        chain = max(chain, turn / (2 * configuration.steps * warps))
    return chain + 3000 / length  # until the ring is full


def _chain(configuration: Configuration) -> float:
    """What a step costs in the chain of states: measured on an H100 at 1.98 GHz, 120 cycles a hand-over."""
    m, lanes = configuration.block_size, configuration.lanes_per_block
    if configuration.chunks == 2:
        return (105 + 5 * m * m) / (2 * configuration.steps) / 1.98
    if configuration.one_row:
        hand_over = 180 if "backward" in configuration.kernel else 120
        multiply_adds = 2 + 1.5 * m * configuration.blocks_per_lane
        return (hand_over / configuration.steps + multiply_adds) / 1.98
    multiply_adds = 1.7 * -(-m // lanes) * m * configuration.blocks_per_lane + (30 if lanes > 1 else 0)
    return (120 / configuration.steps + multiply_adds) / 1.98
