"""Training on plain PyTorch, to be read from top to bottom."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from statemix.files import write_json
from statemix.models import LanguageModel, make_model
from statemix.nn import sharpen_gates

from .batches import DeviceBatch, ahead, batches_of_step, check_batch_size
from .checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from .config import RunConfig
from .data import Source, open_source
from .devices import choose_device, cpu_threads, own_random_numbers
from .evaluation import evaluate
from .folder import CHECKPOINTS, END_TOKEN_FILE, RESULT, prepared_folder, read_config, read_result
from .metrics import CsvMetrics, Observer, Row, TensorBoardMetrics, is_finite
from .optimizer import make_optimizer
from .progress import make_progress
from .record import Record
from .run import Run
from .shard_data import ShardSource
from .sharpening import sharpen_by_validation
from .signals import StopRequests
from .steps import Status, take_steps
from .workers import join_workers


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

    def summary(self) -> dict[str, Any]:
        """How it ended, as the run folder says it."""
        return {name: getattr(self, name) for name in ("status", "step", "scores", "seconds")}


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
    rest. Under torchrun its processes share each batch; the first of them writes and evaluates.

    Args:
        out: run folder: config, versions, metrics, checkpoints. Nothing is written without it.
        resume: go on with the run in ``out``.
        observers: hear of every row of metrics, see :class:`Observer`.
        progress: show a bar, or lines where the output is no terminal.

    Raises:
        TypeError: no RunConfig. ValueError: ``resume`` without ``out``.
        RunFolderError: the folder is occupied, cannot be written or has no room, or another process trains
            there; before training.
        CheckpointError: no checkpoint there can be used.
        OSError: a checkpoint could not be written later; the earlier ones are kept.

    Examples:
        >>> from statemix.models import MixerConfig, ModelConfig
        >>> from statemix.training import TaskData
        >>> model = ModelConfig(d_model=8, mixer=MixerConfig(name="gru"))
        >>> data = TaskData(test_lengths=(32, 128), test_examples=16)
        >>> result = train(RunConfig(model=model, data=data, steps=2), progress=False)
        >>> result.status, result.step, sorted(result.scores)
        ('finished', 2, ['accuracy_at_128', 'accuracy_at_32'])
    """
    if not isinstance(config, RunConfig):
        hint = f": write statemix.experiments.recipe({config!r})" if isinstance(config, str) else ""
        raise TypeError(f"train: config must be a RunConfig; got {config!r}{hint}")
    if resume and out is None:
        raise ValueError("train: resume=True goes on with the run in out; give out, the run's folder")
    with contextlib.ExitStack() as stack:
        workers, name = stack.enter_context(join_workers(config.device))
        device = choose_device(name)
        # What one worker makes, the others find.
        if not workers.first:
            workers.wait()
        config = config.resolved()
        source = open_source(config.data)
        if workers.first:
            workers.wait()
        check_batch_size(config, workers.size)
        folder = None if out is None else Path(out)
        stack.enter_context(own_random_numbers(config.seed, device))
        stack.enter_context(cpu_threads(config.threads))
        model = cast(LanguageModel, make_model(config.model)).to(device)
        run = Run(config, model, make_optimizer(model, config.optimizer), device, workers)
        stack.callback(run.gate_noise.close)
        if folder is not None:
            _open_folder(stack, folder, run, source, resume)
        record = _open_record(run, folder, observers, progress)
        for listener in record.listeners:
            stack.callback(listener.close)
        done = None if folder is None or not resume else read_result(folder)
        if done is not None and done["status"] != "interrupted" and done["step"] == run.step:
            return _result(run, record, folder, done["status"], done["scores"])
        # Without a folder there is nothing to save, and a signal acts as it always does.
        stop = StopRequests() if folder is None else stack.enter_context(StopRequests())
        for listener in record.listeners:
            listener.started(config, run.step)

        def make(step: int) -> list[DeviceBatch]:
            return batches_of_step(source, config, step, workers.rank, workers.size)

        # Tasks take the processor that a model on it needs: a thread beside it gains nothing.
        depth = 2 if device.type == "cuda" or isinstance(source, ShardSource) else 0
        batches = ahead(make, range(run.step, config.steps), device, depth=depth)
        stack.callback(batches.close)
        trained = _Trained(run, source, record, folder, batches, stop)
        status = take_steps(trained, config)
        scores = trained.evaluate("test") if status == "finished" else {}
        result = _result(run, record, folder, status, scores, trained.signal)
        if folder is not None and workers.first:
            write_json(folder / RESULT, result.summary())
        for listener in record.listeners:
            listener.finished(result)
        workers.wait()
        return result


def load_run(path: str | Path, *, device: str = "cpu") -> LanguageModel:
    """The model of a run folder with the weights of its newest good checkpoint, ready to be used.

    Args:
        path: the run folder.
        device: where the model is to lie; "auto" for a GPU where there is one.

    Raises:
        RunFolderError: no run there.
        FileNotFoundError: a run without a checkpoint yet.
        CheckpointError: no checkpoint there can be used.

    Examples:
        >>> from statemix.training import TaskData
        >>> data = TaskData(test_lengths=(8,), test_examples=8)
        >>> _ = train(RunConfig(steps=1, data=data), out="run", progress=False)
        >>> load_run("run").training
        False
    """
    folder = Path(path)
    model = cast(LanguageModel, make_model(read_config(folder).model))
    checkpoint = newest_checkpoint(folder / CHECKPOINTS)
    if checkpoint is None:
        raise FileNotFoundError(f"run folder {folder}: it has no checkpoint yet")
    load_checkpoint(checkpoint, model)
    return model.to(choose_device(device)).eval()


def _open_folder(stack: contextlib.ExitStack, folder: Path, run: Run, source: Source, resume: bool) -> None:
    """Make or reopen the folder of a run, which all workers wait for; to resume, go back to a checkpoint."""
    if run.workers.first:
        size = sum(p.numel() * p.element_size() for p in run.model.parameters())
        sha256 = source.text_sha256
        stack.enter_context(
            prepared_folder(folder, run.config, resume=resume, weight_bytes=size, text_sha256=sha256)
        )
        if isinstance(source, ShardSource):
            # What makes text of tokens again goes where the weights go.
            source.shards.tokenizer().save(folder)
            write_json(folder / END_TOKEN_FILE, source.shards.end_token)
    run.workers.wait()
    if resume:
        run.restore(folder)


def _open_record(run: Run, folder: Path | None, observers: Sequence[Observer], progress: bool) -> Record:
    """The rows that a run has so far, and who hears of more; workers but the first have neither."""
    if not run.workers.first:
        return Record()
    shown = [*([make_progress()] if progress else []), *observers]
    if folder is None:
        return Record(shown)
    files = CsvMetrics(folder, run.step)
    board = [TensorBoardMetrics(folder, run.step)] if run.config.tensorboard else []
    return Record([files, *board, *shown], files.history, files.evaluations)


def _result(
    run: Run,
    record: Record,
    folder: Path | None,
    status: Status,
    scores: dict[str, float],
    signal: int | None = None,
) -> TrainResult:
    return TrainResult(
        config=run.config,
        model=cast(LanguageModel, run.model),
        status=status,
        step=run.step,
        history=record.history,
        evaluations=record.evaluations,
        scores=scores,
        seconds=run.pace.seconds,
        path=folder,
        signal=signal,
    )


@dataclass
class _Trained:
    """One run, as :func:`take_steps` goes on with it; ``signal`` came to it or to another worker."""

    run: Run
    source: Source
    record: Record
    folder: Path | None
    batches: Iterator[list[DeviceBatch]]
    stop: StopRequests
    signal: int | None = None

    @property
    def step(self) -> int:
        return self.run.step

    def update(self) -> None:
        self.run.update(next(self.batches))

    def log(self) -> bool:
        row = self.run.take_row()
        self.record.log(row)
        return is_finite(row)

    def evaluate(self, split: str) -> dict[str, float]:
        """The scores, which the first worker makes, unless they are known."""
        if not self.run.workers.first:
            return {}
        known = self.record.scores(self.step, split)
        return self.record.keep(self.step, split, self._scores(split)) if known is None else known

    def sharpen(self) -> None:
        """The first worker looks, all of them do it."""
        workers, factors = self.run.workers, self.run.config.sharpen_gates
        chosen, tried = 0, []
        if workers.first:
            chosen, tried = sharpen_by_validation(self.run.model, factors, lambda: self._scores("validation"))
        chosen = workers.largest(chosen)
        if chosen and not workers.first:
            sharpen_gates(self.run.model, factors[chosen - 1])
        for one in tried:
            self.record.keep(self.step, one.split, one.scores)

    def must_stop(self) -> bool:
        self.signal = self.run.workers.largest(self.stop.signal or 0) or None
        return self.signal is not None

    def save(self) -> bool:
        if self.folder is None:
            return True
        if not self.run.is_finite():
            return False
        state = self.run.progress()
        if self.run.workers.first:
            save_checkpoint(self.folder / CHECKPOINTS, self.run.model, self.run.optimizer, self.step, state)
        return True

    def _scores(self, split: str) -> dict[str, float]:
        with self.run.precision():
            return evaluate(cast(LanguageModel, self.run.model), self.source, split)
