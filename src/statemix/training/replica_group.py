"""A group of replicas while it is trained, its folder and its rows included."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from statemix.files import write_json
from statemix.models import LanguageModel, make_model
from statemix.nn.sharpening import gate_parameters

from .capture import CapturedStep, stream_for
from .checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from .config import RunConfig, from_json, to_json
from .data import open_source
from .evaluation import evaluate
from .folder import CHECKPOINTS, RESULT, RunFolderError, prepared_folder
from .loop import Status, TrainResult
from .metrics import EVALUATIONS, METRICS, CsvTable, Observer, Row, metrics_row, scores_in
from .replica_batches import stacked_batches
from .sharpening import sharpen_by_validation
from .signals import StopRequests
from .stacked import StackedModels

REPLICAS = "replicas.json"


class ReplicaGroup:
    """Replicas between two steps: their rows, and the one way to go on.

    Args:
        configs: one for each replica.
        model: takes the weights of one replica after the other, to be evaluated.
        state: weights, moments and sums of all of them.
        folder: of the group, if anything is written.
    """

    def __init__(
        self, configs: list[RunConfig], model: LanguageModel, state: StackedModels, folder: Path | None
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
        self._tables: dict[str, CsvTable] = {}

    @contextlib.contextmanager
    def opened(self, folder: Path, resume: bool) -> Iterator[None]:
        """The folder, made or reopened, back at its last good checkpoint; no other process writes it."""
        size = self.state.weights.numel() * self.state.weights.element_size()
        with prepared_folder(folder, self.configs[0], resume=resume, weight_bytes=size):
            self._open(folder, resume)
            yield

    def _open(self, folder: Path, resume: bool) -> None:
        if not resume:
            write_json(folder / REPLICAS, [to_json(config) for config in self.configs])
        elif not (folder / REPLICAS).is_file() or not _same(self.configs, _read_replicas(folder)):
            raise RunFolderError(
                f"run folder {folder}: it holds other replicas; resume it with the configs in {REPLICAS}"
            )
        checkpoint = newest_checkpoint(folder / CHECKPOINTS) if resume else None
        if checkpoint is not None:
            self.step, progress = load_checkpoint(checkpoint, self.state, self.optimizer)
            self.tokens, self.summed_steps = progress["tokens"], progress["summed_steps"]
            self.seconds, self.row_began = progress["seconds"], progress["row_began"]
        for name, kept in ((METRICS, self.history), (EVALUATIONS, self.evaluations)):
            self._tables[name] = CsvTable(folder / name, self.step)
            for row in self._tables[name].earlier:
                kept[row.pop("replica")].append(row)

    def train(
        self,
        device: torch.device,
        observers: Sequence[Observer],
        stop: StopRequests,
        *,
        capture: bool | None,
        workers: int | None,
        time_limit: float | None,
    ) -> Status:
        """Train to the end, until a signal or the limit in seconds, or until no replica is left."""
        config = self.configs[0]
        for observer in observers:
            observer.started(config, self.step)
        if self.step == config.steps:
            return "finished"
        update = self._update(device, capture)
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
                logs = self.step % config.log_every == 0 or last
                # Waits for the device, which belongs to the time of the row: not at every step.
                sums = self.state.take_sums().tolist() if logs else []
                self.seconds = before + time.perf_counter() - began
                if logs:
                    self._log(sums, observers)
                    if not self.state.alive.any():
                        return "diverged"
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

    def _update(self, device: torch.device, capture: bool | None) -> Callable[[Tensor, Tensor], None]:
        """One step of all replicas, compiled and captured as it is asked for."""
        update: Callable[[Tensor, Tensor], None] = self.state.update
        if self.configs[0].compile:
            # For each length and number of replicas anew: mapped layers cannot be traced with open sizes.
            update = torch.compile(update, dynamic=False)
        if device.type == "cuda" and capture is not False:
            update = CapturedStep(update, device, required=capture is True)
        return update

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
                    config=config,
                    model=model,
                    status=status if alive[i] else "diverged",
                    step=last_step[i],
                    history=self.history[i],
                    evaluations=self.evaluations[i],
                    scores=scores[i] if alive[i] else {},
                    seconds=self.seconds,
                    path=self.folder,
                    signal=signal,
                )
            )
        if self.folder is not None:
            names = ("status", "step", "scores", "seconds")
            write_json(self.folder / RESULT, [{n: getattr(result, n) for n in names} for result in results])
        for observer in observers:
            observer.finished(results[0])
        return results

    def _log(self, sums: Sequence[Sequence[float]], observers: Sequence[Observer]) -> None:
        """A row for each replica that is alive, of its ``sums``, and their mean for the observers."""
        rates = self.state.rates_at(self.step - 1)
        rows = [
            metrics_row(
                self.step,
                own,
                steps=self.summed_steps,
                learning_rate=rates[i],
                length=self.length,
                tokens_per_second=self.tokens / max(self.seconds - self.row_began, 1e-9),
                seconds=self.seconds,
            )
            for i, own in enumerate(sums)
        ]
        self.tokens = self.summed_steps = 0
        self.row_began = self.seconds
        alive = [i for i, is_alive in enumerate(self.state.alive.tolist()) if is_alive]
        for i in alive:
            self.history[i].append(rows[i])
            self._write(METRICS, i, rows[i])
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
                found.append(scores_in(done[0]) if done else {})
                continue
            self.model.load_state_dict(self.state.replica(i))
            with self.state.precision():
                scores = evaluate(self.model, self.source, split)
            found.append(scores)
            self._keep_scores(i, split, scores)
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
                self._keep_scores(i, one.split, one.scores)

    def _keep_scores(self, replica: int, split: str, scores: dict[str, float]) -> None:
        row = {"step": self.step, "split": split, **scores}
        self.evaluations[replica].append(row)
        self._write(EVALUATIONS, replica, row)

    def _write(self, table: str, replica: int, row: Row) -> None:
        if self._tables:
            self._tables[table].append({"replica": replica, **row})

    def _save(self, folder: Path) -> None:
        progress = {n: getattr(self, n) for n in ("tokens", "summed_steps", "seconds", "row_began")}
        save_checkpoint(folder / CHECKPOINTS, self.state, self.optimizer, self.step, progress)


def _read_replicas(folder: Path) -> list[RunConfig]:
    return [from_json(values) for values in json.loads((folder / REPLICAS).read_bytes())]


def _same(ones: Sequence[RunConfig], others: Sequence[RunConfig]) -> bool:
    """Whether configs say the same: lengths in a list and in a tuple do."""
    return [to_json(config) for config in ones] == [to_json(config) for config in others]
