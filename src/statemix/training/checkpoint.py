"""Checkpoints that are whole or absent, are checked before they are used, and resume exactly.

    checkpoints/step-00000200/
        weights.safetensors      the model's parameters and buffers
        optimizer.safetensors    AdamW's moments, and the state of PyTorch's random numbers
        state.json               step, running means, and the size and SHA-256 of the other two

A checkpoint is written beside its place and moved there by one rename, so a run that is killed at any
moment leaves the one before it as it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

FORMAT = 1
KEPT = 2
"""Checkpoints that stay when another is written."""

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message has its path and the reason."""


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, progress: dict[str, Any]
) -> Path:
    """Write the checkpoint of ``step`` under ``folder`` and drop all but the last :data:`KEPT`.

    Raises:
        OSError: the disk is full or the folder cannot be written; earlier checkpoints are as they were.
    """
    files = {
        WEIGHTS: save(_on_cpu(model.state_dict()), metadata={"format": "pt"}),
        OPTIMIZER: save(_on_cpu(_optimizer_tensors(model, optimizer) | _random_tensors(model))),
    }
    state: dict[str, Any] = {"format": FORMAT, "step": step, "progress": progress}
    state["files"] = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    }
    state["sha256"] = _digest(state)
    files[STATE] = json.dumps(state, indent=1).encode()

    target = folder / f"step-{step:08d}"
    temporary = folder / f".{target.name}.writing"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        for name, data in files.items():
            _write(temporary / name, data)
        _sync(temporary)
        if target.exists():
            # Only a checkpoint that was refused stands here: set it aside, it may be looked at.
            aside = folder / f"refused-{target.name}"
            shutil.rmtree(aside, ignore_errors=True)
            target.rename(aside)
        temporary.rename(target)
        _sync(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = f"checkpoint not written, the ones before it are kept: {error.strerror or error}"
        raise OSError(error.errno or 0, reason, str(target)) from None
    for old in [path for at, path in _checkpoints(folder) if at <= step][:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; None where there is none at all.

    Newer ones that are damaged are named in a warning and left where they are.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    refused: list[str] = []
    for _, path in reversed(_checkpoints(folder)):
        try:
            _read_whole(path)
        except CheckpointError as error:
            refused.append(str(error))
            continue
        for reason in refused:
            warnings.warn(f"{reason}; going on from {path.name}", RuntimeWarning, stacklevel=2)
        return path
    if refused:
        raise CheckpointError("; ".join(refused) + "; no good one is left")
    return None


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> tuple[int, dict[str, Any]]:
    """Load weights, and with ``optimizer`` its moments and the random numbers' state; give step and progress.

    Everything is read and checked before anything is changed.

    Raises:
        CheckpointError: damaged, or the weights of another model, with what differs.
    """
    state, files = _read_whole(path)
    weights = _tensors(path / WEIGHTS, files[WEIGHTS])
    _check_same(path / WEIGHTS, weights, model.state_dict())
    if optimizer is not None:
        saved = _tensors(path / OPTIMIZER, files[OPTIMIZER])
        by_name = _optimizer_state(path / OPTIMIZER, saved, model)
        _load_optimizer(model, optimizer, by_name)
        torch.set_rng_state(saved["random/cpu"])
        device = next(model.parameters()).device
        if device.type == "cuda" and "random/cuda" in saved:
            torch.cuda.set_rng_state(saved["random/cuda"], device)
    model.load_state_dict(weights)
    return state["step"], state["progress"]


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    named = ((re.fullmatch(r"step-(\d+)", path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in named if match)


def _read_whole(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    try:
        state = json.loads((path / STATE).read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path / STATE} cannot be read: {error}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint {path / STATE} is not of format {FORMAT}; another program wrote it"
        )
    if state.pop("sha256", None) != _digest(state):
        raise CheckpointError(f"checkpoint {path / STATE} is damaged: its checksum does not fit")
    files = {}
    for name, expected in state["files"].items():
        try:
            data = (path / name).read_bytes()
        except OSError as error:
            raise CheckpointError(f"checkpoint {path / name} cannot be read: {error}") from None
        if len(data) != expected["bytes"]:
            raise CheckpointError(
                f"checkpoint {path / name} is damaged: {len(data)} bytes, written with {expected['bytes']}"
            )
        if hashlib.sha256(data).hexdigest() != expected["sha256"]:
            raise CheckpointError(f"checkpoint {path / name} is damaged: its checksum does not fit")
        files[name] = data
    return state, files


def _tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    try:
        return load(data)
    except SafetensorError as error:
        raise CheckpointError(f"checkpoint {path} is no safetensors file: {error}") from None


def _check_same(path: Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is unknown" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        there, here = found[name], expected[name]
        if there.shape != here.shape or there.dtype != here.dtype:
            sizes = f"{there.dtype} {tuple(there.shape)} there and {here.dtype} {tuple(here.shape)} here"
            problems.append(f"{name} is {sizes}")
    if problems:
        shown = "; ".join(sorted(problems)[:5]) + ("; ..." if len(problems) > 5 else "")
        raise CheckpointError(f"checkpoint {path} is of another model ({len(problems)} differences): {shown}")


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{moment}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for moment in _MOMENTS
    }


def _optimizer_state(path: Path, saved: dict[str, Tensor], model: nn.Module) -> dict[str, dict[str, Tensor]]:
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, tensor in saved.items():
        name, _, moment = key.rpartition("/")
        if name != "random":
            by_name.setdefault(name, {})[moment] = tensor
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, moments in by_name.items():
        if set(moments) != set(_MOMENTS) or shapes.get(name) != moments["exp_avg"].shape:
            raise CheckpointError(f"checkpoint {path} is of another model: {name} does not fit")
    return by_name


def _load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, by_name: dict[str, dict[str, Tensor]]
) -> None:
    """Through the optimizer's own format, which numbers parameters in the order of its groups."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    ordered = [name_of[id(p)] for group in optimizer.param_groups for p in group["params"]]
    whole = optimizer.state_dict()
    whole["state"] = {number: by_name[name] for number, name in enumerate(ordered) if name in by_name}
    optimizer.load_state_dict(whole)


def _random_tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors, device = {"random/cpu": torch.get_rng_state()}, next(model.parameters()).device
    if device.type == "cuda":
        tensors["random/cuda"] = torch.cuda.get_rng_state(device)
    return tensors


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make renames inside a folder last; Windows has no such call for folders."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
