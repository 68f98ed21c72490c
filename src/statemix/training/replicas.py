"""Many small runs trained as one: seeds, learning rates and decays side by side.

Tiny models leave a GPU idle, and wait for the launch of their many small kernels. Here K runs share them,
and on a GPU the whole step is captured as a CUDA graph.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from statemix.models import LanguageModel, make_model
from statemix.nn.sharpening import gate_parameters

from .capture import CapturedStep, stream_for
from .checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from .config import RunConfig, differences, from_json, to_json
from .data import open_source
from .evaluation import evaluate
from .folder import CHECKPOINTS, RESULT, RunFolderError, prepared_folder, write_json
from .loop import Status, TrainResult, choose_device, wants_bfloat16
from .metrics import CsvTable, Observer, Row
from .prefetch import stacked_batches
from .progress import make_progress
from .shard_data import ShardData
from .sharpening import sharpen_by_validation
from .signals import StopRequests
from .stacked import StackedModels

FREE_FIELDS = ("name", "seed", "optimizer", "schedule")
"""What replicas of one group may differ in."""

REPLICAS = "replicas.json"


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
        workers: processes that make batches. Default: some on a GPU, none on a CPU.
        time_limit: seconds after which training stops, to be resumed: status "interrupted".
        observers: hear a row of means over the replicas, see :class:`Observer`.
        progress: show a bar, or lines where the output is no terminal.

    Returns:
        A result for each config, in order. A replica whose loss or gradient is no number is frozen at its
        last good weights and comes back as "diverged"; the others go on. ``evaluations`` holds validation
        scores, the last of them made at the end; ``seconds`` is what training the whole group took.

    Raises:
        ValueError: no config, or configs that cannot be one group, with what differs.
        RunFolderError, CheckpointError, OSError: as in :func:`train`.

    Examples:
        >>> from statemix.models import MixerConfig, ModelConfig
        >>> model = ModelConfig(d_model=8, mixer=MixerConfig(block_size=2))
        >>> configs = [RunConfig(model=model, steps=2, seed=seed) for seed in range(3)]
        >>> [result.step for result in train_replicas(configs, progress=False)]
        [2, 2, 2]
    """
    configs = [config.resolved() for config in configs]
    _check_group(configs)
    first = configs[0]
    folder = None if out is None else Path(out)
    device = choose_device(first.device)
    if capture and device.type != "cuda":
        raise ValueError(f"train_replicas: capture needs a CUDA device; got {device}: leave it out")
    with contextlib.ExitStack() as stack:
        if first.threads:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(first.threads)
        models = [_initialized(config, device) for config in configs]
        # What layers draw in training begins at the same place in every run of a group.
        stack.enter_context(torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []))
        torch.manual_seed(first.seed)
        state = StackedModels(models, configs, bfloat16=wants_bfloat16(first, device))
        run = _Group(configs, models[0], state, folder)
        if folder is not None:
            stack.enter_context(run.opened(folder, resume))
        observers = [*([make_progress()] if progress else []), *observers]
        for observer in observers:
            stack.callback(observer.close)
        stop = StopRequests() if folder is None else stack.enter_context(StopRequests())
        status = run.train(device, capture, workers, time_limit, observers, stop)
        return run.finish(status, observers, stop.signal)


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


class _Group:
    """A group between two steps."""

    def __init__(
        self, configs: list[RunConfig], model: Any, state: StackedModels, folder: Path | None
    ) -> None:
        self.configs, self.model, self.state, self.folder = configs, model, state, folder
        self.source = open_source(configs[0].data)
        self.step, self.seconds = 0, 0.0
        self.history: list[list[Row]] = [[] for _ in configs]
        self.evaluations: list[list[Row]] = [[] for _ in configs]
        self.tokens = self.summed_steps = 0
        self.length, self.row_began = 0, 0.0
        # Holds no state of its own: moments and all else are tensors of the stack.
        self.optimizer = torch.optim.SGD([state.weights])
        self._tables: tuple[CsvTable, CsvTable] | None = None

    @contextlib.contextmanager
    def opened(self, folder: Path, resume: bool) -> Iterator[None]:
        """The folder, made or reopened, back at its last good checkpoint; no other process writes it."""
        size = self.state.weights.numel() * self.state.weights.element_size()
        with prepared_folder(folder, self.configs[0], resume=resume, bytes_needed=3 * 3 * size):
            self._open(folder, resume)
            yield

    def _open(self, folder: Path, resume: bool) -> None:
        if not resume:
            write_json(folder / REPLICAS, [to_json(config) for config in self.configs])
        elif not (folder / REPLICAS).is_file() or self.configs != _read_replicas(folder):
            raise RunFolderError(
                f"run folder {folder}: it holds other replicas; resume it with the configs in {REPLICAS}"
            )
        checkpoint = newest_checkpoint(folder / CHECKPOINTS) if resume else None
        if checkpoint is not None:
            self.step, progress = load_checkpoint(checkpoint, self.state, self.optimizer)
            self.tokens, self.summed_steps = progress["tokens"], progress["summed_steps"]
            self.seconds, self.row_began = progress["seconds"], progress["row_began"]
        self._tables = (
            CsvTable(folder / "metrics.csv", self.step),
            CsvTable(folder / "evaluations.csv", self.step),
        )
        for table, kept in zip(self._tables, (self.history, self.evaluations), strict=True):
            for row in table.earlier:
                kept[row.pop("replica")].append(row)

    def train(
        self,
        device: torch.device,
        capture: bool | None,
        workers: int | None,
        time_limit: float | None,
        observers: Sequence[Observer],
        stop: StopRequests,
    ) -> Status:
        config = self.configs[0]
        for observer in observers:
            observer.started(config, self.step)
        if self.step == config.steps:
            return "finished"
        update = self.state.update
        if config.compile:
            # For each length and number of replicas anew: mapped layers cannot be traced with open sizes.
            update = torch.compile(update, dynamic=False)
        if device.type == "cuda" and capture is not False:
            update = CapturedStep(update, device, required=capture is True)
        entered = began = time.perf_counter()
        before = self.seconds
        batches = stacked_batches(self.configs, self.step, device, workers=workers)
        with contextlib.closing(batches), stream_for(device):
            for inputs, targets in batches:
                update(inputs, targets)
                self.step += 1
                self.tokens += inputs.numel()
                self.summed_steps += 1
                self.length = inputs.shape[-1]
                last = self.step == config.steps
                if self.step % config.log_every == 0 or last:
                    alive = self.state.alive.any()  # waits for the device, once a row
                    self.seconds = before + time.perf_counter() - began
                    self._log(observers)
                    if not alive:
                        return "diverged"
                else:
                    self.seconds = before + time.perf_counter() - began
                if config.evaluate_every and self.step % config.evaluate_every == 0 and not last:
                    paused = time.perf_counter()
                    self._evaluate("validation")
                    began += time.perf_counter() - paused
                # Training's own seconds leave evaluations out; a limit does not.
                late = time_limit is not None and time.perf_counter() - entered > time_limit
                if last and config.sharpen_gates:
                    self._sharpen(config.sharpen_gates)
                if self.folder is not None and (
                    last or stop.signal or late or self.step % config.checkpoint_every == 0
                ):
                    self._save(self.folder)
                if (stop.signal or late) and not last:
                    return "interrupted"
        return "finished"

    def finish(self, status: Status, observers: Sequence[Observer], signal: int | None) -> list[TrainResult]:
        """Test what has finished; tell of each replica."""
        scores: list[dict[str, float]] = [{} for _ in self.configs]
        if status == "finished":
            self._evaluate("validation")
            scores = self._evaluate("test")
        results = []
        alive, last_step = self.state.alive.tolist(), self.state.last_step.tolist()
        for i, config in enumerate(self.configs):
            model = cast(LanguageModel, make_model(config.model)).to(self.state.weights.device)
            model.load_state_dict(self.state.replica(i))
            results.append(
                TrainResult(
                    config, model, status if alive[i] else "diverged", last_step[i], self.history[i],
                    self.evaluations[i], scores[i] if alive[i] else {}, self.seconds, self.folder, signal,
                )
            )  # fmt: skip
        if self.folder is not None:
            names = ("status", "step", "scores", "seconds")
            write_json(self.folder / RESULT, [{n: getattr(result, n) for n in names} for result in results])
        for observer in observers:
            observer.finished(results[0])
        return results

    def _log(self, observers: Sequence[Observer]) -> None:
        """A row for each replica that is alive, and their mean for the observers."""
        rows, rates = [], self.state.rates_at(self.step - 1)
        for i, (loss, right, asked, norm) in enumerate(self.state.take_sums().tolist()):
            rows.append(
                {
                    "step": self.step,
                    "loss": loss / self.summed_steps,
                    "accuracy": right / max(asked, 1),
                    "learning_rate": rates[i],
                    "gradient_norm": norm / self.summed_steps,
                    "length": self.length,
                    "tokens_per_second": self.tokens / max(self.seconds - self.row_began, 1e-9),
                    "seconds": self.seconds,
                }
            )
        self.tokens = self.summed_steps = 0
        self.row_began = self.seconds
        alive = [i for i, is_alive in enumerate(self.state.alive.tolist()) if is_alive]
        for i in alive:
            self._keep(0, i, rows[i])
        if alive:
            mean = {name: sum(rows[i][name] for i in alive) / len(alive) for name in rows[0]}
            mean.update({name: rows[0][name] for name in ("step", "length", "tokens_per_second", "seconds")})
            for observer in observers:
                observer.logged(mean)

    def _evaluate(self, split: str) -> list[dict[str, float]]:
        found: list[dict[str, float]] = []
        for i, is_alive in enumerate(self.state.alive.tolist()):
            done = [r for r in self.evaluations[i] if (r["step"], r["split"]) == (self.step, split)]
            if done or not is_alive:
                found.append({k: v for k, v in done[0].items() if k not in ("step", "split")} if done else {})
                continue
            self.model.load_state_dict(self.state.replica(i))
            with self.state.precision():
                scores = evaluate(self.model, self.source, split)
            found.append(scores)
            self._keep(1, i, {"step": self.step, "split": split, **scores})
        return found

    def _sharpen(self, factors: Sequence[float]) -> None:
        """Make the gates of each replica as sharp as validation data call for."""
        for i, is_alive in enumerate(self.state.alive.tolist()):
            if not is_alive:
                continue
            self.model.load_state_dict(self.state.replica(i))
            with self.state.precision():
                chosen, tried = sharpen_by_validation(
                    self.model, factors, lambda: evaluate(self.model, self.source, "validation")
                )
            if chosen:
                self.state.scale(i, gate_parameters(self.model), tried[chosen].factor)
            for one in tried:
                self._keep(1, i, {"step": self.step, "split": one.split, **one.scores})

    def _keep(self, table: int, replica: int, row: Row) -> None:
        (self.history, self.evaluations)[table][replica].append(row)
        if self._tables is not None:
            self._tables[table].append({"replica": replica, **row})

    def _save(self, folder: Path) -> None:
        progress = {n: getattr(self, n) for n in ("tokens", "summed_steps", "seconds", "row_began")}
        save_checkpoint(folder / CHECKPOINTS, self.state, self.optimizer, self.step, progress)


def _read_replicas(folder: Path) -> list[RunConfig]:
    return [from_json(values) for values in json.loads((folder / REPLICAS).read_bytes())]
