"""``statemix train``: run a recipe, with every field of its config as a flag."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from statemix.experiments import RECIPES, recipe
from statemix.experiments.language import LANGUAGE_MIXERS
from statemix.training import RunConfig, TrainResult, read_config, train
from statemix.training.progress import describe_scores

from . import MISUSED
from ._listing import listed

DIVERGED = 3


def main(argv: list[str]) -> int:
    """Train; 0 when finished, 3 for divergence, 128 + n for signal n."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else MISUSED
    out, resume, config = _read_arguments(argv)
    result = train(config, out=out, resume=resume)
    if os.environ.get("RANK", "0") == "0":
        return _report(result, out)
    # Of several workers the first one speaks.
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        return _report(result, out)


@dataclass(frozen=True, kw_only=True)
class _Arguments:
    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    """The run."""

    out: Path | None = None
    """Run folder for metrics and checkpoints. Default: runs/ and the name of the run."""

    resume: bool = False
    """Go on with the run in that folder."""


def _read_arguments(argv: list[str]) -> tuple[Path, bool, RunConfig]:
    if argv[0] == "--resume":
        if len(argv) != 2:
            raise ValueError(
                "--resume takes one run folder and no further flags: its config is used as it is"
            )
        folder = Path(argv[1])
        return folder, True, read_config(folder)
    default = recipe(argv[0])
    arguments = tyro.cli(
        _Arguments,
        default=_Arguments(config=default),
        args=argv[1:],
        prog=f"statemix train {argv[0]}",
        description=RECIPES[argv[0].partition("/")[0]].__doc__,
        config=(tyro.conf.AvoidSubcommands,),
    )
    out = arguments.out or Path("runs") / arguments.config.name
    return out, arguments.resume, arguments.config


def _report(result: TrainResult, out: Path) -> int:
    if result.status == "interrupted":
        number = result.signal or signal.SIGINT
        print(f"\nstopped at step {result.step} by {signal.Signals(number).name}; to go on:")
        print(f"  statemix train --resume {shlex.quote(str(out))}")
        return 128 + number
    if result.status == "diverged":
        print(
            f"statemix train: diverged at step {result.step}: loss or gradient is no number; metrics and the "
            f"last good checkpoint stay in {out}. A lower --optimizer.learning-rate may help",
            file=sys.stderr,
        )
        return DIVERGED
    print(f"{result.config.name}: {describe_scores(dict(result.scores))}; in {out}")
    return 0


def _usage() -> str:
    return "\n".join(
        [
            "usage: statemix train RECIPE [FLAGS]      start a run",
            "       statemix train --resume FOLDER     go on with one that was stopped",
            "",
            "recipes:",
            *listed(RECIPES),
            "",
            "statemix train RECIPE --help lists its flags. Recipes of language models take a mixer of equal",
            f"size behind a slash, as lm-10m/hlru-2: {', '.join(LANGUAGE_MIXERS)}.",
        ]
    )
