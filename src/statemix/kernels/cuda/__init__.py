"""NVIDIA GPUs: CUDA C++ templates (.cuh), compiled by NVRTC when first used and kept on disk.

Importing this package needs neither a GPU nor ``cuda.bindings``. The kernels have been run on compute
capability 9.0; for 8.0, 8.6, 8.9, 10.0 and 12.0 they are compiled in the tests and have not been run.

How to read the sources: ``arguments.cuh`` explains the letters, ``relay.cuh`` the one idea (warps hand the
state on), ``bdlru_forward.cuh`` the loop that all kernels share; ``configurations.py`` says which runs when.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

import torch

from statemix.kernels.cuda.configurations import LARGEST, kernel_for

__all__ = ["kernel_for", "unavailable_reason"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def unavailable_reason(
    device: torch.device | str, *, family: str, order_or_block_size: int, dtype: torch.dtype
) -> str | None:
    """Why these kernels cannot run a problem, as a sentence with the remedy; None if they can."""
    device = torch.device(device)
    if device.type != "cuda":
        return f"the CUDA kernels need an NVIDIA GPU; the tensors are on {device.type!r}: move them to 'cuda'"
    if dtype not in _DTYPES:
        return f"the CUDA kernels take float32, bfloat16, float16; got {dtype}: use backend='reference'"
    if not 1 <= order_or_block_size <= LARGEST[family]:
        what = "block_size" if family == "bdlru" else "order"
        return (
            f"the CUDA kernels hold {what} up to {LARGEST[family]} in registers; got {order_or_block_size}: "
            "use backend='reference'"
        )
    if device.index is None and torch.cuda.is_available():
        return _device_reason(torch.cuda.current_device())
    return _device_reason(device.index or 0)


@lru_cache(maxsize=64)
def _device_reason(index: int) -> str | None:
    if not torch.cuda.is_available():
        return "PyTorch sees no NVIDIA GPU: install a CUDA build of torch and a driver"
    if torch.version.hip is not None:
        return "the CUDA kernels need an NVIDIA GPU; this PyTorch is built for ROCm"
    capability = torch.cuda.get_device_capability(index)
    if capability < (8, 0):
        return (
            f"the CUDA kernels need compute capability 8.0; GPU {index} has {capability[0]}.{capability[1]}: "
            "use backend='triton' or 'reference'"
        )
    try:
        missing = find_spec("cuda.bindings") is None
    except ModuleNotFoundError:
        missing = True
    if missing:
        return "cuda-bindings is missing: pip install 'cuda-bindings>=13,<14' 'nvidia-cuda-nvrtc>=13,<14'"
    from statemix.kernels.cuda import compiler

    try:
        compiler.nvrtc_identity()
    except ImportError as error:
        return f"{error}: pip install nvidia-cuda-nvrtc"
    return None
