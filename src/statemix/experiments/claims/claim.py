"""What a claim of the paper is: trials or measurements, and a verdict computed from their numbers."""

from __future__ import annotations

import datetime
import json
import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from statemix.bench.environment import commit, device_name, versions
from statemix.files import write_json
from statemix.training.devices import choose_device

from ..sweep import Launch, SweepFolder, SweepFolderError, Trial, run_sweep
from .statistics import Interval, difference_interval, mean_interval

Budget = Literal["minutes", "hour", "paper"]
BUDGETS: tuple[Budget, ...] = ("minutes", "hour", "paper")

MEASUREMENTS = "measurements.json"
"""What a claim that is measured, not trained, keeps in its folder."""

Answer = Literal["holds", "does not hold", "undecided"]

Values = dict[str, list[float]]
"""For each model one number a seed."""

Facts = dict[str, str | None]
"""What made the numbers: device, versions, date, commit."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Comparison:
    """One inequality that a claim needs, and what the numbers say about it."""

    wanted: str
    """in words"""
    interval: Interval | None
    """95 % interval of what is compared; None for fewer than two seeds, or numbers that are not finite"""
    answer: Answer
    """of this inequality alone"""


def exceeds(values: Values, one: str, other: str, by: float = 0.0) -> Comparison:
    """Whether ``one`` lies above ``other`` by more than ``by`` in the mean; negative: not far below."""
    interval = difference_interval(values.get(one, ()), values.get(other, ()))
    words = f"{one} above {other}" if by == 0 else f"{one} minus {other} above {by:g}"
    return Comparison(words, interval, _against(interval, by))


def at_least(values: Values, model: str, least: float) -> Comparison:
    """Whether the mean of a model is at least so large."""
    interval = mean_interval(values.get(model, ()))
    return Comparison(f"{model} at least {least:g}", interval, _against(interval, least))


def at_most(values: Values, model: str, most: float) -> Comparison:
    """Whether the mean of a model is at most so large."""
    interval = mean_interval(values.get(model, ()))
    turned = None if interval is None else (-interval[1], -interval[0])
    return Comparison(f"{model} at most {most:g}", interval, _against(turned, -most))


def verdict_of(comparisons: Sequence[Comparison]) -> Answer:
    """All hold: holds. One is refuted: does not hold. Else the data do not decide.

    Examples:
        >>> values = {"long": [0.9, 0.91, 0.92], "short": [0.5, 0.52, 0.51]}
        >>> verdict_of([exceeds(values, "long", "short"), at_least(values, "long", 0.8)])
        'holds'
    """
    answers = [comparison.answer for comparison in comparisons]
    if "does not hold" in answers:
        return "does not hold"
    return "holds" if answers and all(answer == "holds" for answer in answers) else "undecided"


def _against(interval: Interval | None, threshold: float) -> Answer:
    if interval is None:
        return "undecided"
    low, high = interval
    # Where seeds agree to the last digit an interval is a point, which may stand on the threshold itself.
    if low > threshold or low == high == threshold != 0:
        return "holds"
    return "does not hold" if high < threshold else "undecided"


class Stopped(Exception):
    """Time was over, or a signal came, in the middle of ``claim``; the same command goes on.

    Attributes:
        claim: its name.
        signal: which one came; None where time was over.
    """

    def __init__(self, claim: str, signal: int | None = None) -> None:
        super().__init__(f"stopped in {claim}")
        self.claim, self.signal = claim, signal


@dataclass(frozen=True, kw_only=True)
class Claim(ABC):
    """A claim and the way to its verdict. Subclasses say where its numbers come from."""

    name: str
    """as it is typed"""
    statement: str
    """what the paper says, in a sentence"""
    metric: str
    """what each number is"""
    reason: str
    """why it should be so, and how it is checked: a paragraph"""
    judge: Callable[[Values], list[Comparison]]
    """the inequalities that make the claim"""

    @abstractmethod
    def collect(self, folder: Path, budget: Budget, launch: Launch, command: str, tell: Tell) -> Values:
        """The numbers, from wherever an earlier attempt had come to.

        Raises:
            Stopped: time was over, or a signal came.
        """

    @abstractmethod
    def plan(self, budget: Budget) -> list[dict[str, Any]]:
        """Rows that say what would be run: model, trials, steps, tokens."""

    @abstractmethod
    def facts(self, folder: Path) -> Facts:
        """What made the numbers in a folder, however long ago."""

    def failures(self, folder: Path) -> dict[str, list[str]]:
        """The models of runs that "diverged" and of runs that "crashed", one name a run."""
        return {}

    def sizes(self, folder: Path) -> dict[str, list[int]]:
        """Parameters of each model, once for each size that it was run at, in rising order."""
        return {}


@dataclass(frozen=True, kw_only=True)
class TrainedClaim(Claim):
    """Its numbers are test scores of trained models.

    A trial's settings name the ``model`` that it counts for, the ``case`` (a task, a size) and what else was
    varied, such as a learning rate. For each model and case the setting with the best mean validation score
    counts; a model's number for a seed is its mean over cases.
    """

    trials: Callable[[Budget], list[Trial]]
    """what is trained"""

    def collect(self, folder: Path, budget: Budget, launch: Launch, command: str, tell: Tell) -> Values:
        sweep = SweepFolder.begin(folder, self.trials(budget), command)
        outcome = run_sweep(sweep, launch, tell)
        if outcome.pending:
            raise Stopped(self.name, outcome.signal)
        return values_of(sweep.results())

    def plan(self, budget: Budget) -> list[dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {}
        for trial in self.trials(budget):
            config = trial.config
            row = rows.setdefault(
                trial.settings["model"],
                {"model": trial.settings["model"], "trials": 0, "steps": 0, "tokens": 0},
            )
            row["trials"] += 1
            row["steps"] += config.steps
            row["tokens"] += config.steps * config.batch_size * config.data.trained_length
        return list(rows.values())

    def facts(self, folder: Path) -> Facts:
        results = SweepFolder(folder).results()

        def all_of(name: str) -> str | None:
            # A crashed run has no device; runs that went on elsewhere, or later, have another.
            return "; ".join(dict.fromkeys(r[name] for r in results if r.get(name))) or None

        return {
            "device": all_of("device"),
            "versions": all_of("versions"),
            "date": max(result["date"] for result in results)[: len("2026-01-31")],
            "commit": all_of("commit"),
        }

    def failures(self, folder: Path) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for result in SweepFolder(folder).results():
            status = _status(result)
            if status != "finished":
                found.setdefault(status, []).append(result["settings"]["model"])
        return found

    def sizes(self, folder: Path) -> dict[str, list[int]]:
        found: dict[str, set[int]] = {}
        for result in SweepFolder(folder).results():
            if result.get("parameters"):
                found.setdefault(result["settings"]["model"], set()).add(result["parameters"])
        return {model: sorted(some) for model, some in found.items()}


@dataclass(frozen=True, kw_only=True)
class MeasuredClaim(Claim):
    """Its numbers are measurements, one for each of several rounds."""

    measure: Callable[[Budget, str | None, Tell], Values]
    """makes them on a device (None: the first GPU, else the CPU)"""
    planned: Callable[[Budget], list[dict[str, Any]]]
    """rows of the plan"""

    def collect(self, folder: Path, budget: Budget, launch: Launch, command: str, tell: Tell) -> Values:
        file = folder / MEASUREMENTS
        if file.is_file():
            written = _read_measurements(file)
            if written["budget"] != budget:
                raise SweepFolderError(
                    f"folder {folder}: it holds measurements of the budget {written['budget']!r}; continue "
                    f"those, or choose another folder"
                )
            return written["values"]
        folder.mkdir(parents=True, exist_ok=True)
        device = launch.devices[0] if launch.devices else None
        values = self.measure(budget, device, tell)
        facts: Facts = {
            "device": device_name(choose_device(device or "auto")),
            "versions": versions(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "commit": commit(),
        }
        write_json(file, {"budget": budget, "values": values, "facts": facts})
        return values

    def facts(self, folder: Path) -> Facts:
        return _read_measurements(folder / MEASUREMENTS)["facts"]

    def plan(self, budget: Budget) -> list[dict[str, Any]]:
        return self.planned(budget)


def _read_measurements(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
        whole = {"budget", "values", "facts"} <= set(found)
    except (ValueError, TypeError):
        whole = False
    if not whole:
        raise SweepFolderError(
            f"folder {file.parent}: {file.name} is damaged; move it away, and it is measured again"
        )
    return found


def values_of(results: Sequence[Mapping[str, Any]]) -> Values:
    """Numbers by model from the results of trials; a run that diverged counts 0, one that crashed nothing.

    One that finished with a score that is no number has diverged.
    """
    by_setting: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for result in results:
        settings = dict(result["settings"])
        key = settings.pop("model"), str(settings.pop("case", ""))
        by_setting.setdefault(key, {}).setdefault(repr(sorted(settings.items())), []).append(result)
    cases: dict[str, list[dict[int, float]]] = {}
    for (model, _), settings in by_setting.items():
        best = max(settings.values(), key=_mean_validation)
        scores = {r["seed"]: _score(r, "scores") for r in best if r["status"] != "crashed"}
        cases.setdefault(model, []).append(scores)
    return {
        model: [
            statistics.fmean(case[seed] for case in some)
            for seed in sorted(set.intersection(*map(set, some)))
        ]
        for model, some in cases.items()
    }


def _mean_validation(results: Sequence[Mapping[str, Any]]) -> float:
    """Over the runs of a setting that did not crash; a setting without any comes last."""
    ran = [result for result in results if result["status"] != "crashed"]
    return statistics.fmean(_score(result, "validation") for result in ran) if ran else -1.0


def _score(result: Mapping[str, Any], split: str) -> float:
    """The mean of the scores; of a text, the share of a byte's eight bits that is saved."""
    scores = (result.get(split) or {}) if _status(result) == "finished" else {}
    numbers = [1 - v / 8 if name == "bits_per_byte" else v for name, v in scores.items()]
    return statistics.fmean(numbers) if numbers else 0.0


def _status(result: Mapping[str, Any]) -> str:
    """How a run ended; its last step may have left weights whose scores are no numbers."""
    scores = [*(result.get("scores") or {}).values(), *(result.get("validation") or {}).values()]
    finite = all(map(math.isfinite, scores))
    return result["status"] if finite or result["status"] == "crashed" else "diverged"
