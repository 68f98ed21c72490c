"""What a number depends on, so that it can be written beside it."""

from __future__ import annotations

import datetime
import functools
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

import torch

from statemix import __version__
from statemix.files import write_table, write_whole
from statemix.machine import cpu_name


def device_name(device: torch.device) -> str:
    """The card, or the processor and how many threads work on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


def versions() -> str:
    """Of this package, PyTorch and Python."""
    return f"statemix {__version__}, torch {torch.__version__}, Python {platform.python_version()}"


@functools.cache
def commit() -> str | None:
    """The commit of a checkout; None for an installed package."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def describe(device: torch.device, command: str) -> list[str]:
    """Lines for the head of a table: command, device, versions, date."""
    cuda = f", CUDA {torch.version.cuda}" if device.type == "cuda" else ""
    return [
        f"command: {command}",
        f"device: {device_name(device)}",
        f"versions: {versions()}{cuda}",
        f"date: {datetime.date.today().isoformat()}",
    ]


def write_csv(path: Path, rows: Iterable[dict[str, object]], head: list[str]) -> None:
    """Write rows as CSV, and what made them as text beside it, each whole."""
    found = list(rows)
    shown = [{k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in found]
    write_table(path, list(found[0]), shown)
    write_whole(path.with_suffix(".txt"), ("\n".join(head) + "\n").encode())
