"""Who hears of a run's numbers: the base of all observers, CSV files and TensorBoard."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statemix.extras import import_extra

from .config import RunConfig

if TYPE_CHECKING:
    from .loop import TrainResult

METRICS, EVALUATIONS = "metrics.csv", "evaluations.csv"

Row = dict[str, Any]

COLUMNS = (
    "step", "loss", "accuracy", "learning_rate", "gradient_norm", "length", "tokens_per_second", "seconds",
)  # fmt: skip


def scores_in(row: Row) -> dict[str, float]:
    """The scores of a row of evaluations, without the step and the split that they are of.

    Examples:
        >>> scores_in({"step": 8, "split": "test", "bits_per_byte": 2.5})
        {'bits_per_byte': 2.5}
    """
    return {name: score for name, score in row.items() if name not in ("step", "split")}


class Observer:
    """What a run tells while it goes on. Override what you want to hear."""

    def started(self, config: RunConfig, step: int) -> None:
        """Training begins after ``step`` updates: 0, or more where it resumes."""

    def logged(self, row: Row) -> None:
        """Means since the last row: :data:`COLUMNS`."""

    def evaluated(self, row: Row) -> None:
        """step, split, and the scores by name."""

    def finished(self, result: TrainResult) -> None:
        """The run ended; ``result.status`` says how."""

    def close(self) -> None:
        """Called last, whatever happened."""


class CsvMetrics(Observer):
    """metrics.csv and evaluations.csv in a run folder, with exact numbers.

    A run that resumes after ``step`` drops the rows that were written later, since it writes them anew.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._metrics = CsvTable(folder / METRICS, step)
        self._evaluations = CsvTable(folder / EVALUATIONS, step)

    @property
    def history(self) -> list[Row]:
        return self._metrics.earlier

    @property
    def evaluations(self) -> list[Row]:
        return self._evaluations.earlier

    def logged(self, row: Row) -> None:
        self._metrics.append(row)

    def evaluated(self, row: Row) -> None:
        self._evaluations.append(row)


class CsvTable:
    """A CSV file that grows by rows and can be cut back to a step.

    ``earlier`` holds the rows that were kept. A last line that was torn off is dropped.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.earlier: list[Row] = []
        if not path.exists():
            return
        with open(path, newline="") as file:
            lines = file.readlines()
        # A disk that was full may have left less than the header: such a file holds nothing.
        header, *body = list(csv.reader(line for line in lines if line.endswith("\n"))) or [[]]
        whole = [dict(zip(header, map(_parse, row), strict=True)) for row in body if len(row) == len(header)]
        self.earlier = [row for row in whole if isinstance(row["step"], int) and row["step"] <= step]
        temporary = path.with_name(f".{path.name}.writing")
        temporary.unlink(missing_ok=True)
        kept = CsvTable(temporary, 0)
        for row in self.earlier:
            kept.append(row)
        if self.earlier:
            os.replace(temporary, path)
        else:
            path.unlink()

    def append(self, row: Row) -> None:
        new = not self.path.exists()
        with open(self.path, "a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(row)
            writer.writerow([repr(v) if isinstance(v, float) else v for v in row.values()])


class TensorBoardMetrics(Observer):
    """The same numbers as scalars under ``tensorboard`` in a run folder.

    Raises:
        ModuleNotFoundError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        written_by = import_extra(
            "torch.utils.tensorboard",
            "training into a run folder writes TensorBoard metrics, which",
            package="tensorboard",
            otherwise="set tensorboard=False",
        )
        self._writer = written_by.SummaryWriter(
            str(folder / "tensorboard"), purge_step=step + 1 if step else None
        )

    def logged(self, row: Row) -> None:
        for name, value in row.items():
            if name not in ("step", "seconds"):
                self._writer.add_scalar(f"train/{name}", value, row["step"])
        self._writer.flush()

    def evaluated(self, row: Row) -> None:
        for name, score in scores_in(row).items():
            self._writer.add_scalar(f"{row['split']}/{name}", score, row["step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _parse(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def is_finite(row: Row) -> bool:
    """Whether loss and gradient are numbers; a run in which they are not has diverged."""
    return math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"])
