"""The folder of a sweep: what is to be done, what came out of it, and the table of both.

    sweep.json               the trials, and what was typed to make them
    groups/<id>/             the run folder of a group: metrics, checkpoints
    groups/<id>.failures     what went wrong, an attempt a line
    groups/<id>-1, <id>-2    the halves of a group that crashed too often
    results/<id>.json        a trial that is done: finished, diverged or crashed
    table.csv, table.parquet every trial in a row

All that processes on one machine or on many know of each other stands here.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from statemix.bench.environment import commit, versions
from statemix.files import is_occupied, locked, write_json, write_table, write_whole
from statemix.models.sizing import state_numbers
from statemix.training import TrainResult, from_json, to_json
from statemix.training.metrics import scores_in

from .trials import MOST_REPLICAS, Trial, check_models, check_trials, group_id, groups, short_names

ATTEMPTS = 2
_FORMAT = 1

# Columns of what came out of a trial, before and behind its scores.
_SIZES = ("steps", "parameters", "state_numbers")
_FACTS = ("seconds", "replicas", "attempts", "device", "versions", "commit", "date", "error")


class SweepFolderError(RuntimeError):
    """A folder that cannot serve a sweep; the message has its path, the reason and what to do."""


class SweepFolder:
    """A sweep on disk.

    Args:
        path: the folder.

    Raises:
        SweepFolderError: it holds no sweep. Use :meth:`begin` to start or continue one.

    Examples:
        >>> from statemix.experiments.sweep import grid
        >>> from statemix.training import RunConfig
        >>> trials = grid(RunConfig(), {"model.d_model": [8, 16]}, seeds=3)
        >>> folder = SweepFolder.begin("sweep", trials, "what was typed")
        >>> len(folder.trials), len(folder.pending()), folder.results()
        (6, 2, [])
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        file = self.path / "sweep.json"
        if not file.is_file():
            raise SweepFolderError(f"sweep folder {self.path}: it holds no sweep.json, so no sweep")
        try:
            written = json.loads(file.read_bytes())
        except ValueError as error:
            raise self._damaged(error) from None
        if not isinstance(written, dict) or written.get("format") != _FORMAT:
            raise SweepFolderError(
                f"sweep folder {self.path}: another version wrote it; choose another folder"
            )
        try:
            self.command: str = written["command"]
            named = {
                t["id"]: Trial(model=t["model"], config=from_json(t["config"]), settings=t["settings"])
                for t in written["trials"]
            }
            members = {group: [named[i] for i in some] for group, some in written["groups"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise self._damaged(error) from None
        self.trials = list(named.values())
        self.groups: dict[str, list[Trial]] = {}
        for group, some in members.items():
            self.groups |= self._left_of(group, some)
        # Names are those that were written down: another version, whose configs have more fields, finds them.
        self._names = {id(trial): name for name, trial in named.items()}

    def _damaged(self, error: Exception) -> SweepFolderError:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        return SweepFolderError(
            f"sweep folder {self.path}: sweep.json is damaged: {what}; choose another folder"
        )

    @classmethod
    def begin(
        cls, path: str | Path, trials: Sequence[Trial], command: str, *, most_replicas: int = MOST_REPLICAS
    ) -> SweepFolder:
        """Start a sweep in an empty folder, or continue the same one.

        Raises:
            SweepFolderError: the folder holds something else, or a sweep of other trials.
            ValueError: no trials, two that are the same, trials that are not of tasks or texts, or one whose
                model cannot be built; nothing is written then.
        """
        path = Path(path)
        if most_replicas < 1:
            raise ValueError(f"sweep: replicas must be at least 1; got {most_replicas}")
        check_trials(trials)
        goes_on = is_occupied(path)
        if goes_on:
            cls._check_same(path, trials)
        else:
            check_models(trials)
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not goes_on:
                write_json(
                    path / "sweep.json",
                    {
                        "format": _FORMAT,
                        "command": command,
                        "groups": {group_id(g): [t.id for t in g] for g in groups(trials, most_replicas)},
                        "trials": [
                            {
                                "id": t.id,
                                "model": t.model,
                                "settings": _settings(t),
                                "config": to_json(t.config),
                            }
                            for t in trials
                        ],
                    },
                )
            # Behind it: a process that is killed before leaves nothing that would be refused.
            for name in ("groups", "results"):
                (path / name).mkdir(exist_ok=True)
        except OSError as error:
            raise SweepFolderError(
                f"sweep folder {path}: it cannot be written ({error.strerror}); choose another folder"
            ) from None
        return cls(path)

    @classmethod
    def _check_same(cls, path: Path, trials: Sequence[Trial]) -> None:
        """Raise SweepFolderError unless a folder holds the sweep of these trials."""
        if not (path / "sweep.json").is_file():
            raise SweepFolderError(
                f"sweep folder {path}: it is not empty and holds no sweep; nothing is written over, "
                f"choose another folder"
            )
        folder = cls(path)
        names = {trial.id for trial in trials}
        there = {trial.id for trial in folder.trials}
        if there != names:
            raise SweepFolderError(
                f"sweep folder {path}: it holds another sweep, with {len(there - names)} trials "
                f"that are not asked for and without {len(names - there)} that are (it was made by: "
                f"{folder.command}); continue that one, or choose another folder"
            )

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While entered, no other process runs this sweep; the lock goes with the process that has it.

        Raises:
            SweepFolderError: another process runs it now.
        """
        refusal = f"sweep folder {self.path}: another process runs this sweep now; wait for it, or stop it"
        with locked(self.path / "sweep.json", SweepFolderError(refusal)):
            yield

    def run_folder(self, group: str) -> Path:
        return self.path / "groups" / group

    def result(self, trial: Trial) -> dict[str, Any] | None:
        """What came out of a trial of :attr:`trials`; None while it is not done, or cannot be read."""
        try:
            found = json.loads((self.path / "results" / f"{self._names[id(trial)]}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) and "status" in found else None

    def results(self) -> list[dict[str, Any]]:
        """What came out of all trials that are done, in their order."""
        return [found for found in map(self.result, self.trials) if found is not None]

    def pending(self) -> list[str]:
        """Groups that have something to do, in their order."""
        return [
            group for group, members in self.groups.items() if any(self.result(t) is None for t in members)
        ]

    def failures(self, group: str) -> list[str]:
        """What went wrong with a group, and before with those that it is a part of, the last attempt last."""
        whole = group.rpartition("-")[0]
        return [*(self.failures(whole) if whole else []), *self._own_failures(group)]

    def failed(self, group: str, reason: str) -> list[str]:
        """Note a crash, and say what is to be tried: the group once more, then its halves.

        Nothing is left of a group of one trial, which is done then, as crashed.

        Returns:
            Groups of :attr:`groups`.
        """
        lines = [json.dumps(failure) + "\n" for failure in [*self._own_failures(group), reason]]
        # Whole: a line that was torn off, by a process that is killed here, could not be read again.
        write_whole(self.path / "groups" / f"{group}.failures", "".join(lines).encode())
        members = self.groups[group]
        if len(members) == 1 and len(self._own_failures(group)) >= ATTEMPTS:
            if self.result(members[0]) is None:
                self._write(members[0], group, {"status": "crashed", "error": reason})
            return []
        left = self._left_of(group, members)
        self.groups = {name: some for name, some in self.groups.items() if name != group} | left
        return [*left]

    def _left_of(self, group: str, members: list[Trial]) -> dict[str, list[Trial]]:
        """A group, or its halves where it crashed too often: one trial must not take all others with it."""
        if len(members) == 1 or len(self._own_failures(group)) < ATTEMPTS:
            return {group: members}
        half = (len(members) + 1) // 2
        first, second = (
            self._left_of(f"{group}-1", members[:half]),
            self._left_of(f"{group}-2", members[half:]),
        )
        return first | second

    def _own_failures(self, group: str) -> list[str]:
        file = self.path / "groups" / f"{group}.failures"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    def finished(self, group: str, found: Sequence[TrainResult], device: str) -> None:
        """Write down what came out of a group."""
        for trial, result in zip(self.groups[group], found, strict=True):
            validation = [row for row in result.evaluations if row["split"] == "validation"]
            last = validation[-1] if validation and result.status == "finished" else {}
            self._write(
                trial,
                group,
                {
                    "status": result.status,
                    "steps": result.step,
                    "parameters": sum(p.numel() for p in result.model.parameters()),
                    "state_numbers": state_numbers(result.model),
                    "scores": result.scores,
                    "validation": scores_in(last),
                    "seconds": result.seconds,
                    "device": device,
                },
            )

    def write_table(self) -> Path:
        """Write the table of all trials as CSV, and as Parquet where pyarrow is installed."""
        rows = [self._row(trial) for trial in self.trials]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        columns.append(columns.pop(columns.index("config")))
        table = self.path / "table.csv"
        write_table(table, columns, rows)
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError:
            return table
        arrays = pyarrow.table({name: _arrow([row.get(name) for row in rows]) for name in columns})
        unfinished = table.with_name(".table.parquet.writing")
        pyarrow.parquet.write_table(arrays, unfinished)
        os.replace(unfinished, table.with_suffix(".parquet"))
        return table

    def _write(self, trial: Trial, group: str, found: dict[str, Any]) -> None:
        about = {
            "model": trial.model,
            "settings": _settings(trial),
            "seed": trial.config.seed,
            "replicas": len(self.groups[group]),
            "attempts": len(self.failures(group)) + (found["status"] != "crashed"),
            "versions": versions(),
            "commit": commit(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        write_json(self.path / "results" / f"{self._names[id(trial)]}.json", {**about, **found})

    def _row(self, trial: Trial) -> dict[str, Any]:
        found = self.result(trial) or {"status": "pending"}
        row = {
            "model": trial.model,
            **{_free(named): _plain(trial.settings[p]) for p, named in short_names(trial.settings).items()},
            "seed": trial.config.seed,
            "learning_rate": trial.config.optimizer.learning_rate,
            "weight_decay": trial.config.optimizer.weight_decay,
            "status": found["status"],
            **{name: found.get(name) for name in _SIZES},
            **found.get("scores", {}),
            **{f"validation_{name}": value for name, value in found.get("validation", {}).items()},
            **{name: found.get(name) for name in _FACTS},
        }
        row["config"] = json.dumps(to_json(trial.config))
        return row


def _settings(trial: Trial) -> dict[str, Any]:
    """What was varied as JSON holds it; a config among the values, such as a mixer's, as its text."""
    kinds = str | int | float | bool | list | tuple | None
    return {
        path: value if isinstance(value, kinds) else repr(value) for path, value in trial.settings.items()
    }


def _free(name: str) -> str:
    """The column of a field that was varied: what came out of a trial must not stand in its place."""
    return f"varied_{name}" if name in ("status", "config", *_SIZES, *_FACTS) else name


def _arrow(values: list[Any]) -> Any:
    """A column of Parquet; as text where no type of Arrow holds it, such as words among numbers."""
    import pyarrow

    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowException, OverflowError):
        return pyarrow.array([None if value is None else str(value) for value in values], pyarrow.string())


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
