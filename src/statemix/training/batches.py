"""From a step to its batches on the device: cut for workers and accumulation, made ahead of time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from statemix.ops.checks import remember_boundaries
from statemix.tasks import IGNORED, Batch
from statemix.text import Packed

from .config import RunConfig
from .data import Source
from .shard_data import ShardSource


class DeviceBatch(NamedTuple):
    """What one forward pass reads.

    inputs, targets: (B, T), or (1, R * T) with cu_seqlens. length: tokens of a row. asked: targets that
    are not ignored.
    """

    inputs: Tensor
    targets: Tensor
    cu_seqlens: Tensor | None
    length: int
    asked: int


def batches_of_step(
    source: Source, config: RunConfig, step: int, worker: int, workers: int
) -> list[DeviceBatch]:
    """The batches, on the CPU, that a worker goes through one after the other before it moves weights.

    Together those of all workers are the batch of the step, whatever their number.
    """
    pieces = workers * config.accumulate
    rows = config.batch_size // pieces
    found = []
    whole: Batch | None = None
    arguments: dict[str, Any] = {
        "batch_size": config.batch_size, "seed": config.seed, "steps": config.steps
    }  # fmt: skip
    for piece in range(worker * config.accumulate, (worker + 1) * config.accumulate):
        some = slice(piece * rows, (piece + 1) * rows)
        if isinstance(source, ShardSource):
            found.append(_measured(source.batch(step, **arguments, rows=some)))
        else:
            whole = whole or source.batch(step, **arguments)
            found.append(_measured(Batch(whole.inputs[some], whole.targets[some])))
    return found


def check_batch_size(config: RunConfig, workers: int) -> None:
    """Raise unless a batch can be cut into equal pieces."""
    pieces = workers * config.accumulate
    if config.batch_size % pieces:
        raise ValueError(
            f"config: batch_size must be a multiple of {pieces} ({workers} workers x accumulate "
            f"{config.accumulate}); got {config.batch_size}"
        )


def ahead(
    make: Callable[[int], list[DeviceBatch]], steps: range, device: torch.device, *, depth: int = 2
) -> Generator[list[DeviceBatch], None, None]:
    """The batches of ``steps`` on the device, made by a thread while the steps before them run.

    Args:
        depth: steps that are ready at most; 0 makes each when it is asked for, without a thread.

    An error in the thread is raised where its step is asked for. Closing the iterator ends the thread.
    """
    if not depth:
        for step in steps:
            yield [_on(device, batch) for batch in make(step)]
        return
    ready: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()
    pin = device.type == "cuda"

    def work() -> None:
        for step in steps:
            try:
                found: Any = [_pinned(batch) if pin else batch for batch in make(step)]
            except BaseException as error:
                found = error
            while not stop.is_set():
                try:
                    ready.put(found, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if stop.is_set() or isinstance(found, BaseException):
                return

    thread = threading.Thread(target=work, name="statemix-batches", daemon=True)
    thread.start()
    try:
        for _ in steps:
            found = ready.get()
            if isinstance(found, BaseException):
                raise found
            yield [_on(device, batch) for batch in found]
    finally:
        stop.set()
        thread.join()


def _measured(batch: Batch | Packed) -> DeviceBatch:
    asked = int((batch.targets != IGNORED).sum())
    if isinstance(batch, Packed):
        return DeviceBatch(batch.inputs, batch.targets, batch.cu_seqlens, batch.length, asked)
    return DeviceBatch(batch.inputs, batch.targets, None, batch.inputs.shape[1], asked)


def _pinned(batch: DeviceBatch) -> DeviceBatch:
    bounds = None if batch.cu_seqlens is None else batch.cu_seqlens.pin_memory()
    return batch._replace(
        inputs=batch.inputs.pin_memory(), targets=batch.targets.pin_memory(), cu_seqlens=bounds
    )


def _on(device: torch.device, batch: DeviceBatch) -> DeviceBatch:
    bounds = batch.cu_seqlens
    if bounds is not None:
        bounds = bounds.to(device, non_blocking=True)
        # They were made right: reading them back would make every step wait for the one before it.
        remember_boundaries(bounds, batch.inputs.shape[1])
    return batch._replace(
        inputs=batch.inputs.to(device, non_blocking=True),
        targets=batch.targets.to(device, non_blocking=True),
        cu_seqlens=bounds,
    )
