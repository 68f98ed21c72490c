"""CUDA C++ to machine code with NVRTC, when a kernel is first needed; through the cache on disk.

NVRTC and its binding (``cuda.bindings``) are installed with PyTorch's CUDA builds. Nothing here needs a GPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from statemix.kernels.cuda import cache

_OPTIONS = ("--std=c++17", "--restrict", "--extra-device-vectorization", "--ptxas-options=-v")
_HEADERS = Path(__file__).parent
_KNOWN = (80, 86, 87, 89, 90, 100, 103, 110, 120, 121)  # targets that every NVRTC 13 has


class CompilationError(RuntimeError):
    """NVRTC refused a kernel; the message holds its log and the source of the instantiation."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What ptxas reports of a kernel."""

    registers: int
    spill_bytes: int


@lru_cache(maxsize=1)
def headers() -> dict[str, str]:
    """The package's .cuh files by name."""
    return {path.name: path.read_text() for path in sorted(_HEADERS.glob("*.cuh"))}


@lru_cache(maxsize=1)
def _toolchain() -> str:
    """A digest of what goes into every kernel: the headers, the options and the compiler."""
    return cache.key(*headers().values(), *_OPTIONS, nvrtc_identity())


@lru_cache(maxsize=1)
def nvrtc_version() -> tuple[int, int]:
    """Version of the NVRTC library; raises ImportError if the library or its binding is missing."""
    try:
        from cuda.bindings import nvrtc  # pyright: ignore[reportAttributeAccessIssue]

        status, major, minor = nvrtc.nvrtcVersion()
    except Exception as error:  # the binding raises errors of its own when the library is missing
        raise ImportError(f"NVRTC cannot be loaded: {error}") from error
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise ImportError(f"NVRTC cannot be used: {status}")
    return major, minor


@lru_cache(maxsize=1)
def nvrtc_identity() -> str:
    """The compiler's version for the cache: the installed package's, so that a hit loads no compiler."""
    for package in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return f"NVRTC {nvrtc_version()}"


@lru_cache(maxsize=1)
def _supported() -> tuple[int, ...]:
    from cuda.bindings import nvrtc  # pyright: ignore[reportAttributeAccessIssue]

    _, count = nvrtc.nvrtcGetNumSupportedArchs()
    _, archs = nvrtc.nvrtcGetSupportedArchs()
    return tuple(archs[:count])


def target(capability: tuple[int, int]) -> str:
    """The ``--gpu-architecture`` for a device: its own machine code, or PTX for one newer than NVRTC.

    >>> target((9, 0))
    'sm_90'
    """
    number = capability[0] * 10 + capability[1]
    if number in _KNOWN or number in _supported():
        return f"sm_{number}"
    return f"compute_{max(arch for arch in _supported() if arch < number)}"


def compile(source: str, target: str, *, driver_version: int = 0) -> bytes:
    """Machine code (PTX for a ``compute_`` target) of one translation unit, from the cache if it is there."""
    name = cache.key(source, _toolchain(), target, str(driver_version))
    code = cache.load(name)
    if code is None:
        code, _ = compile_with_log(source, target)
        cache.store(name, code)
    return code


def compile_with_log(source: str, target: str) -> tuple[bytes, str]:
    """Compiles without the cache and returns the machine code and the compiler's log."""
    from cuda.bindings import nvrtc  # pyright: ignore[reportAttributeAccessIssue]

    success = nvrtc.nvrtcResult.NVRTC_SUCCESS
    files = headers()
    status, program = nvrtc.nvrtcCreateProgram(
        source.encode(),
        b"statemix.cu",
        len(files),
        [text.encode() for text in files.values()],
        [name.encode() for name in files],
    )
    if status != success:
        raise CompilationError(f"NVRTC could not take the program: {status}")
    try:
        options = [option.encode() for option in (*_OPTIONS, f"--gpu-architecture={target}")]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = bytearray(size)
        nvrtc.nvrtcGetProgramLog(program, log)
        text = log.decode(errors="replace").rstrip("\0\n")
        if status != success:
            raise CompilationError(
                f"NVRTC {nvrtc_version()} could not compile a kernel for {target} ({status}).\n"
                f"{text}\n\n{source}"
            )
        if target.startswith("sm_"):
            _, size = nvrtc.nvrtcGetCUBINSize(program)
            code = bytearray(size)
            nvrtc.nvrtcGetCUBIN(program, code)
        else:
            _, size = nvrtc.nvrtcGetPTXSize(program)
            code = bytearray(size)
            nvrtc.nvrtcGetPTX(program, code)
        return bytes(code), text
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def resources(log: str) -> Resources:
    """Reads ptxas's report out of a compiler log."""

    def number(pattern: str) -> int:
        found = re.search(pattern, log)
        if found is None:
            raise ValueError(f"no resource report in the compiler's log: {log!r}")
        return int(found.group(1))

    return Resources(
        registers=number(r"Used (\d+) registers"),
        spill_bytes=number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
    )
