"""What a sweep runs: trials, the grid that makes them, and groups that are trained as one."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from statemix.models import make_model
from statemix.names import nearest
from statemix.training import RunConfig, ShardData, groupable, to_json

MOST_REPLICAS = 16
"""Trials that are trained as one at most."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a sweep."""

    model: str
    """what tables call the setting that it belongs to; seeds of one setting share it"""
    config: RunConfig
    """the whole run"""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """what was varied, for columns of the table"""

    @property
    def id(self) -> str:
        """Named after the content: the same trial is the same file, whichever sweep it is in."""
        return _digest({"model": self.model, "config": to_json(self.config)})


def grid(
    base: RunConfig, axes: Mapping[str, Sequence[Any]], *, seeds: int = 1, name: str = ""
) -> list[Trial]:
    """Every combination of values with every seed, seeds counted from the base's own.

    Args:
        axes: values by the dotted path of a field, such as ``"model.mixer.block_size": [1, 2, 4]``.
        name: put before the settings in the names of models.

    Raises:
        ValueError: no such field (the nearest are listed), a field without values, a value out of range, or
            seeds given twice. TypeError: values that stand in no list.

    Examples:
        >>> trials = grid(RunConfig(), {"model.mixer.block_size": [1, 2]}, seeds=2)
        >>> [(trial.model, trial.config.seed) for trial in trials]
        [('block_size=1', 0), ('block_size=1', 1), ('block_size=2', 0), ('block_size=2', 1)]
    """
    for path, values in axes.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise TypeError(f"sweep: the values of {path} must be a list; got {values!r}: write [{values!r}]")
    # Ranges of NumPy hold numbers of its own, which a field for an integer does not take.
    given = {
        path: [value.item() if isinstance(value, np.generic) else value for value in values]
        for path, values in axes.items()
    }
    fields: dict[str, str] = {}
    for path in given:
        other = fields.setdefault(path.replace("-", "_"), path)
        if other != path:
            raise ValueError(f"sweep: {other} and {path} are one field: put all its values into one list")
    empty = [path for path, values in given.items() if not values]
    if empty:
        raise ValueError(f"sweep: {empty[0]} must have at least one value; got none: leave it out")
    trials = []
    for values in itertools.product(*given.values()):
        settings = dict(zip(given, values, strict=True))
        config = base
        for path, value in settings.items():
            config = with_field(config, path, value)
        model = settings_name(settings, name or base.name)
        model = f"{name}, {model}" if name and settings else model
        trials += seeded(config, model, seeds, settings)
    return trials


def seeded(
    config: RunConfig, model: str, seeds: int, settings: Mapping[str, Any] | None = None
) -> list[Trial]:
    """The same run with several seeds, counted from its own.

    Raises:
        ValueError: no seeds, or several where the settings name one.
    """
    if seeds < 1:
        raise ValueError(f"sweep: seeds must be at least 1; got {seeds}")
    if seeds > 1 and "seed" in (settings or {}):
        # Counted from each value, they would meet: one run under two names.
        raise ValueError(
            f"sweep: seeds are given twice, as values of seed and as {seeds} seeds: leave the values out, or "
            f"ask for 1 seed of each"
        )
    return [
        Trial(model=model, config=replace(config, seed=config.seed + i), settings=settings or {})
        for i in range(seeds)
    ]


def check_trials(trials: Sequence[Trial]) -> None:
    """Raise ValueError unless trials are at least one, no two the same, and all of tasks or texts."""
    if not trials:
        raise ValueError("sweep: trials must be at least one, and no two the same; got none")
    if any(isinstance(trial.config.data, ShardData) for trial in trials):
        raise ValueError(
            "sweep: trials train on tasks and texts; a language model on shards is trained by itself, "
            "with statemix train"
        )
    seen = set()
    for trial in trials:
        if trial.id in seen:
            raise ValueError(
                f"sweep: trials must be at least one, and no two the same; got {trial.model!r} with seed "
                f"{trial.config.seed} twice"
            )
        seen.add(trial.id)


def check_models(trials: Sequence[Trial]) -> None:
    """Raise ValueError with the name of the first trial that cannot be run, and the reason.

    Each distinct model is built once, without its weights.
    """
    built = set()
    for trial in trials:
        try:
            model = trial.config.resolved().model
        except ValueError as error:
            raise ValueError(f"sweep: trial {trial.model!r}: it cannot be run: {error}") from None
        # Named by its text: a pattern may stand in a list, which has no hash.
        if repr(model) in built:
            continue
        try:
            with torch.device("meta"):
                make_model(model)
        except (ValueError, TypeError) as error:
            reason = f"it has a model that cannot be built: {error}"
            raise ValueError(f"sweep: trial {trial.model!r}: {reason}") from None
        built.add(repr(model))


def settings_name(settings: Mapping[str, Any], otherwise: str) -> str:
    """The ends of the paths with their values, or another name where nothing was varied."""
    named = short_names(settings)
    return ", ".join(f"{named[path]}={value}" for path, value in settings.items()) or otherwise


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """The end of each dotted path: its last part, or as many parts as tell it from the other paths.

    Examples:
        >>> short_names(["model.mixer.name", "schedule.name", "seed"])
        {'model.mixer.name': 'mixer.name', 'schedule.name': 'schedule.name', 'seed': 'seed'}
    """
    parts = {path: path.split(".") for path in paths}

    def end(path: str) -> str:
        for count in range(1, len(parts[path])):
            others = [other[-count:] for name, other in parts.items() if name != path]
            if parts[path][-count:] not in others:
                return ".".join(parts[path][-count:])
        return path

    return {path: end(path) for path in parts}


def with_field(config: Any, path: str, value: Any) -> Any:
    """A copy of nested dataclasses with the field at a dotted path set.

    Raises:
        ValueError: no such field; the nearest are listed.

    Examples:
        >>> with_field(RunConfig(), "optimizer.learning_rate", 0.1).optimizer.learning_rate
        0.1
    """
    check_field(config, path)
    name, _, rest = path.partition(".")
    name = name.replace("-", "_")
    if rest:
        value = with_field(getattr(config, name), rest, value)
    return replace(config, **{name: value})


def check_field(config: Any, path: str) -> None:
    """Raise ValueError with the nearest names unless nested dataclasses have a field at a dotted path."""
    whole = ""
    for part in path.split("."):
        fields = [f.name for f in dataclasses.fields(config)] if _is_config(config) else []
        name = part.replace("-", "_")
        if name not in fields:
            near = nearest(name, fields) or fields
            paths = ", ".join(whole + other for other in near) or whole.rstrip(".")
            raise ValueError(f"sweep: no field {path!r}; nearest: {paths}")
        config, whole = getattr(config, name), f"{whole}{name}."


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def groups(trials: Sequence[Trial], most: int = MOST_REPLICAS) -> list[list[Trial]]:
    """Trials that differ only in seed, optimizer and schedule, together; first come, first in line.

    The same trials always make the same groups, so that an interrupted group is found again.
    """
    found: list[list[Trial]] = []
    for trial in trials:
        for group in found:
            if len(group) < most and groupable(group[0].config, trial.config):
                group.append(trial)
                break
        else:
            found.append([trial])
    return found


def group_id(group: Sequence[Trial]) -> str:
    """Named after the trials in it."""
    return _digest([trial.id for trial in group])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
