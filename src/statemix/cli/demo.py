"""``statemix demo``: train five small models on this machine and write a page about them."""

from __future__ import annotations

import math
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from statemix.analysis.report.demo import DemoFindings, demo_page, demo_verdicts
from statemix.analysis.report.language import LanguageFindings
from statemix.analysis.report.state_tracking import LearnedBlocks, Tracker
from statemix.experiments import demo
from statemix.training import Observer, RunConfig, RunFolderError, to_json
from statemix.training.devices import cpu_threads

from . import MISUSED

_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Train small models on this machine and write a report that shows what state mixing does."""

    out: Path = Path("runs/demo")
    """Folder of the report and of the runs; a demo that was interrupted there goes on."""

    seed: int = 0
    """Decides the initial weights and the training data of all runs."""

    quick: bool = False
    """Train for a moment only: to see that everything works. The numbers then say nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit status."""
    options = tyro.cli(DemoOptions, args=argv, prog="statemix demo")
    console = Console()
    demo.check_folder(options.out)  # not below: who is told to delete a folder should own what is in it
    try:
        # A second thread makes such small models little faster, and far slower where others run too.
        with cpu_threads(1):
            _run(options, console)
    except RunFolderError as error:
        print(
            f"statemix demo: {error}\n(a demo goes on only with the settings that it began with: pass "
            f"another --out, or delete {options.out})",
            file=sys.stderr,
        )
        return MISUSED
    except (demo.Interrupted, KeyboardInterrupt) as stop:
        number = stop.signal if isinstance(stop, demo.Interrupted) else signal.SIGINT
        console.print(f"\nStopped. The same command goes on from here: {_command(options)}", markup=False)
        return 128 + number
    return 0


def _run(options: DemoOptions, console: Console) -> None:
    began = time.monotonic()
    console.print(
        Panel(
            "Linear recurrences whose states mix inside small blocks can follow a state that changes in "
            "order; those whose states do not mix cannot.\n"
            "This trains five small models to see that, then writes a report. It takes about two minutes "
            "on a CPU; Ctrl-C stops it, and the same command goes on.",
            title="statemix demo",
            title_align="left",
        )
    )
    runs = options.out / demo.RUNS
    trackers, blocks, clearest, configs = _track(options, console, runs)
    language, language_config = _write(options, console, runs)
    configs["language model"] = to_json(language_config)
    findings = DemoFindings(
        trackers=trackers,
        blocks=blocks,
        kinds=demo.KINDS,
        clearest=clearest,
        language=language,
        trained_at=demo.LENGTH,
        chance=1 / len(demo.ELEMENTS),
        quick=options.quick,
        command=_command(options),
        seed=options.seed,
        configs=configs,
    )
    path = demo_page(findings).write(options.out / "report.html")
    _conclude(console, findings)
    console.print(f"\nThis took {time.monotonic() - began:.0f} s. The report, for any browser:")
    console.print(str(path.resolve()), markup=False, highlight=False, soft_wrap=True)


def _track(
    options: DemoOptions, console: Console, runs: Path
) -> tuple[list[Tracker], list[LearnedBlocks], Any, dict[str, Any]]:
    console.rule("[bold]1  Tracking a state", align="left")
    console.print(
        f"Three cups are swapped and turned; where is each now? Trained on {demo.LENGTH} moves, tested on "
        f"up to {demo.TEST_LENGTHS[-1]}: a memory that fades, or that cannot permute, gets lost.\n"
    )
    trackers, blocks, clearest, configs = [], [], [], {}
    for contender in demo.contenders(options.seed, quick=options.quick):
        with _shown(console, contender.name, contender.config, _accuracy) as observer:
            result = demo.continued(contender.config, runs / contender.config.name, [observer])
        trackers.append(demo.tracker(contender, result))
        configs[contender.name] = to_json(result.config)
        if contender.config.model.mixer.name in ("bdlru", "hlru"):
            blocks.append(demo.learned_blocks(contender, result.model))
            clearest = clearest or demo.clearest_block(result.model)
    return trackers, blocks, clearest, configs


def _write(options: DemoOptions, console: Console, runs: Path) -> tuple[LanguageFindings, RunConfig]:
    console.print()
    console.rule("[bold]2  A language model of bytes", align="left")
    console.print(
        "The same layer, twice, reads the source of Python's standard library and learns to predict the next "
        "byte. The ruler is what gzip makes of the same held-out files.\n"
    )
    config = demo.language_run(options.seed, quick=options.quick)
    with _shown(console, "BD-LRU, m = 4", config, _bits) as observer:
        result = demo.continued(config, runs / config.name, [observer])
    return demo.language_findings(config, result), result.config


def _conclude(console: Console, findings: DemoFindings) -> None:
    console.print()
    console.rule("[bold]What came out", align="left")
    lengths = list(findings.trackers[0].accuracy)
    table = Table(title="Right answers by length of the test sequences", title_justify="left")
    table.add_column("model")
    for name in ("parameters", "trained in", *(f"at {length}" for length in lengths)):
        table.add_column(name, justify="right")
    for tracker in findings.trackers:
        name, parameters, _, seconds, *shares = tracker.cells
        table.add_row(name, parameters, seconds, *shares)
    console.print(table)
    language = findings.language
    table = Table(title="Bits per byte on held-out files", title_justify="left")
    table.add_column("coder")
    table.add_column("bits per byte", justify="right")
    rows = {language.name: language.bits_per_byte, **language.baselines}
    for name, value in sorted(rows.items(), key=lambda row: row[1]):
        table.add_row(name, f"{value:.2f}")
    console.print(table)
    signs = {True: "[green]✓[/]", False: "[red]✗[/]", None: "·"}
    sentences = Table.grid(padding=(0, 1))
    for topic, sentence, expected in demo_verdicts(findings):
        sentences.add_row(signs[expected], f"[bold]{escape(topic)}[/]", escape(sentence))
    console.print(sentences)
    if findings.quick:
        console.print("A quick run: everything works, and these numbers say nothing.")


@contextmanager
def _shown(console: Console, name: str, config: RunConfig, measure: Any) -> Iterator[Observer]:
    """A bar in a terminal; elsewhere a line now and then, and one at the end."""
    if not console.is_terminal:
        yield _Lines(console, name, measure)
        return
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[measured]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bar(progress, progress.add_task(name, total=config.steps, measured=""), measure)


class _Bar(Observer):
    def __init__(self, progress: Progress, task: Any, measure: Any) -> None:
        self._progress, self._task, self._measure = progress, task, measure

    def started(self, config: RunConfig, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def logged(self, row: dict[str, Any]) -> None:
        self._progress.update(self._task, completed=row["step"], measured=self._measure(row))


class _Lines(Observer):
    def __init__(self, console: Console, name: str, measure: Any) -> None:
        self._console, self._name, self._measure = console, name, measure
        self._last, self._steps = time.monotonic(), 0

    def started(self, config: RunConfig, step: int) -> None:
        self._steps = config.steps
        if step:
            self._print(f"goes on after step {step}")

    def logged(self, row: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES or row["step"] == self._steps:
            self._last = now
            self._print(f"step {row['step']}/{self._steps}, {self._measure(row)}, {row['seconds']:.0f} s")

    def _print(self, text: str) -> None:
        self._console.print(f"{self._name}: {text}", markup=False, highlight=False)


def _accuracy(row: dict[str, Any]) -> str:
    return f"accuracy {row['accuracy']:.1%}".replace("%", " %")


def _bits(row: dict[str, Any]) -> str:
    return f"{row['loss'] / math.log(2):.2f} bits per byte"


def _command(options: DemoOptions) -> str:
    parts = ["statemix", "demo", "--out", str(options.out), "--seed", str(options.seed)]
    return shlex.join([*parts, "--quick"] if options.quick else parts)
