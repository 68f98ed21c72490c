"""Training on plain PyTorch, to be read from top to bottom."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F

from statemix.models import LanguageModel, make_model
from statemix.tasks import IGNORED, Batch

from .checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from .config import RunConfig
from .data import open_source
from .evaluation import evaluate
from .folder import CHECKPOINTS, RESULT, prepare_folder, read_config, read_result, write_json
from .metrics import CsvMetrics, Observer, Row, TensorBoardMetrics, is_finite
from .optimizer import make_optimizer
from .progress import make_progress
from .schedule import rate_at
from .signals import StopRequests

Status = Literal["finished", "interrupted", "diverged"]


@dataclass
class TrainResult:
    """What a run came to.

    status: "finished"; "interrupted" by a signal, to be resumed; or "diverged", its loss no number.
    step: updates made. history: rows of metrics. evaluations: rows of scores. scores: the last ones on
    test data, empty unless finished. seconds: spent on training alone. path: the run folder, if any.
    signal: which one interrupted.
    """

    config: RunConfig
    model: LanguageModel
    status: Status
    step: int
    history: list[Row]
    evaluations: list[Row]
    scores: dict[str, float]
    seconds: float
    path: Path | None
    signal: int | None = None

    @property
    def tokens_per_second(self) -> float:
        """Median over the rows of metrics."""
        rates = sorted(row["tokens_per_second"] for row in self.history)
        return rates[len(rates) // 2] if rates else 0.0


def train(
    config: RunConfig,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    progress: bool = True,
) -> TrainResult:
    """Train what ``config`` says, from its beginning or from a run's last checkpoint.

    The same config gives the same losses on the same machine, and so does a run that was stopped at any
    moment and resumed: batches and learning rates depend on the step alone, and a checkpoint holds the
    rest.

    Args:
        out: run folder: config, versions, metrics, checkpoints. Nothing is written without it.
        resume: go on with the run in ``out``.
        observers: hear of every row of metrics, see :class:`Observer`.
        progress: show a bar, or lines where the output is no terminal.

    Raises:
        RunFolderError: the folder is occupied, cannot be written or has no room; before training.
        CheckpointError: no checkpoint there can be used.
        OSError: a checkpoint could not be written later; the earlier ones are kept.

    Example:
        >>> from statemix.models import MixerConfig, ModelConfig
        >>> model = ModelConfig(d_model=8, mixer=MixerConfig(name="gru"))
        >>> result = train(RunConfig(model=model, steps=2), progress=False)
        >>> result.status, result.step, sorted(result.scores)
        ('finished', 2, ['accuracy_at_128', 'accuracy_at_32', 'accuracy_at_512'])
    """
    config = config.resolved()
    folder = None if out is None else Path(out)
    device = choose_device(config.device)
    source = open_source(config.data)
    with contextlib.ExitStack() as stack:
        cuda = [device.index or 0] if device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        torch.manual_seed(config.seed)
        if config.threads:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(config.threads)
        model = cast(LanguageModel, make_model(config.model)).to(device)
        optimizer = make_optimizer(model, config.optimizer)
        run = _Run(config, model, optimizer, device)
        if folder is not None:
            size = sum(p.numel() * p.element_size() for p in model.parameters())
            prepare_folder(folder, config, resume=resume, bytes_needed=3 * 3 * size)
            if resume:
                run.restore(folder)
        listeners = _listeners(run, folder, observers, progress)
        for listener in listeners:
            stack.callback(listener.close)
        done = None if folder is None or not resume else read_result(folder)
        if done is not None and done["status"] != "interrupted" and done["step"] == run.step:
            return run.result(done["status"], done["scores"], folder)
        # Without a folder there is nothing to save, and a signal acts as it always does.
        stop = StopRequests() if folder is None else stack.enter_context(StopRequests())
        for listener in listeners:
            listener.started(config, run.step)
        status: Status = "finished"
        while run.step < config.steps:
            batch = source.batch(run.step, batch_size=config.batch_size, seed=config.seed, steps=config.steps)
            run.update(batch)
            last = run.step == config.steps
            if run.step % config.log_every == 0 or last:
                row = run.take_row()
                for listener in listeners:
                    listener.logged(row)
                if not is_finite(row):
                    status = "diverged"
                    break
            if config.evaluate_every and run.step % config.evaluate_every == 0 and not last:
                _evaluate(run, source, "validation", listeners)
            if folder is not None and (last or stop.signal or run.step % config.checkpoint_every == 0):
                if not run.is_finite():
                    status = "diverged"
                    break
                save_checkpoint(folder / CHECKPOINTS, model, optimizer, run.step, run.progress())
            if stop.signal and not last:
                status = "interrupted"
                break
        scores = _evaluate(run, source, "test", listeners) if status == "finished" else {}
        result = run.result(status, scores, folder, stop.signal)
        if folder is not None:
            summary = {"status": status, "step": run.step, "scores": scores, "seconds": run.seconds}
            write_json(folder / RESULT, summary)
        for listener in listeners:
            listener.finished(result)
        return result


def load_run(path: str | Path, *, device: str = "cpu") -> LanguageModel:
    """The model of a run folder with the weights of its newest good checkpoint, ready to be used.

    Raises:
        RunFolderError: no run there. CheckpointError: no usable checkpoint.
    """
    folder = Path(path)
    model = cast(LanguageModel, make_model(read_config(folder).model))
    checkpoint = newest_checkpoint(folder / CHECKPOINTS)
    if checkpoint is None:
        raise FileNotFoundError(f"run folder {folder}: it has no checkpoint yet")
    load_checkpoint(checkpoint, model)
    return model.to(choose_device(device)).eval()


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes the first GPU, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


@dataclass
class _Run:
    """A run between two steps: what a checkpoint holds, and the one way to go on."""

    config: RunConfig
    model: LanguageModel
    optimizer: torch.optim.Optimizer
    device: torch.device
    step: int = 0
    seconds: float = 0.0
    history: list[Row] = field(default_factory=list)
    evaluations: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Loss, right answers, answers asked for, gradient norm: summed since the last row, on the device,
        # so that a GPU is not waited for at every step.
        self.sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        self.summed_steps = 0
        self.tokens = 0
        self.row_began = 0.0
        self._autocast = wants_bfloat16(self.config, self.device)

    def update(self, batch: Batch) -> None:
        """One step of AdamW on one batch."""
        began = time.perf_counter()
        config = self.config.optimizer
        rate = config.learning_rate * rate_at(self.step, self.config.steps, self.config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs = batch.inputs.to(self.device, non_blocking=True)
        targets = batch.targets.to(self.device, non_blocking=True).flatten()
        with self.precision():
            logits = self.model(inputs).flatten(0, 1)
            loss = F.cross_entropy(logits.float(), targets, ignore_index=IGNORED)
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            right = (logits.argmax(-1) == targets).sum()
            asked = (targets != IGNORED).sum()
            self.sums += torch.stack([x.double() for x in (loss, right, asked, norm)])
        self.summed_steps += 1
        self.tokens += batch.inputs.numel()
        self.length = batch.inputs.shape[1]
        self.rate = rate
        self.seconds += time.perf_counter() - began

    def take_row(self) -> Row:
        """The means since the last row, which start anew."""
        began = time.perf_counter()
        loss, right, asked, norm = self.sums.tolist()
        self.seconds += time.perf_counter() - began
        row = {
            "step": self.step,
            "loss": loss / self.summed_steps,
            "accuracy": right / max(asked, 1),
            "learning_rate": self.rate,
            "gradient_norm": norm / self.summed_steps,
            "length": self.length,
            "tokens_per_second": self.tokens / max(self.seconds - self.row_began, 1e-9),
            "seconds": self.seconds,
        }
        self.sums.zero_()
        self.summed_steps = self.tokens = 0
        self.row_began = self.seconds
        self.history.append(row)
        return row

    def is_finite(self) -> bool:
        """Whether no step since the last row had a loss or a gradient that is no number."""
        return bool(self.sums.isfinite().all())

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """The number format of the projections."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast)

    def progress(self) -> dict[str, Any]:
        """What a checkpoint holds beside weights, moments and random numbers."""
        return {
            "sums": self.sums.tolist(),
            "summed_steps": self.summed_steps,
            "tokens": self.tokens,
            "row_began": self.row_began,
            "seconds": self.seconds,
        }

    def restore(self, folder: Path) -> None:
        """Go back to the newest good checkpoint of a run folder, or stay at the beginning."""
        checkpoint = newest_checkpoint(folder / CHECKPOINTS)
        if checkpoint is None:
            return
        self.step, progress = load_checkpoint(checkpoint, self.model, self.optimizer)
        self.sums = torch.tensor(progress["sums"], dtype=torch.float64, device=self.device)
        self.summed_steps, self.tokens = progress["summed_steps"], progress["tokens"]
        self.row_began, self.seconds = progress["row_began"], progress["seconds"]

    def result(
        self, status: Status, scores: dict[str, float], folder: Path | None, signal: int | None = None
    ) -> TrainResult:
        return TrainResult(
            self.config, self.model, status, self.step, self.history, self.evaluations, scores,
            self.seconds, folder, signal,
        )  # fmt: skip


def _listeners(
    run: _Run, folder: Path | None, observers: Sequence[Observer], progress: bool
) -> Iterator[Observer] | list[Observer]:
    listeners: list[Observer] = []
    if folder is not None:
        files = CsvMetrics(folder, run.step)
        run.history, run.evaluations = list(files.history), list(files.evaluations)
        listeners.append(files)
        if run.config.tensorboard:
            listeners.append(TensorBoardMetrics(folder, run.step))
    if progress:
        listeners.append(make_progress())
    return [*listeners, *observers]


def _evaluate(run: _Run, source: Any, split: str, listeners: Any) -> dict[str, float]:
    with run.precision():
        scores = evaluate(run.model, source, split)
    row = {"step": run.step, "split": split, **scores}
    run.evaluations.append(row)
    for listener in listeners:
        listener.evaluated(row)
    return scores


def wants_bfloat16(config: RunConfig, device: torch.device) -> bool:
    """Whether projections run in bfloat16: as the config says; "auto" on a GPU that has it."""
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bfloat16"
