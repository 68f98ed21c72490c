"""Loads compiled kernels and launches them on PyTorch's current stream.

Kernels take one structure by value. It is packed into a buffer that each thread keeps: no objects are built.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from functools import cache, lru_cache
from typing import Any

import torch

from statemix.kernels.cuda import compiler
from statemix.kernels.cuda.configurations import Configuration, Device
from statemix.kernels.cuda.costs import USUAL_MEMORY

#: `Arguments` and `GateGradientArguments` of the .cuh files: fields of 8 bytes, in this order.
ARGUMENT_FIELDS = (
    *("gate_logits", "values", "hidden", "grad_hidden", "output", "grad_gates"),
    *("initial_state", "carry_in", "carry_out", "cu_seqlens", "exchange"),
    *("logits_batch", "logits_time", "logits_row", "logits_line"),
    *("values_batch", "values_time", "values_line"),
    *("grad_batch", "grad_time", "grad_line", "T", "N", "output_time", "gates_time"),
)
GATE_GRADIENT_FIELDS = (
    *("gate_logits", "values", "hidden", "state_gradient", "partial", "initial_state", "cu_seqlens"),
    *("logits_batch", "logits_time", "logits_row", "logits_line"),
    *("values_batch", "values_time", "values_line"),
    *("B", "T", "N", "logits_B", "logits_T", "parts"),
)
_MAX_FIELDS = 32


class LaunchError(RuntimeError):
    """The CUDA driver refused to load or launch a kernel."""


class _Parameters(threading.local):
    """A thread's argument buffer and the array with its address that the driver wants."""

    def __init__(self) -> None:
        self.buffer = ctypes.create_string_buffer(8 * _MAX_FIELDS)
        self.array = (ctypes.c_void_p * 1)(ctypes.addressof(self.buffer))
        self.address = ctypes.addressof(self.array)


_parameters = _Parameters()
_PACKERS = {count: struct.Struct(f"{count}q") for count in (len(ARGUMENT_FIELDS), len(GATE_GRADIENT_FIELDS))}


@lru_cache(maxsize=1)
def _driver():
    from cuda.bindings import driver  # pyright: ignore[reportAttributeAccessIssue]

    return driver


def _checked(result: tuple, what: str) -> Any:
    status, *values = result
    if status != _driver().CUresult.CUDA_SUCCESS:
        raise LaunchError(f"statemix: {what} failed with {status.name}")
    return values[0] if values else None


@lru_cache(maxsize=1)
def driver_version() -> int:
    """Version of the CUDA driver, 13000 for 13.0."""
    return _checked(_driver().cuDriverGetVersion(), "cuDriverGetVersion")


class _Thread(threading.local):
    """The device whose context this thread is known to have."""

    device = -1


_thread = _Thread()


def _make_current(device_index: int) -> None:
    """Gives this thread the device's primary context, which PyTorch's runtime calls share.

    A thread of the autograd engine has none as long as PyTorch finds its memory in its own cache.
    """
    driver = _driver()
    device = _checked(driver.cuDeviceGet(device_index), "cuDeviceGet")
    context = _checked(driver.cuDevicePrimaryCtxRetain(device), "asking for the device's context")
    _checked(driver.cuCtxSetCurrent(context), "taking the device's context")
    _thread.device = device_index


@lru_cache(maxsize=64)
def device_properties(index: int) -> Device:
    """What the configuration rule must know of CUDA device `index`."""
    properties = torch.cuda.get_device_properties(index)
    return Device(
        (properties.major, properties.minor),
        properties.multi_processor_count,
        properties.shared_memory_per_block_optin,
        # Two transfers a clock (in kHz) on each line of the bus; a driver that does not tell says 0.
        2 * properties.memory_clock_rate * properties.memory_bus_width // 8_000_000 or USUAL_MEMORY,
    )


class Kernel:
    """One compiled kernel, loaded for one device."""

    def __init__(
        self, source: str, device_index: int, *, threads: int, shared_bytes: int, cooperative: bool = False
    ) -> None:
        driver = _driver()
        torch.cuda.init()
        target = compiler.target(device_properties(device_index).capability)
        code = compiler.compile(source, target, driver_version=driver_version())
        # A library belongs to no context: one handle serves every device of this architecture.
        library = _checked(driver.cuLibraryLoadData(code, [], [], 0, [], [], 0), "loading a compiled kernel")
        self._library = library
        kernel = _checked(driver.cuLibraryGetKernel(library, b"statemix_kernel"), "finding a kernel")
        device = _checked(driver.cuDeviceGet(device_index), "cuDeviceGet")
        if shared_bytes > 48 * 1024:
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _checked(
                driver.cuKernelSetAttribute(attribute, shared_bytes, kernel, device),
                f"asking for {shared_bytes} bytes of shared memory",
            )
        self._function = driver.CUfunction(int(kernel))
        # A cooperative kernel's thread blocks wait for each other: all of them are on the device, or none.
        self._launch = driver.cuLaunchCooperativeKernel if cooperative else driver.cuLaunchKernel
        self._no_extra = () if cooperative else (0,)
        self._device_index = device_index
        self._threads = threads
        self._shared_bytes = shared_bytes

    def launch(self, blocks: int, arguments: tuple[int, ...]) -> None:
        """Launches on the current stream of the kernel's device, which must be the current device."""
        if _thread.device != self._device_index:
            _make_current(self._device_index)
        parameters = _parameters
        _PACKERS[len(arguments)].pack_into(parameters.buffer, 0, *arguments)
        stream = torch._C._cuda_getCurrentRawStream(self._device_index)
        (status,) = self._launch(
            self._function,
            blocks,
            1,
            1,
            self._threads,
            1,
            1,
            self._shared_bytes,
            stream,
            parameters.address,
            *self._no_extra,
        )
        if status != 0:
            raise LaunchError(f"statemix: launching {blocks} thread blocks failed with {status.name}")


@cache
def scan_kernel(configuration: Configuration, device_index: int) -> Kernel:
    """The loaded kernel of a configuration; compiles it the first time."""
    return Kernel(
        configuration.source(),
        device_index,
        threads=32 * configuration.warps,
        shared_bytes=configuration.shared_bytes,
        cooperative=configuration.conducted,
    )


GATE_GRADIENT_THREADS = 128


def gate_gradient_source(family: str, block_size: int, dtype: str, normalization: str) -> str:
    """The translation unit of the kernel that sums the gradient of broadcast logits."""
    from statemix.kernels.cuda.configurations import ELEMENT_TYPES

    window = "true" if family == "hlru" else "false"
    return f"""#include "gate_gradient.cuh"
extern "C" __global__ void __launch_bounds__({GATE_GRADIENT_THREADS})
    statemix_kernel(const __grid_constant__ GateGradientArguments arguments) {{
    gate_gradient<{ELEMENT_TYPES[dtype]}, {block_size}, Normalization::{normalization}, {window}>(arguments);
}}
"""


@cache
def gate_gradient_kernel(
    family: str, block_size: int, dtype: str, normalization: str, device_index: int
) -> Kernel:
    """The loaded kernel that sums the gradient of broadcast logits."""
    source = gate_gradient_source(family, block_size, dtype, normalization)
    return Kernel(source, device_index, threads=GATE_GRADIENT_THREADS, shared_bytes=0)
