"""Where norms and activations run as one Triton kernel each way instead of PyTorch's operations."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from statemix.nn.transforms import is_transformed

# Below this many numbers a launch is what takes the time, and Triton's is no shorter than PyTorch's.
FUSED_FROM = 2**20


def runs_triton(x: Tensor) -> bool:
    """Whether a Triton kernel can take the place of operations on ``x``: on a GPU, and eagerly.

    A compiler fuses the plain operations by itself.
    """
    return x.is_cuda and not torch.compiler.is_compiling() and find_spec("triton") is not None


def runs_fused(x: Tensor) -> bool:
    """Whether a kernel of ours runs on ``x``: it can, and there are enough numbers for it to be worth it.

    Transforms of ``torch.func`` need the plain operations.
    """
    return x.is_cuda and x.numel() >= FUSED_FROM and runs_triton(x) and not is_transformed()
