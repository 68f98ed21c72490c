"""What is never rounded to half precision: gates, states and sums."""

from __future__ import annotations

import torch
from torch import Tensor


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 for float64 inputs."""
    return torch.promote_types(dtype, torch.float32)


def wide(x: Tensor) -> Tensor:
    """x in the dtype of states."""
    return x.to(state_dtype(x.dtype))
