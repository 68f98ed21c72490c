"""What looks at the operations that run, or changes them: compilers, transforms, autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
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


def is_transformed() -> bool:
    """Whether a torch.func transform runs, for which PyTorch's fused kernels may have no rule.

    Always False while torch.compile traces: there a caller chooses the backend.
    """
    transforms: Any = getattr(torch._C, "_functorch")  # noqa: B009  not in torch's type stubs
    return not torch.compiler.is_compiling() and transforms.peek_interpreter_stack() is not None


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor is more than a shape: what depends on its numbers can be computed."""
    return not tensor.is_meta and not isinstance(tensor, FakeTensor)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which products keep the dtype of what they are given: recurrences need float32."""
    if x.is_meta:  # autocast knows no such device
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)
