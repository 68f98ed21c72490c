"""``statemix doctor``: what is installed, what can run and why not, where compiled kernels lie.

It needs nothing beyond a bare install, because a broken one is when it is asked for.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import torch

from statemix import __version__
from statemix.machine import cpu_name
from statemix.ops import BACKENDS, backend_for
from statemix.ops.dispatch import FAMILIES, unavailable_reason

from . import FAILED

Row = tuple[str, str]

_PACKAGES = (
    "torch", "numpy", "numba", "llvmlite", "safetensors", "jaxtyping", "triton", "cuda-bindings",
    "nvidia-cuda-nvrtc", "tyro", "rich", "tensorboard", "transformers",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Print the findings; 0 unless the fast backend of a device that is here cannot run."""
    parser = argparse.ArgumentParser(
        prog="statemix doctor", description="Print versions, backends, caches and devices."
    )
    parser.parse_args(argv)
    troubles, notes = [], []
    for title, rows in (
        ("versions", versions()),
        ("devices", devices()),
        ("backends", backends()),
        ("compiled kernels", caches()),
    ):
        print(_section(title, rows))
    for device in present_devices():
        taken = backend_for(device)
        if taken == "reference":
            troubles.append(f"on {device} only the slow reference runs; see backends")
        elif taken == "triton":
            there_is_better = device.type == "cuda" and torch.version.hip is None
            said = f"on {device} the portable Triton kernels run, slower than CUDA C++; see backends"
            (troubles if there_is_better else notes).append(said)
    print("\n".join([*troubles, *notes] or ["Every device that is here has fast kernels."]))
    return FAILED if troubles else 0


def versions() -> list[Row]:
    """Python, statemix and the packages that it uses or can use."""
    rows = [("python", f"{platform.python_version()} ({sys.executable})"), ("statemix", __version__)]
    for package in _PACKAGES:
        try:
            rows.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            rows.append((package, "not installed"))
    cuda = torch.version.cuda or "none: this build of torch is for the CPU"
    return [*rows, ("CUDA of torch", cuda), ("NVIDIA driver", _driver())]


def present_devices() -> list[torch.device]:
    """Every device on which tensors can live here."""
    found = [torch.device("cpu")]
    if torch.cuda.is_available():
        found += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if torch.xpu.is_available():
        found.append(torch.device("xpu"))
    if torch.backends.mps.is_available():
        found.append(torch.device("mps"))
    return found


def devices() -> list[Row]:
    """Processors and GPUs, with the threads that kernels may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = [
        ("cpu", f"{cpu_name()}, {usable} of {os.cpu_count()} cores usable"),
        ("threads", f"{torch.get_num_threads()} (torch.set_num_threads; kernels obey it)"),
        ("system", platform.platform()),
    ]
    for device in present_devices():
        if device.type == "cuda":
            card = torch.cuda.get_device_properties(device)
            memory = card.total_memory / 2**30
            kind = getattr(card, "gcnArchName", "") or f"sm_{card.major}{card.minor}"
            rows.append((str(device), f"{card.name}, {kind}, {memory:.0f} GiB"))
        elif device.type != "cpu":
            rows.append((str(device), "present"))
    return rows


def backends() -> list[Row]:
    """Whether each backend runs on the device that it is made for, else why not; and what "auto" takes."""
    here = {device.type: device for device in reversed(present_devices())}
    accelerator = here.get("cuda") or here.get("xpu") or torch.device("cuda")
    rows = []
    for backend in BACKENDS[1:]:
        device = torch.device("cpu") if backend in ("reference", "cpu") else accelerator
        reasons = {
            family: unavailable_reason(backend, device, family=family, size=4, dtype=torch.float32)
            for family in FAMILIES
        }
        distinct = set(reasons.values())
        if distinct == {None}:
            rows.append((backend, "runs"))
        elif len(distinct) == 1:
            rows.append((backend, f"cannot run: {distinct.pop()}"))
        else:
            rows += [(f"{backend}, {family}", reason or "runs") for family, reason in reasons.items()]
    rows += [(f"auto on {device}", backend_for(device, order_or_block_size=4)) for device in here.values()]
    return rows


def caches() -> list[Row]:
    """Folders of compiled kernels, with what is in them."""
    rows = []
    for name, folder, pattern in (
        ("cpu", _numba_folder(), "*.nb[ic]"),
        ("cuda", _folder_of("statemix.kernels.cuda.cache"), "*"),
        ("triton", _triton_folder(), "*/*"),
    ):
        if isinstance(folder, str):
            rows.append((name, folder))
            continue
        files = [file for file in folder.glob(pattern) if file.is_file()] if folder.is_dir() else []
        size = sum(file.stat().st_size for file in files) / 2**20
        held = f"{len(files)} files, {size:.1f} MiB" if files else "empty: kernels compile when first used"
        rows.append((name, f"{folder} ({held})"))
    return rows


def _numba_folder() -> Path | str:
    try:
        kernels = importlib.import_module("statemix.kernels.cpu.bdlru")
    except ImportError as error:
        return f"not looked for: {error}"
    for value in vars(kernels).values():
        path = getattr(getattr(value, "stats", None), "cache_path", None)
        if path:
            return Path(path)
    return "none: numba found no folder that it may write to; set NUMBA_CACHE_DIR"


def _folder_of(module: str) -> Path | str:
    try:
        return importlib.import_module(module).directory()
    except ImportError as error:
        return f"not looked for: {error}"


def _triton_folder() -> Path:
    """Triton's own cache, which statemix shares with everything else that uses it."""
    home = Path(os.environ.get("TRITON_HOME") or Path.home())
    return Path(os.environ.get("TRITON_CACHE_DIR") or home / ".triton" / "cache")


def _driver() -> str:
    try:
        first = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return "none found"
    return next((word for word in first.split() if word[:1].isdigit() and "." in word), first)


def _section(title: str, rows: Iterable[Row]) -> str:
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows), ""])
