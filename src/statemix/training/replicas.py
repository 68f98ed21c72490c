"""Many small runs trained as one: seeds, learning rates and decays side by side.

Tiny models leave a GPU idle, and wait for the launch of their many small kernels. Here K runs share them,
and on a GPU the whole step is captured as a CUDA graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from statemix.models import LanguageModel, make_model

from .config import RunConfig, differences
from .devices import choose_device, cpu_threads, own_random_numbers
from .loop import TrainResult
from .metrics import Observer
from .progress import make_progress
from .replica_group import ReplicaGroup
from .run import wants_bfloat16
from .shard_data import ShardData
from .signals import StopRequests
from .stacked import StackedModels

FREE_FIELDS = ("name", "seed", "optimizer", "schedule")
"""What replicas of one group may differ in."""


def groupable(one: RunConfig, other: RunConfig) -> bool:
    """Whether two runs can be replicas of one group: all that differs is in :data:`FREE_FIELDS`.

    Examples:
        >>> groupable(RunConfig(), RunConfig(seed=1)), groupable(RunConfig(), RunConfig(steps=7))
        (True, False)
    """
    # Packed documents have their own boundaries in every run.
    return not isinstance(one.data, ShardData) and not _other_differences(one, other)


def train_replicas(
    configs: Sequence[RunConfig],
    *,
    out: str | Path | None = None,
    resume: bool = False,
    capture: bool | None = None,
    workers: int | None = None,
    time_limit: float | None = None,
    observers: Sequence[Observer] = (),
    progress: bool = True,
) -> list[TrainResult]:
    """Train several configs as one batched model, each as :func:`train` would, within rounding.

    Layers that draw random numbers in training (``gate_noise``, ``block_dropout``) draw others than alone,
    each replica its own.

    Args:
        configs: alike but for name, seed, optimizer and schedule. Of ``steps``, batches and the rest there is
            one for all. ``compile`` compiles the whole step; ``accumulate``, ``gradient_checkpointing`` and
            ``recompute_gates``, which save memory, change nothing here.
        out: a folder for metrics, checkpoints and results of the group. Nothing is written without it.
        resume: go on with the group in ``out``.
        capture: replay each step as a CUDA graph. Default: on a GPU where the model can be captured.
        workers: processes of the loader that make batches, which train nothing (unlike the workers of
            torchrun). Default: some on a GPU, none on a CPU.
        time_limit: seconds after which training stops, to be resumed: status "interrupted".
        observers: hear a row of means over the replicas, see :class:`Observer`.
        progress: show a bar, or lines where the output is no terminal.

    Returns:
        A result for each config, in order. A replica whose loss or gradient is no number is frozen at its
        last good weights and comes back as "diverged"; the others go on. ``evaluations`` holds validation
        scores, the last of them made at the end; ``seconds`` is what training the whole group took.

    Raises:
        ValueError: no config, configs that cannot be one group, with what differs, or ``resume`` without
            ``out``. TypeError: a config that stands in no list.
        RunFolderError, CheckpointError, OSError: as in :func:`train`.

    Examples:
        >>> from statemix.models import MixerConfig, ModelConfig
        >>> from statemix.training import TaskData
        >>> model = ModelConfig(d_model=8, mixer=MixerConfig(block_size=2))
        >>> data = TaskData(test_lengths=(32,), test_examples=16)
        >>> configs = [RunConfig(model=model, data=data, steps=2, seed=seed) for seed in range(3)]
        >>> [result.step for result in train_replicas(configs, progress=False)]
        [2, 2, 2]
    """
    if isinstance(configs, RunConfig):
        raise TypeError("train_replicas: configs must be a list of RunConfig; got one: write [config]")
    if resume and out is None:
        raise ValueError("train_replicas: resume=True goes on with the group in out; give out, its folder")
    configs = [config.resolved() for config in configs]
    _check_group(configs)
    first = configs[0]
    folder = None if out is None else Path(out)
    device = choose_device(first.device)
    if capture and device.type != "cuda":
        raise ValueError(f"train_replicas: capture needs a CUDA device; got {device}: leave it out")
    with contextlib.ExitStack() as stack:
        stack.enter_context(cpu_threads(first.threads))
        models = [_initialized(config, device) for config in configs]
        # What layers draw in training begins at the same place in every run of a group.
        stack.enter_context(own_random_numbers(first.seed, device))
        state = StackedModels(models, configs, bfloat16=wants_bfloat16(first, device))
        group = ReplicaGroup(configs, cast(LanguageModel, models[0]), state, folder)
        if folder is not None:
            stack.enter_context(group.opened(folder, resume))
        observers = [*([make_progress()] if progress else []), *observers]
        for observer in observers:
            stack.callback(observer.close)
        stop = StopRequests() if folder is None else stack.enter_context(StopRequests())
        status = group.train(device, observers, stop, capture=capture, loaders=workers, time_limit=time_limit)
        return group.finish(status, stop.signal)


def _initialized(config: RunConfig, device: torch.device) -> torch.nn.Module:
    """The model of a run as :func:`train` draws it."""
    # What is computed twice to save memory cannot be mapped over replicas, and gives the same numbers.
    mixer = replace(config.model.mixer, recompute_gates=False)
    model = replace(config.model, gradient_checkpointing=False, mixer=mixer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return make_model(model).to(device)


def _other_differences(one: RunConfig, other: RunConfig) -> list[str]:
    same = {name: getattr(one, name) for name in FREE_FIELDS}
    return differences(one, replace(other, **same))


def _check_group(configs: Sequence[RunConfig]) -> None:
    if not configs:
        raise ValueError("train_replicas: configs must hold at least one run; got none")
    if isinstance(configs[0].data, ShardData):
        raise ValueError(
            "train_replicas: replicas train on tasks and texts; train a run on shards with train()"
        )
    for config in configs[1:]:
        unlike = _other_differences(configs[0], config)
        if unlike:
            raise ValueError(
                f"train_replicas: replicas may differ in {', '.join(FREE_FIELDS)} only; got "
                f"{'; '.join(unlike[:5])}: train them in groups of their own"
            )
