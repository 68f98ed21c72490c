"""Which backend runs: one small decision, said aloud."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import operator
import warnings
from types import ModuleType

import torch
from torch import Tensor

from statemix.extras import not_installed

from .checks import DTYPES, check_choice, check_device, check_size

FAMILIES = ("bdlru", "hlru")
BACKENDS = ("auto", "reference", "cpu", "cuda", "triton")

# Best first. A device type that is not here has the reference alone.
_CANDIDATES = {"cpu": ("cpu",), "cuda": ("cuda", "triton"), "xpu": ("triton",)}
_SLOWER = {"triton": "portable Triton kernels, slower than CUDA C++,"}


def backend_for(
    tensor_or_device: Tensor | torch.device | str,
    *,
    family: str = "bdlru",
    order_or_block_size: int = 1,
    dtype: torch.dtype | None = None,
) -> str:
    """Name the backend that ``backend="auto"`` takes for such inputs.

    Args:
        tensor_or_device: a tensor (its device and dtype count) or a device.
        family: "bdlru" or "hlru".
        order_or_block_size: M.
        dtype: of logits and values; default the tensor's, or float32.

    Raises:
        ValueError: an unknown family or device, or a size below 1. TypeError: a dtype that the operators
            do not take.

    Examples:
        >>> backend_for("cpu")
        'cpu'
    """
    check_choice("backend_for", "family", family, FAMILIES)
    size = check_size("backend_for", "order_or_block_size", order_or_block_size)
    if isinstance(tensor_or_device, Tensor):
        device = tensor_or_device.device
        dtype = dtype or tensor_or_device.dtype
    else:
        device = check_device("backend_for", tensor_or_device)
    dtype = dtype or torch.float32
    if dtype not in DTYPES:
        raise TypeError(f"backend_for: dtype must be one of {DTYPES}; got {dtype!r}")
    return _automatic(device.type, device.index, family, size, dtype)[0]


def resolve_backend(
    operation: str, backend: str, device: torch.device, family: str, size: int, dtype: torch.dtype
) -> str:
    """The backend that will run, after every reason against it was looked at.

    An explicit backend that cannot run raises, and so do kernels under torch.jit.trace. "auto" takes the best
    one that can, and warns once where that is slower than the device deserves.
    """
    chosen = _resolve(operation, backend, device.type, device.index, family, operator.index(size), dtype)
    if chosen != "reference" and torch.jit.is_tracing():
        raise RuntimeError(
            f"{operation}: torch.jit.trace cannot record the {chosen} kernels: take torch.export.export, or "
            f"backend='reference', of which it records the steps of this one length"
        )
    return chosen


def _resolve(
    operation: str,
    backend: str,
    device_type: str,
    device_index: int | None,
    family: str,
    size: int,
    dtype: torch.dtype,
) -> str:
    """The choice itself, which a compiler makes once while it traces."""
    if backend == "auto":
        name, why_slow = _automatic(device_type, device_index, family, size, dtype)
        if why_slow is not None:
            slow = _SLOWER.get(name, "slow reference")
            warn_once(f"{operation}: backend='auto' takes the {slow} on {device_type}: {why_slow}")
        return name
    check_choice(operation, "backend", backend, BACKENDS)
    reason = _reason(backend, device_type, device_index, family, size, dtype)
    if reason is not None:
        raise ValueError(f"{operation}: backend={backend!r} cannot run here: {reason}")
    return backend


# What torch.compiler.assume_constant_result does, without its import of the compiler (0.9 s).
_resolve._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _reason(
    backend: str, device_type: str, device_index: int | None, family: str, size: int, dtype: torch.dtype
) -> str | None:
    device = _device(device_type, device_index)
    return unavailable_reason(backend, device, family=family, size=size, dtype=dtype)


def _device(device_type: str, index: int | None) -> torch.device:
    return torch.device(device_type) if index is None else torch.device(device_type, index)


def unavailable_reason(
    backend: str, device: torch.device, *, family: str, size: int, dtype: torch.dtype
) -> str | None:
    """None where the backend can run such inputs, else a sentence with the remedy."""
    if backend == "reference":
        return None
    if backend == "cpu":
        if device.type != "cpu":
            return f"it needs tensors on the CPU, and these are on {device}; use backend='auto'"
        if importlib.util.find_spec("numba") is None:
            return not_installed("numba")
        return None
    if importlib.util.find_spec(f"statemix.kernels.{backend}") is None:
        return f"this version of statemix ships no {backend} kernels; use backend='auto'"
    folder = importlib.import_module(f"statemix.kernels.{backend}")
    return folder.unavailable_reason(device, family=family, order_or_block_size=size, dtype=dtype)


@functools.cache
def kernels(backend: str, family: str) -> ModuleType:
    """The module that computes a family on a backend, imported when it is first used."""
    return importlib.import_module(f"statemix.kernels.{backend}.{family}")


@functools.cache
def _automatic(
    device_type: str, device_index: int | None, family: str, size: int, dtype: torch.dtype
) -> tuple[str, str | None]:
    """What "auto" takes, and why where that is slower than one would expect of the device."""
    device = _device(device_type, device_index)
    reasons = []
    for backend in _CANDIDATES.get(device_type, ()):
        reason = unavailable_reason(backend, device, family=family, size=size, dtype=dtype)
        if reason is None:
            why_slow = "; ".join(reasons) or "CUDA C++ runs on NVIDIA GPUs alone"
            return backend, why_slow if backend in _SLOWER else None
        reasons.append(f"{backend}: {reason}")
    if device_type == "meta":
        return "reference", None
    return "reference", "; ".join(reasons) or "it has no kernels for this device"


@functools.cache
def warn_once(message: str) -> None:
    """Say what a caller of the operators should know, the first time alone."""
    warnings.warn(message, RuntimeWarning, stacklevel=4)
