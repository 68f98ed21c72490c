"""Where norms and activations run as one Triton kernel each way instead of PyTorch's operations."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from statemix.nn.transforms import is_transformed

# Below this many numbers a launch is what takes the time, and Triton's is no shorter than PyTorch's.
FUSED_FROM = 2**20


def runs_fused(x: Tensor) -> bool:
    """Whether a kernel of ours runs on ``x``: eagerly, on a GPU, and on enough numbers to be worth it.

    A compiler fuses the plain operations by itself, and transforms of ``torch.func`` need them.
    """
    if not x.is_cuda or x.numel() < FUSED_FROM or torch.compiler.is_compiling() or is_transformed():
        return False
    return find_spec("triton") is not None
