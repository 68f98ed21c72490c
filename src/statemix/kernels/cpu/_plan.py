"""What one call has to do, cut into tasks: stretches of time times tiles of columns."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ._simd import LANES

SERIAL_WORK = 1 << 16
"""Gate logits below which a call runs on the calling thread: waking another costs about as much."""

TILE_LOGITS = 20 * 1024
"""Gate logits (and their gradients) that a tile touches in one step.

They are asked for a step ahead and must stay in the L2 cache until then; wider tiles also read longer
stretches of memory, which counts for more than the L1 cache does.
"""

NARROWEST = 4 * LANES
"""Columns of a tile, at least."""

SUMS = 16
"""Partial sums, at most, for the gradient of gates that are the same at every step."""


@dataclass(frozen=True)
class Plan:
    """Segments (batch row, start, stop, state, place in the table of sums), and tasks over them.

    A task is ``(first segment, one past the last, first column, columns)``.
    """

    segments: np.ndarray
    tasks: tuple[tuple[int, int, int, int], ...]
    states: int


def make_plan(
    shape: torch.Size, logits_per_column: int, cu_seqlens: Tensor | None, sums: int | None = None
) -> Plan:
    """Cut a call into tasks.

    ``shape`` is that of the values. ``sums`` is the number of partial sums of the gates' gradient, if it
    is summed at all: the segments of one sum then stay together and in order, whatever the number of threads.
    """
    threads = torch.get_num_threads()
    if cu_seqlens is None:
        return _plan(shape[0], shape[1], shape[-1], logits_per_column, sums, threads)
    bounds = cu_seqlens.numpy().astype(np.int64)
    return _cut(_packed_segments(bounds), bounds[-1], shape[-1], logits_per_column, sums, threads)


@functools.lru_cache(maxsize=256)
def _plan(batch: int, time: int, columns: int, logits: int, sums: int | None, threads: int) -> Plan:
    rows = np.arange(batch, dtype=np.int64)
    segments = np.stack([rows, np.zeros_like(rows), np.full_like(rows, time), rows, np.zeros_like(rows)], 1)
    return _cut(segments, batch * time, columns, logits, sums, threads)


def _packed_segments(bounds: np.ndarray) -> np.ndarray:
    zeros = np.zeros(len(bounds) - 1, np.int64)
    return np.stack([zeros, bounds[:-1], bounds[1:], np.arange(len(zeros)), zeros], 1)


def _cut(segments: np.ndarray, steps: int, columns: int, logits: int, sums: int | None, threads: int) -> Plan:
    count = len(segments)
    serial = threads == 1 or steps * columns * logits <= SERIAL_WORK
    wanted = 1 if serial else 2 * threads
    if sums is None:
        segments[:, 4] = segments[:, 0]
        runs = _even_runs(segments, 1 if serial else 4 * threads)
    else:
        segments[:, 4] = np.arange(count) * sums // count
        edges = np.searchsorted(segments[:, 4], np.arange(sums + 1))
        runs = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    tiles = max(-(-columns * logits // TILE_LOGITS), -(-wanted // len(runs)))
    width = max(-(-columns // (tiles * LANES)) * LANES, NARROWEST)
    tasks = tuple(
        (first, last, column, min(width, columns - column))
        for first, last in runs
        for column in range(0, columns, width)
    )
    return Plan(segments, tasks, count)


def _even_runs(segments: np.ndarray, pieces: int) -> list[tuple[int, int]]:
    """Consecutive segments with about the same number of steps each."""
    ends = np.cumsum(segments[:, 2] - segments[:, 1])
    targets = ends[-1] * np.arange(1, pieces) / pieces
    edges = np.unique([0, *(np.searchsorted(ends, targets, side="left") + 1), len(segments)])
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
