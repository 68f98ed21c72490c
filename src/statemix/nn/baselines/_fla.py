"""Where the kernels of flash-linear-attention run instead of plain PyTorch."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor

from statemix.ops.counters import count

from .base import is_transformed

BACKENDS = ("auto", "torch", "fla")
SHORTEST = 16


def takes_fla(operation: str, backend: str, x: Tensor) -> bool:
    """Whether fla's kernel runs on ``x`` (B, T, ...), and count what does.

    "auto" takes it for half-precision sequences of 16 steps or more on a CUDA device where the package is
    installed, outside torch.func transforms; for less a launch costs more than the work. fla's kernels
    refuse float32.

    Raises:
        ValueError: "fla" where it cannot run, with the reason.
    """
    fits = x.is_cuda and x.dtype in (torch.bfloat16, torch.float16) and not is_transformed()
    if backend == "fla" and not (fits and _installed()):
        reason = (
            "flash-linear-attention is not installed: pip install flash-linear-attention"
            if not _installed()
            else f"it needs bfloat16 or float16 on a CUDA device, outside torch.func; got {x.dtype} on "
            f"{x.device}"
        )
        raise ValueError(f"{operation}: backend 'fla' cannot run: {reason}")
    takes = backend == "fla" or (backend == "auto" and fits and x.shape[1] >= SHORTEST and _installed())
    if not torch.compiler.is_compiling():
        count(operation, "forward", "fla" if takes else "torch")
    return takes


def kernel(module: str, name: str) -> Any:
    """A function of fla, imported when it is first used: Triton comes with it."""
    return getattr(importlib.import_module(f"fla.ops.{module}"), name)


@cache
def _installed() -> bool:
    return importlib.util.find_spec("fla") is not None
