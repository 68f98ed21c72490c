"""What every launch needs: the device that it runs on, and how many programs cover a tensor."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device: make it the tensors'."""
    return nullcontext() if device.type == "cpu" else torch.get_device_module(device).device(device)


def ceil_div(total: int, part: int) -> int:
    """How many parts cover the total."""
    return -(-total // part)


def power_of_two(size: int) -> int:
    """The smallest power of two that is not below ``size``: what ranges in a kernel have to be."""
    return 1 << (size - 1).bit_length()
