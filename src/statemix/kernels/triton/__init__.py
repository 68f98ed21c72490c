"""GPUs without CUDA C++ (AMD, Intel): the recurrences in plain Triton. Correct, small, and slower.

How to read the sources: ``normalization.py`` has the arithmetic of a row, ``bdlru.py`` and ``hlru.py`` three
kernels each, ``scan.py`` launches them.

Importing this package does not import Triton. Tensors on the CPU run only in Triton's interpreter, which is
for tests and is chosen by ``TRITON_INTERPRET=1`` before Triton is imported.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

import torch

__all__ = ["unavailable_reason"]

LARGEST = {"bdlru": 32, "hlru": 128}
"""Largest block size and order: a tile of coefficients must fit the registers of a program."""

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_INSTALL = "pip install triton (builds of torch for CUDA, ROCm and XPU bring theirs)"
_ON_THE_CPU = (
    "Triton compiles for GPUs, and these tensors are on the CPU: use backend='auto' (for tests, "
    "Triton's interpreter takes them where TRITON_INTERPRET=1 is set before Triton is imported)"
)


def unavailable_reason(
    device: torch.device | str, *, family: str, order_or_block_size: int, dtype: torch.dtype
) -> str | None:
    """Why these kernels cannot run a problem, as a sentence with the remedy; None if they can."""
    device = torch.device(device)
    if dtype not in _DTYPES:
        return f"the Triton kernels take float32, bfloat16, float16; got {dtype}: use backend='reference'"
    if not 1 <= order_or_block_size <= LARGEST[family]:
        what = "block_size" if family == "bdlru" else "order"
        return (
            f"the Triton kernels hold {what} up to {LARGEST[family]} in registers; "
            f"got {order_or_block_size}: use backend='reference'"
        )
    if device.type not in ("cuda", "xpu", "cpu"):
        return f"Triton has no compiler for {device.type!r}: use backend='reference'"
    return _device_reason(device.type, device.index)


@lru_cache(maxsize=64)
def _device_reason(kind: str, index: int | None) -> str | None:
    if kind != "cpu" and not torch.get_device_module(kind).is_available():
        vendors = "NVIDIA or AMD" if kind == "cuda" else "Intel"
        return f"PyTorch sees no {vendors} GPU: install a build of torch for it and its driver"
    if find_spec("triton") is None:
        return f"Triton is not installed: {_INSTALL}"
    if kind == "cpu":
        return None if _interpreted() else _ON_THE_CPU
    if kind == "cuda" and torch.version.hip is None:
        capability = torch.cuda.get_device_capability(index)
        if capability < (7, 5):
            return (
                "Triton needs compute capability 7.5; the GPU has "
                f"{capability[0]}.{capability[1]}: use backend='reference'"
            )
    return None


def _interpreted() -> bool:
    """Whether kernels run in the interpreter: that is decided where they are decorated."""
    from triton.runtime.interpreter import InterpretedFunction

    from .normalization import weigh

    return isinstance(weigh, InterpretedFunction)
