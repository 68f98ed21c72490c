"""What is kept of a run while it goes on: its pace, its rows of metrics and its scores."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .metrics import Observer, Row, scores_in


@dataclass
class Pace:
    """Seconds of training, and what was counted since the last row of metrics; checkpoints hold it."""

    summed_steps: int = 0
    tokens: int = 0
    row_began: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of(cls, progress: Mapping[str, Any]) -> Pace:
        """The pace that a checkpoint holds, among other things."""
        return cls(**{field.name: progress[field.name] for field in dataclasses.fields(cls)})

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Training, whose time counts, a wait for the device included."""
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began

    def add(self, tokens: int) -> None:
        """A step was made on so many tokens."""
        self.summed_steps += 1
        self.tokens += tokens

    def take_rows(
        self, step: int, sums: Sequence[Sequence[float]], *, learning_rates: Sequence[float], length: int
    ) -> list[Row]:
        """Rows of metrics after ``step`` updates, in the order of :data:`COLUMNS`; counting starts anew.

        Args:
            sums: loss, right answers, answers asked and gradient norm since the last row, for each row.
        """
        rows = [
            {
                "step": step,
                "loss": loss / self.summed_steps,
                "accuracy": right / max(asked, 1),
                "learning_rate": rate,
                "gradient_norm": norm / self.summed_steps,
                "length": length,
                "tokens_per_second": self.tokens / max(self.seconds - self.row_began, 1e-9),
                "seconds": self.seconds,
            }
            for (loss, right, asked, norm), rate in zip(sums, learning_rates, strict=True)
        ]
        self.summed_steps = self.tokens = 0
        self.row_began = self.seconds
        return rows


class Record:
    """The rows of one run, and who hears of them.

    Args:
        listeners: hear of every row that is added.
        history, evaluations: rows of metrics and of scores that there are already, of a run that goes on.
    """

    def __init__(
        self,
        listeners: Sequence[Observer] = (),
        history: Sequence[Row] = (),
        evaluations: Sequence[Row] = (),
    ) -> None:
        self.listeners = listeners
        self.history, self.evaluations = list(history), list(evaluations)

    def log(self, row: Row) -> None:
        """Add a row of metrics."""
        self.history.append(row)
        for listener in self.listeners:
            listener.logged(row)

    def keep(self, step: int, split: str, scores: dict[str, float]) -> dict[str, float]:
        """Add a row of scores; the scores."""
        row = {"step": step, "split": split, **scores}
        self.evaluations.append(row)
        for listener in self.listeners:
            listener.evaluated(row)
        return scores

    def scores(self, step: int, split: str) -> dict[str, float] | None:
        """Those of a step that are known, as in a run that was stopped behind it."""
        known = (scores_in(row) for row in self.evaluations if (row["step"], row["split"]) == (step, split))
        return next(known, None)
