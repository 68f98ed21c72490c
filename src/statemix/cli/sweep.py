"""``statemix sweep``: run a grid over a recipe, resumable, into one table."""

from __future__ import annotations

import functools
import itertools
import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from statemix.experiments import RECIPES, recipe
from statemix.experiments.sweep import Launch, SweepFolder, Trial, run_sweep
from statemix.experiments.sweep.trials import (
    MOST_REPLICAS,
    check_field,
    check_models,
    check_trials,
    seeded,
    settings_name,
)
from statemix.experiments.variants import VARIANTS, variants
from statemix.training import RunConfig

from . import FAILED, MISUSED
from ._listing import listed


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Every combination of what is varied, with every seed, as one table."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    """What all trials share."""

    out: Path | None = None
    """Folder of the sweep; one that was stopped there goes on. Default: sweeps/RECIPE."""

    grid: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A field and its values, as often as wanted: --grid model.mixer.block-size=1,2,4."""

    variants: str | None = None
    """A named list of models in place of the recipe's own, as statemix sweep --help lists them."""

    seeds: int = 3
    """Runs of each combination, with seeds counted from --seed."""

    replicas: int = MOST_REPLICAS
    """Trials that are trained as one at most, where they differ only in seed, optimizer and schedule."""

    launch: Launch = field(default_factory=Launch)
    """Where and how long it runs."""

    dry_run: bool = False
    """List the trials, run nothing."""


def main(argv: Sequence[str]) -> int:
    """Run a sweep; 0 when all is done, 1 for trials that crashed, 128 + n for signal n."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else MISUSED
    options, trials = _read_arguments(argv)
    if options.dry_run:
        check_trials(trials)
        check_models(trials)
        return _list(trials)
    out = options.out or Path("sweeps") / argv[0]
    command = shlex.join(["statemix", "sweep", *argv])
    folder = SweepFolder.begin(out, trials, command, most_replicas=options.replicas)
    outcome = run_sweep(folder, options.launch)
    table = folder.path / "table.csv"
    print(f"{len(folder.results())} of {len(trials)} trials are done; the table: {table}")
    if outcome.pending:
        print(f"stopped; to go on:\n  {command}")
        return 128 + (outcome.signal or signal.SIGTERM)
    crashed = any(result["status"] == "crashed" for result in folder.results())
    return FAILED if crashed else 0


def _read_arguments(argv: Sequence[str]) -> tuple[SweepOptions, list[Trial]]:
    base = recipe(argv[0])
    prog = f"statemix sweep {argv[0]}"

    def read(default: SweepOptions, flags: Sequence[str], *markers: Any) -> SweepOptions:
        return tyro.cli(
            SweepOptions,
            default=default,
            args=flags,
            prog=prog,
            config=(tyro.conf.AvoidSubcommands, *markers),
        )

    options = read(SweepOptions(config=base), argv[1:])
    axes: dict[str, list[str]] = {}
    for text in options.grid:
        path, values = _axis(text)
        check_field(options.config, path)
        if path in axes:
            raise ValueError(f"--grid has {path} twice: put all its values into one, parted by commas")
        axes[path] = values
    models = {"": options.config} if options.variants is None else variants(options.variants, options.config)
    trials = []
    for name, config in models.items():
        for values in itertools.product(*axes.values()):
            settings = dict(zip(axes, values, strict=True))
            flags = [part for path, value in settings.items() for part in _flag(config, path, value)]
            # Of a field that is on or off a grid has the values True and False, not the flag and its --no-.
            varied = read(replace(options, config=config), flags, tyro.conf.FlagConversionOff).config
            label = ", ".join(filter(None, [name, settings_name(settings, "")])) or base.name
            # Tables have what the fields hold, not how it was typed.
            held = {name: _at(varied, name) for name in (path.replace("-", "_") for path in settings)}
            trials += seeded(varied, label, options.seeds, held)
    return options, trials


def _axis(text: str) -> tuple[str, list[str]]:
    path, equals, values = text.partition("=")
    if not path or not equals or not all(values.split(",")):
        raise ValueError(
            f"--grid must be a field and its values, like model.mixer.block-size=1,2,4; got {text!r}"
        )
    return path.lstrip("-").replace("_", "-"), values.split(",")


def _flag(config: RunConfig, path: str, value: str) -> list[str]:
    """What sets a field on the command line; the parts of one that has several are written 32:128."""
    several = isinstance(_at(config, path.replace("-", "_")), tuple)
    return [f"--{path}", *(value.split(":") if several else [value])]


def _at(config: RunConfig, path: str) -> Any:
    """What the field at a dotted path holds."""
    return functools.reduce(getattr, path.split("."), config)


def _list(trials: Sequence[Trial]) -> int:
    for trial in trials:
        print(f"{trial.model}, seed {trial.config.seed}")
    print(f"{len(trials)} trials")
    return 0


def _usage() -> str:
    width = max(map(len, [*RECIPES, *VARIANTS]))
    return "\n".join(
        [
            "usage: statemix sweep RECIPE --grid FIELD=VALUE,VALUE ... --seeds N [--out FOLDER] [FLAGS]",
            "",
            "  statemix sweep s3-composition --grid model.mixer.block-size=1,2,3 --seeds 3",
            "  statemix sweep s3-composition --variants mixers --seeds 5 --out sweeps/s3",
            "",
            "recipes:",
            *listed(RECIPES, width),
            "",
            "variants:",
            *listed(VARIANTS, width),
            "",
            "statemix sweep RECIPE --help lists its flags.",
        ]
    )
