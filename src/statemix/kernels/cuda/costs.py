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
    waves = 1 if configuration.gathers else -(-tiles // max(1, device.resident_clusters(size)))
    at_once = tiles * size / waves / device.multiprocessors
    memory = _memory(configuration, batch, width, device, at_once)
    if configuration.composes:
        turn, start = _turn(configuration), (2250 if configuration.gathers else 4400)
        waiting = turn / (2 * configuration.steps * configuration.warps * size)
        start += turn / 2
    else:
        waiting, start = _chain(configuration) + 3000 / steps, 0  # until the ring is full
    return (max(memory, waiting * waves) + start * waves / steps) * (1.0 + 0.01 * size)


def _memory(configuration: Configuration, batch: int, width: int, device: Device, at_once: float) -> float:
    """What reading and writing costs on that share of the multiprocessors, `at_once`."""
    m = configuration.block_size
    elements = (m + 3) * (1 if configuration.one_row else m) * batch * width
    moved = elements * configuration.element_bytes * (2 if "backward" in configuration.kernel else 1)
    row = configuration.tile * configuration.element_bytes
    if not configuration.composes:
        narrow = {128: 1.0, 64: 1.06}.get(row, 1.25)
        # Five sixths of the multiprocessors are enough to keep the memory busy.
        share = min(1.0, at_once / 0.83)
    else:
        # Each tile has a place of its own in time: rows of 32 bytes lose what L2 would keep for others.
        narrow, share = 1.25, min(1.0, 0.5 + 0.7 * at_once)
        if configuration.gathers:
            narrow, share = 1.37, min(1.0, at_once / 0.83)
    return narrow * moved / (23.0 * device.multiprocessors) / share  # 3 TB/s on 132 multiprocessors


def _turn(configuration: Configuration) -> float:
    """The turn of a warp that composes maps: it computes two chunks, then waits for the state."""
    m = configuration.block_size
    backward = "backward" in configuration.kernel
    if configuration.gathers:
        work = (79 if backward else 43) * configuration.coefficient_registers
        return 860 + work + 45 * m * (m + 1) + 111 * configuration.cluster
    work = (44 if backward else 23.5) * configuration.coefficient_registers
    teams = configuration.warps // 2 * configuration.cluster
    return 590 + work + 31 * m * m + 29 * teams


def _chain(configuration: Configuration) -> float:
    """What a step costs in the chain of states: measured on an H100 at 1.98 GHz, 120 cycles a hand-over."""
    m, lanes = configuration.block_size, configuration.lanes_per_block
    if configuration.one_row:
        hand_over = 180 if "backward" in configuration.kernel else 120
        multiply_adds = 2 + 1.5 * m * configuration.blocks_per_lane
    else:
        hand_over = 120
        multiply_adds = 1.7 * -(-m // lanes) * m * configuration.blocks_per_lane + (30 if lanes > 1 else 0)
    return (hand_over / configuration.steps + multiply_adds) / 1.98
