"""Where something was computed, and with what."""

from __future__ import annotations

import os
import platform

import numpy
import torch

from statemix import __version__
from statemix.machine import cpu_name


def machine() -> list[tuple[str, str]]:
    """(name, value) pairs: versions, system, device."""
    cores = os.cpu_count() or 1
    device = f"{cpu_name()}, {cores} core{'s' if cores > 1 else ''}"
    if torch.cuda.is_available():
        device = f"{torch.cuda.get_device_name()}; {device}"
    return [
        ("statemix", __version__),
        ("PyTorch", torch.__version__),
        ("NumPy", numpy.__version__),
        ("Python", platform.python_version()),
        ("system", f"{platform.system()} {platform.release()}"),
        ("device", device),
    ]
