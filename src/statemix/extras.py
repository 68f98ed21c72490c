"""Packages that a bare install leaves out: the extra that brings each, and what is said without it."""

from __future__ import annotations

import importlib
from typing import Any

EXTRA_OF = {
    "tyro": "train", "rich": "train", "tensorboard": "train",
    "tokenizers": "data", "pyarrow": "data", "datasets": "data", "zstandard": "data",
    "transformers": "hf", "accelerate": "hf",
    "ray": "cluster", "submitit": "cluster",
}  # fmt: skip
"""The name of an extra of statemix by that of a package in it."""


def not_installed(package: str) -> str:
    """That a package is missing, and how to get it.

    Examples:
        >>> not_installed("tyro"), not_installed("numba")
        ("tyro is not installed; pip install 'statemix[train]'", 'numba is not installed; pip install numba')
    """
    wanted = f"'statemix[{EXTRA_OF[package]}]'" if package in EXTRA_OF else package
    return f"{package} is not installed; pip install {wanted}"


def import_extra(module: str, needed_by: str, *, package: str = "", otherwise: str = "") -> Any:
    """A module of a package that may be missing.

    Args:
        module: its dotted name. needed_by: what is said to need it.
        package: what it needs. Default: the first part of its own name.
        otherwise: what to do without it.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to get it.
    """
    package = package or module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        said = ", or ".join(filter(None, [not_installed(package), otherwise]))
        raise ModuleNotFoundError(f"{needed_by} needs {package}, but {said}", name=missing.name) from None
