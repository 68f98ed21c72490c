"""Where the kernels of flash-linear-attention run instead of plain PyTorch."""

from __future__ import annotations

import importlib
import importlib.util
import re
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from statemix.extras import not_installed
from statemix.ops.counters import count

from ..transforms import is_transformed

BACKENDS = ("auto", "torch", "fla")
SHORTEST = 16


def takes_fla(operation: str, backend: str, x: Tensor, *, gated: bool = True) -> bool:
    """Whether fla's kernel runs on ``x`` (B, T, ...), and count what does.

    "auto" takes it for half-precision sequences of 16 steps or more on a CUDA device where the package is
    installed, outside torch.func transforms; for less a launch costs more than the work. fla's kernels
    refuse float32. ``gated`` kernels decay their state by a gate; where Triton miscompiles these, "auto"
    warns once and takes PyTorch.

    Raises:
        ValueError: "fla" where it cannot run, with the reason.
    """
    fits = x.is_cuda and x.dtype in (torch.bfloat16, torch.float16) and not is_transformed()
    takes = backend == "fla" or (backend == "auto" and fits and x.shape[1] >= SHORTEST)
    reason = _obstacle(x, fits, gated) if takes else None
    if backend == "fla" and reason is not None:
        raise ValueError(f"{operation}: backend 'fla' cannot run: {reason}")
    if takes and reason is not None:
        takes = False
        if _installed():
            _warn_once(f"{operation}: plain PyTorch runs instead of flash-linear-attention: {reason}")
    if not torch.compiler.is_compiling():
        count(operation, "forward", "fla" if takes else "torch")
    return takes


def _obstacle(x: Tensor, fits: bool, gated: bool) -> str | None:
    """Why fla's kernel cannot run, or None."""
    if not _installed():
        return not_installed("flash-linear-attention")
    if not fits:
        needed = "it needs bfloat16 or float16 on a CUDA device, outside torch.func"
        return f"{needed}; got {x.dtype} on {x.device}"
    return _miscompiled() if gated else None


@cache
def _miscompiled() -> str | None:
    """Why gated kernels of fla cannot run backward here, or None.

    fla refuses them itself, but in the backward pass only, when it is too late to take another way.
    """
    triton = importlib.import_module("triton").__version__
    release = tuple(int(part) for part in re.findall(r"\d+", triton)[:3])
    hopper = torch.cuda.get_device_capability()[0] == 9
    if hopper and (3, 4, 0) <= release < (3, 7, 1) and importlib.util.find_spec("tilelang") is None:
        return (
            f"Triton {triton} makes wrong code of its gated backward kernels on Hopper GPUs: install "
            f"triton>=3.7.1, or tilelang"
        )
    return None


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def kernel(module: str, name: str) -> Any:
    """A function of fla, imported when it is first used: Triton comes with it."""
    return getattr(importlib.import_module(f"fla.ops.{module}"), name)


@cache
def _installed() -> bool:
    return importlib.util.find_spec("fla") is not None
