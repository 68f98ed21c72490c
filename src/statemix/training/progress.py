"""How a run shows itself: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from .config import RunConfig
from .metrics import Observer, Row, scores_in

if TYPE_CHECKING:
    from .loop import TrainResult


def make_progress() -> Observer:
    """A bar where the output is a terminal and rich is installed, else :class:`PlainProgress`."""
    if sys.stdout.isatty():
        try:
            return BarProgress()
        except ModuleNotFoundError:
            pass
    return PlainProgress()


def describe_scores(row: Row) -> str:
    """Scores as words: shares as percent, other numbers as they are.

    Examples:
        >>> describe_scores({"step": 8, "split": "test", "accuracy_at_32": 0.995, "bits_per_byte": 2.5})
        'accuracy at 32 99.5 %, bits per byte 2.500'
    """
    parts = []
    for name, value in scores_in(row).items():
        words = name.replace("_", " ")
        number = f"{100 * value:.1f} %" if "accuracy" in name else f"{value:.3f}"
        parts.append(f"{words} {number}")
    return ", ".join(parts)


class PlainProgress(Observer):
    """A line every few seconds, for logs and pipes."""

    def __init__(self, seconds_between: float = 2.0) -> None:
        self._between = seconds_between
        self._last = float("-inf")
        self._start = (0, time.monotonic())
        self._steps = 0

    def started(self, config: RunConfig, step: int) -> None:
        self._steps = config.steps
        self._start = (step, time.monotonic())
        if step:
            print(f"resumed after step {step}", flush=True)

    def logged(self, row: Row) -> None:
        now = time.monotonic()
        if now - self._last < self._between and row["step"] < self._steps:
            return
        self._last = now
        first, begun = self._start
        left = (now - begun) / (row["step"] - first) * (self._steps - row["step"])
        print(
            f"step {row['step']}/{self._steps}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.1%}  "
            f"{row['tokens_per_second']:,.0f} tokens/s  {left:.0f} s left",
            flush=True,
        )

    def evaluated(self, row: Row) -> None:
        print(f"step {row['step']}  {row['split']}: {describe_scores(row)}", flush=True)

    def finished(self, result: TrainResult) -> None:
        print(f"{result.status} after step {result.step}, {result.seconds:.1f} s", flush=True)


class BarProgress(Observer):
    """A bar with loss, accuracy, tokens per second and the time left.

    Raises:
        ModuleNotFoundError: rich is not installed.
    """

    def __init__(self, console: Any = None) -> None:
        from rich import progress

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[numbers]}"),
            progress.TimeRemainingColumn(),
            console=console,
        )
        self._task: Any = None

    def started(self, config: RunConfig, step: int) -> None:
        self._bar.start()
        self._task = self._bar.add_task(config.name, total=config.steps, completed=step, numbers="")

    def logged(self, row: Row) -> None:
        rate = f"{row['tokens_per_second']:,.0f} tokens/s"
        numbers = f"loss {row['loss']:.4f}  accuracy {row['accuracy']:.1%}  {rate}"
        self._bar.update(self._task, completed=row["step"], numbers=numbers)

    def evaluated(self, row: Row) -> None:
        self._say(f"step {row['step']}  {row['split']}: {describe_scores(row)}")

    def finished(self, result: TrainResult) -> None:
        self._say(f"{result.status} after step {result.step}, {result.seconds:.1f} s")

    def close(self) -> None:
        self._bar.stop()

    def _say(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False)
