"""What looks at the operations that run, or changes them: compilers, transforms, autocast."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def is_rewritten() -> bool:
    """Whether a compiler, a torch.func transform, a dispatch mode or forward-mode AD is at work.

    They need plain operations: a function with a backward of its own is a wall to them.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
    )


def is_autocast(device: torch.device) -> bool:
    """Whether products on this device are made in the dtype of autocast, which knows no meta device."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)
