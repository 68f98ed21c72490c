"""Processes that train one model together: torchrun starts them, the first of them writes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class WorkerLost(RuntimeError):
    """Another process of the run ended, so that this one cannot go on; that one says why it did."""


class Workers:
    """This process among those of a run; one alone unless torchrun started more.

    rank, size: which of how many. first: whether this one writes files and lines.
    """

    def __init__(self, rank: int = 0, size: int = 1, control: Any = None) -> None:
        self.rank, self.size = rank, size
        self._control = control

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wrapped(self, module: nn.Module, device: torch.device) -> nn.Module:
        """A module whose gradients are averaged over all workers."""
        if self.size == 1:
            return module
        devices = [device] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=devices)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What all workers do at once; where one of them has ended, the others say that and no more.

        Raises:
            WorkerLost: another worker ended.
        """
        try:
            yield
        except RuntimeError as error:
            # Backends differ in the class that they raise, not in that they speak of connections.
            if self.size == 1 or not any(word in str(error) for word in _LOST):
                raise
            raise WorkerLost(
                f"worker {self.rank} (of 0 to {self.size - 1}) stops, since another one ended: what that one "
                f"said, or what killed it, is the reason; a run that had begun can be resumed"
            ) from None

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all workers, on the device that it came on."""
        return self._reduced(value, dist.ReduceOp.SUM) if self.size > 1 else value

    def largest(self, number: int) -> int:
        """The largest of all workers' numbers: what any of them was asked to do, all do."""
        if self.size == 1:
            return number
        return int(self._reduced(torch.tensor(number), dist.ReduceOp.MAX))

    def wait(self) -> None:
        """Until all are here."""
        self.largest(0)

    def _reduced(self, value: Tensor, operation: Any) -> Tensor:
        # Over the host: these are few numbers, and a GPU's stream is not held up by them.
        here = value.detach().cpu().clone()
        with self.together():
            dist.all_reduce(here, operation, group=self._control)
        return here.to(value.device)


_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")


@contextlib.contextmanager
def join_workers(device: str) -> Iterator[tuple[Workers, str]]:
    """The workers that torchrun started, and this one's device: "cuda" becomes its own GPU.

    Examples:
        >>> with join_workers("cpu") as (workers, device):
        ...     workers.size, workers.first, device
        (1, True, 'cpu')
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Workers(), device
        return
    on_gpu = device in ("auto", "cuda") and torch.cuda.is_available()
    if on_gpu:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    mine = not dist.is_initialized()
    if mine:
        dist.init_process_group("nccl" if on_gpu else "gloo")
    control = dist.new_group(backend="gloo")
    try:
        yield Workers(dist.get_rank(), dist.get_world_size(), control), device
    finally:
        if mine:
            dist.destroy_process_group()
