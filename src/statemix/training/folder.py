"""The folder of a run: refused early where it cannot serve, and all that is needed to repeat the run."""

from __future__ import annotations

import contextlib
import errno
import json
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from statemix.files import LOCK, is_occupied, locked, write_json

from .checkpoint import KEPT
from .config import RunConfig, differences, from_json, to_json

CONFIG, ENVIRONMENT, RESULT = "config.json", "environment.json", "result.json"
CHECKPOINTS = "checkpoints"
END_TOKEN_FILE = "end_token.json"
"""The number of the token that ends a document, beside tokenizer.json; alone where tokens are bytes."""

_SPARE_BYTES = 16 * 2**20


class RunFolderError(RuntimeError):
    """A run folder that cannot serve; the message has its path, the reason and what to do."""


@contextlib.contextmanager
def prepared_folder(
    path: Path, config: RunConfig, *, resume: bool, weight_bytes: int, text_sha256: str | None = None
) -> Iterator[None]:
    """The folder of a run, made or reopened before any training; while entered, no other process writes it.

    Args:
        weight_bytes: of the model, from which follows what its checkpoints take.
        text_sha256: checksum of the text that is trained on, which is kept and compared.

    Raises:
        RunFolderError: it cannot be written, its disk is too full, it is occupied, another process trains
            there, or (to resume) it holds no run, or a run of another config or on other text.
    """
    _check_content(path, config, resume, text_sha256)
    with contextlib.ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(
                locked(
                    path / LOCK,
                    RunFolderError(
                        f"run folder {path}: another process trains this run now; wait for it, or stop it"
                    ),
                )
            )
            _write_something(path)
        except OSError as error:
            full = error.errno == errno.ENOSPC
            what = "its disk is full" if full else f"it cannot be written ({error.strerror})"
            raise RunFolderError(f"run folder {path}: {what}; choose another with --out") from None
        _check_room(path, weight_bytes)
        if not resume:
            # Another process may have begun, and ended, a run here since.
            _check_content(path, config, resume, text_sha256)
            write_json(path / CONFIG, to_json(config))
            write_json(path / ENVIRONMENT, environment(config) | {"text_sha256": text_sha256})
        yield


def check_own(path: Path, own: Iterable[str]) -> None:
    """Raise :class:`RunFolderError` unless a folder of many runs is empty, or holds one of its ``own``."""
    if is_occupied(path) and not any((path / name).exists() for name in own):
        raise RunFolderError(
            f"folder {path}: it holds something else, and nothing is written over; choose another with --out"
        )


def _check_content(path: Path, config: RunConfig, resume: bool, text_sha256: str | None) -> None:
    """Raise unless what is there is the run that is asked for, or nothing."""
    occupied = is_occupied(path)
    if resume and not occupied:
        raise RunFolderError(f"run folder {path}: there is no run to resume; leave out resume to start one")
    if occupied and not resume:
        raise RunFolderError(
            f"run folder {path}: it is not empty, and no run is written over; resume it or choose another"
        )
    if resume:
        unlike = differences(read_config(path), config)
        if unlike:
            raise RunFolderError(
                f"run folder {path}: its run has another config ({'; '.join(unlike[:5])}); resume it as it is"
            )
        before = _text_sha256(path)
        if before is not None and text_sha256 is not None and before != text_sha256:
            raise RunFolderError(
                f"run folder {path}: its text has changed (SHA-256 {before[:16]} when it began, "
                f"{text_sha256[:16]} now); put it back as it was, or start another run"
            )


def read_config(path: str | Path) -> RunConfig:
    """The config of the run in a folder.

    Raises:
        RunFolderError: there is none, or it cannot be read.

    Examples:
        >>> from statemix.training import TaskData, train
        >>> config = RunConfig(steps=1, data=TaskData(test_lengths=(8,), test_examples=8))
        >>> _ = train(config, out="run", progress=False)
        >>> read_config("run").steps
        1
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        raise RunFolderError(f"run folder {path}: it holds no {CONFIG}, so no run of statemix")
    try:
        return from_json(json.loads(file.read_bytes()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunFolderError(f"run folder {path}: {CONFIG} cannot be read: {error}") from None


def read_result(path: str | Path) -> dict[str, Any] | None:
    """How the run in a folder ended; None while it has not, and where that cannot be read.

    Examples:
        >>> from statemix.training import TaskData, train
        >>> config = RunConfig(steps=1, data=TaskData(test_lengths=(8,), test_examples=8))
        >>> _ = train(config, out="finished-run", progress=False)
        >>> read_result("finished-run")["status"]
        'finished'
    """
    try:
        found = json.loads((Path(path) / RESULT).read_bytes())
    except (OSError, ValueError):
        return None  # the last checkpoint is whole: a run that goes on from it says it again
    return found if isinstance(found, dict) and {"status", "step", "scores"} <= found.keys() else None


def environment(config: RunConfig) -> dict[str, Any]:
    """Versions, machine and command, to repeat a run with."""
    from statemix import __version__

    return {
        "statemix": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "seed": config.seed,
        "command": sys.argv,
    }


def _text_sha256(path: Path) -> str | None:
    """The checksum of the text that a run began with, where it is known."""
    try:
        return json.loads((path / ENVIRONMENT).read_bytes()).get("text_sha256")
    except (OSError, ValueError, AttributeError):
        return None  # it only says what the run was made with


def _write_something(path: Path) -> None:
    probe = path / ".probe"
    probe.write_bytes(b"x" * 4096)
    probe.unlink()


def _check_room(path: Path, weight_bytes: int) -> None:
    free = shutil.disk_usage(path).free
    # Weights and two moments, in the checkpoints that are kept and in the one that is being written.
    needed = 3 * weight_bytes * (KEPT + 1) + _SPARE_BYTES
    if free < needed:
        raise RunFolderError(
            f"run folder {path}: {free / 2**20:.0f} MiB are free on its disk and the run needs "
            f"{needed / 2**20:.0f} for its checkpoints; make room or choose another with --out"
        )
