"""One group of a sweep, trained as one, from wherever an earlier attempt had come to."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import replace
from pathlib import Path

import torch

from statemix.bench.environment import device_name
from statemix.files import LOCK, locked
from statemix.training import CheckpointError, RunConfig, read_config, train_replicas
from statemix.training.devices import choose_device
from statemix.training.folder import CHECKPOINTS
from statemix.training.replica_group import REPLICAS
from statemix.training.signals import StopRequests

from .store import SweepFolder

_SECONDS_BETWEEN_LOOKS = 0.5


def run_group(
    path: str | Path, group: str, *, device: str | None = None, time_limit: float | None = None
) -> str:
    """Train a group of the sweep in a folder and write down what came out.

    Args:
        device: where to run, in place of what the configs say.
        time_limit: seconds after which it stops, to be continued by another call.

    Returns:
        "finished" where its trials are done, or "interrupted".
    """
    folder = SweepFolder(path)
    configs = [trial.config for trial in folder.groups[group]]
    if device is not None:
        kind = torch.device(device)
        if kind.index is not None and kind.type == "cuda":
            torch.cuda.set_device(kind)
        # Without its number: a group may go on on another device of the same kind.
        configs = [replace(config, device=kind.type) for config in configs]
    out = folder.run_folder(group)
    began = time.monotonic()
    if out.exists() and not _alone(out, time_limit):
        return "interrupted"
    if group not in folder.pending():
        return "finished"
    if time_limit is not None:
        time_limit -= time.monotonic() - began
    if out.exists() and not _can_go_on(out, configs[0]):
        shutil.rmtree(out)
    try:
        found = train_replicas(configs, out=out, resume=out.exists(), time_limit=time_limit, progress=False)
    except CheckpointError:
        shutil.rmtree(out)
        found = train_replicas(configs, out=out, time_limit=time_limit, progress=False)
    if any(result.status == "interrupted" for result in found):
        return "interrupted"
    folder.finished(group, found, device_name(choose_device(configs[0].device)))
    # Weights of a finished trial are not what a sweep is for, and a grid of them fills a disk.
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return "finished"


def _alone(out: Path, time_limit: float | None) -> bool:
    """Wait for who trains there, such as a job that outlived its sweep; False where that was in vain.

    A signal ends the wait, as it ends the training that would follow.
    """
    end = math.inf if time_limit is None else time.monotonic() + time_limit
    with StopRequests() as stop:
        while True:
            try:
                with locked(out / LOCK, BlockingIOError()):
                    return stop.signal is None
            except BlockingIOError:
                if stop.signal is not None or time.monotonic() >= end:
                    return False
                time.sleep(min(_SECONDS_BETWEEN_LOOKS, max(0.0, end - time.monotonic())))


def _can_go_on(out: Path, config: RunConfig) -> bool:
    """Whether a group's folder is whole, and was begun on this kind of device."""
    if not (out / REPLICAS).is_file():
        return False
    return read_config(out).device == config.device
