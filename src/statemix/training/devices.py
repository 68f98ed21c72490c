"""Where a run computes, and what it borrows of its process meanwhile: random numbers and threads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes the first GPU, else the CPU.

    Raises:
        ValueError: there is no such device here.

    Examples:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r}: there is no such kind; give auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r}: this machine has {torch.cuda.device_count()} GPUs; give cpu")
    if device.type not in ("cpu", "cuda"):
        here = torch.accelerator.current_accelerator(check_available=True)
        if here is None or here.type != device.type:
            raise ValueError(f"device {name!r}: this machine has none; give auto, cpu, cuda or cuda:1")
    return device


@contextlib.contextmanager
def own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Within it PyTorch draws from ``seed`` on; afterwards it goes on where it was."""
    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def set_cpu_threads(count: int) -> None:
    """From here on PyTorch and the kernels run on so many threads.

    Raises:
        ValueError: there are far fewer processors; PyTorch would end the process where it cannot have them.
    """
    processors = os.cpu_count() or 1
    most = max(64, 4 * processors)
    if count > most:
        raise ValueError(
            f"threads: this machine has {processors} processors, and more than {most} threads only wait for "
            f"each other; got {count}"
        )
    torch.set_num_threads(count)


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Within it PyTorch and the kernels run on so many threads; 0 leaves them as they are."""
    if not count:
        yield
        return
    before = torch.get_num_threads()
    set_cpu_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
