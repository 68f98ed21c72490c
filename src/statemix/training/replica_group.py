"""A group of replicas while it is trained, its folder and its rows included."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
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
from .loop import TrainResult
from .metrics import METRICS, CsvMetrics, Observer, Row
from .record import Pace, Record
from .replica_batches import stacked_batches
from .sharpening import sharpen_by_validation
from .signals import StopRequests
from .stacked import StackedModels
from .steps import Status, take_steps

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
        self.source = open_source(self.configs[0].data)
        self.step, self.length = 0, 0
        self.pace = Pace()
        self.records = [Record() for _ in configs]
        # Holds no state of its own: moments and all else are tensors of the stack.
        self.optimizer = torch.optim.SGD([state.weights])

    @contextlib.contextmanager
    def opened(self, folder: Path, resume: bool) -> Iterator[None]:
        """The folder, made or reopened, back at its last good checkpoint; no other process writes it."""
        size = self.state.weights.numel() * self.state.weights.element_size()
        with prepared_folder(folder, self.configs[0], resume=resume, weight_bytes=size):
            self._open(folder, resume)
            yield

    def _open(self, folder: Path, resume: bool) -> None:
        if not resume or not _has_begun(folder):
            write_json(folder / REPLICAS, [to_json(config) for config in self.configs])
        elif not (folder / REPLICAS).is_file() or not _same(self.configs, _read_replicas(folder)):
            raise RunFolderError(
                f"run folder {folder}: it holds other replicas; resume it with the configs in {REPLICAS}"
            )
        checkpoint = newest_checkpoint(folder / CHECKPOINTS) if resume else None
        if checkpoint is not None:
            self.step, progress = load_checkpoint(checkpoint, self.state, self.optimizer)
            self.pace = Pace.of(progress)
        files = CsvMetrics(folder, self.step)
        self.records = [
            Record([_OneOfMany(i, files)], _rows_of(i, files.history), _rows_of(i, files.evaluations))
            for i in range(len(self.configs))
        ]

    def train(
        self,
        device: torch.device,
        observers: Sequence[Observer],
        stop: StopRequests,
        *,
        capture: bool | None,
        loaders: int | None,
        time_limit: float | None,
    ) -> Status:
        """Train to the end, until a signal or the limit in seconds, or until no replica is left."""
        self.observers, self._stop = observers, stop
        for observer in observers:
            observer.started(self.configs[0], self.step)
        self._update = self._made_update(device, capture)
        # Training's own seconds leave evaluations out; a limit does not.
        self._end = None if time_limit is None else time.perf_counter() + time_limit
        self._batches = stacked_batches(self.configs, self.step, device, workers=loaders)
        with contextlib.closing(self._batches), stream_for(device):
            status = take_steps(self, self.configs[0])
        del self._update  # and with it the memory of its graphs
        return status

    def _made_update(self, device: torch.device, capture: bool | None) -> Callable[[Tensor, Tensor], None]:
        """One step of all replicas, compiled and captured as it is asked for."""
        update: Callable[[Tensor, Tensor], None] = self.state.update
        if self.configs[0].compile:
            # For each length and number of replicas anew: mapped layers cannot be traced with open sizes.
            update = torch.compile(update, dynamic=False)
        if device.type == "cuda" and capture is not False:
            update = CapturedStep(update, device, required=capture is True)
        return update

    def update(self) -> None:
        with self.pace.counted():
            inputs, targets = next(self._batches)
            self._update(inputs, targets)
        self.step += 1
        self.pace.add(inputs.numel())
        self.length = inputs.shape[-1]

    def log(self) -> bool:
        """A row for each replica that is alive, and their mean for the observers."""
        with self.pace.counted():
            sums = self.state.take_sums().tolist()
        rates = self.state.rates_at(self.step - 1)
        rows = self.pace.take_rows(self.step, sums, learning_rates=rates, length=self.length)
        alive = self._alive()
        for i in alive:
            self.records[i].log(rows[i])
        if alive:
            mean = {name: sum(rows[i][name] for i in alive) / len(alive) for name in rows[0]}
            mean.update({name: rows[0][name] for name in ("step", "length", "tokens_per_second", "seconds")})
            for observer in self.observers:
                observer.logged(mean)
        return bool(alive)

    def evaluate(self, split: str) -> list[dict[str, float]]:
        """The scores of each replica, unless they are known or it diverged."""
        for i in self._alive():
            if self.records[i].scores(self.step, split) is None:
                self.model.load_state_dict(self.state.replica(i))
                self.records[i].keep(self.step, split, self._scores(split))
        return [record.scores(self.step, split) or {} for record in self.records]

    def sharpen(self) -> None:
        """The gates of each replica as its own validation asks for."""
        for i in self._alive():
            self.model.load_state_dict(self.state.replica(i))
            chosen, tried = sharpen_by_validation(
                self.model, self.configs[0].sharpen_gates, lambda: self._scores("validation")
            )
            if chosen:
                self.state.scale(i, gate_parameters(self.model), tried[chosen].factor)
            for one in tried:
                self.records[i].keep(self.step, one.split, one.scores)

    def must_stop(self) -> bool:
        late = self._end is not None and time.perf_counter() > self._end
        return late or self._stop.signal is not None

    def save(self) -> bool:
        if self.folder is None:
            return True
        with self.pace.counted():  # what the device still has to do
            is_left = bool(self._alive())
        if is_left:
            progress = asdict(self.pace)
            save_checkpoint(self.folder / CHECKPOINTS, self.state, self.optimizer, self.step, progress)
        return is_left

    def finish(self, status: Status, signal: int | None) -> list[TrainResult]:
        """Test what has finished; tell of each replica."""
        scores: list[dict[str, float]] = [{} for _ in self.configs]
        if status == "finished":
            self.evaluate("validation")
            scores = self.evaluate("test")
        results = []
        alive, last_step = self.state.alive.tolist(), self.state.last_step.tolist()
        for i, (config, record) in enumerate(zip(self.configs, self.records, strict=True)):
            model = cast(LanguageModel, make_model(config.model)).to(self.state.weights.device)
            model.load_state_dict(self.state.replica(i))
            results.append(
                TrainResult(
                    config=config,
                    model=model,
                    status=status if alive[i] else "diverged",
                    step=last_step[i],
                    history=record.history,
                    evaluations=record.evaluations,
                    scores=scores[i] if alive[i] else {},
                    seconds=self.pace.seconds,
                    path=self.folder,
                    signal=signal,
                )
            )
        if self.folder is not None:
            write_json(self.folder / RESULT, [result.summary() for result in results])
        for observer in self.observers:
            observer.finished(results[0])
        return results

    def _alive(self) -> list[int]:
        """The replicas that go on."""
        return [i for i, is_alive in enumerate(self.state.alive.tolist()) if is_alive]

    def _scores(self, split: str) -> dict[str, float]:
        """Of the model, which has the weights of one replica."""
        with self.state.precision():
            return evaluate(self.model, self.source, split)


class _OneOfMany(Observer):
    """The rows of one replica, in the tables of its group."""

    def __init__(self, replica: int, files: CsvMetrics) -> None:
        self._replica, self._files = replica, files

    def logged(self, row: Row) -> None:
        self._files.logged({"replica": self._replica, **row})

    def evaluated(self, row: Row) -> None:
        self._files.evaluated({"replica": self._replica, **row})


def _rows_of(replica: int, rows: Sequence[Row]) -> list[Row]:
    """Those of one replica, without its number."""
    return [{k: v for k, v in row.items() if k != "replica"} for row in rows if row["replica"] == replica]


def _has_begun(folder: Path) -> bool:
    """Whether a group's folder is past its first files: a process may be killed between two of them."""
    return any((folder / name).exists() for name in (REPLICAS, METRICS, CHECKPOINTS, RESULT))


def _read_replicas(folder: Path) -> list[RunConfig]:
    return [from_json(values) for values in json.loads((folder / REPLICAS).read_bytes())]


def _same(ones: Sequence[RunConfig], others: Sequence[RunConfig]) -> bool:
    """Whether configs say the same: lengths in a list and in a tuple do."""
    return [to_json(config) for config in ones] == [to_json(config) for config in others]
