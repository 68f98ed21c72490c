"""``statemix reproduce``: the paper's claims, each with its numbers and a verdict."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from statemix.experiments.claims import CLAIMS, Claim, Stopped, find_claim
from statemix.experiments.reproduce import REPORT, VERDICTS, read_verdicts, reproduce
from statemix.experiments.sweep import Launch
from statemix.ops.checks import check_number

from . import FAILED


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Run the paper's claims and write a verdict for each."""

    claims: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Which claims. Default: all of them."""

    budget: Literal["minutes", "hour", "paper"] = "minutes"
    """minutes: a check on a CPU; hour: one GPU; paper: the full protocol."""

    out: Path | None = None
    """Folder of runs, verdicts and report; what is done there is not run again. Default: reproduce/BUDGET."""

    minutes_at_most: float | None = None
    """Stop cleanly after so long; the same command goes on."""

    devices: tuple[str, ...] = ()
    """Where to run, a process each: cuda:0 cuda:0 are two that share it. Default: all GPUs, else two CPUs."""

    dry_run: bool = False
    """Print what would be run and what it costs, run nothing."""

    def __post_init__(self) -> None:
        if self.minutes_at_most is not None:
            check_number("reproduce", "minutes_at_most", self.minutes_at_most, "above 0", lambda m: m > 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run claims; 0 with all done, 1 where runs crashed, 128 + n where it was stopped."""
    options = tyro.cli(ReproduceOptions, args=argv, prog="statemix reproduce", description=_description())
    claims = [find_claim(name) for name in dict.fromkeys(options.claims)] or list(CLAIMS.values())
    console = Console()
    if options.dry_run:
        _show_plan(claims, options, console)
        return 0
    out = options.out or Path("reproduce") / options.budget
    began = time.monotonic()
    tell = _teller(console)
    try:
        for claim in claims:
            left = None
            if options.minutes_at_most is not None:
                left = options.minutes_at_most - (time.monotonic() - began) / 60
                if left <= 0:
                    raise Stopped(claim.name)
            verdicts = reproduce([claim], options.budget, out, launch=_launch(options, left), tell=tell)
    except Stopped as stopped:
        so_far = f"verdicts so far: {out / VERDICTS}" if read_verdicts(out) else "no verdict so far"
        console.print(f"\nStopped in {stopped.claim}; {so_far}. The same command goes on.", markup=False)
        return 128 + (stopped.signal or signal.SIGTERM)
    _show_verdicts(verdicts, console)
    console.print(f"\nThis took {(time.monotonic() - began) / 60:.1f} minutes. Verdicts and report:")
    for name in (VERDICTS, REPORT):
        console.print(str((out / name).resolve()), markup=False, highlight=False, soft_wrap=True)
    crashed = sum(verdict["crashed"] for verdict in verdicts)
    if crashed:
        print(
            f"statemix reproduce: {crashed} runs crashed; their errors are in {out / 'runs'}", file=sys.stderr
        )
    return FAILED if crashed else 0


def _launch(options: ReproduceOptions, minutes: float | None) -> Launch:
    devices = options.devices
    if not devices and not torch.cuda.is_available():
        # Models this small use one core each: a second process is worth more than a second thread.
        devices = ("cpu",) * min(2, os.cpu_count() or 1)
    one = len(devices) == 1 or (not devices and torch.cuda.device_count() == 1)
    return Launch(launcher="inline" if one else "local", devices=devices, minutes_at_most=minutes)


def _teller(console: Console):
    began = time.monotonic()

    def tell(line: str) -> None:
        words = f"{time.monotonic() - began:5.0f} s  {line}"
        console.print(words, markup=False, highlight=False, soft_wrap=True)

    return tell


def _show_plan(claims: Sequence[Claim], options: ReproduceOptions, console: Console) -> None:
    table = Table(title=f"Budget {options.budget}: what would be run", title_justify="left")
    table.add_column("claim")
    table.add_column("model")
    for name in ("trials", "steps", "tokens"):
        table.add_column(name, justify="right")
    total = {"trials": 0, "steps": 0, "tokens": 0}
    for claim in claims:
        for row in claim.plan(options.budget):
            table.add_row(
                claim.name, row["model"], *(f"{row[name]:,}" if row[name] else "-" for name in total)
            )
            for name in total:
                total[name] += row[name]
        table.add_section()
    table.add_row("in all", "", *(f"{number:,}" for number in total.values()))
    console.print(table)
    console.print("Trials that differ only in seed, rate and decay are trained as one, 16 at most.")


def _show_verdicts(verdicts: Sequence[dict], console: Console) -> None:
    table = Table(title="Verdicts", title_justify="left")
    for name in ("claim", "verdict", "what decided"):
        table.add_column(name)
    colours = {"holds": "green", "does not hold": "red", "undecided": "yellow"}
    for verdict in verdicts:
        told = [
            f"{c['wanted']}: {c['answer']}"
            + ("" if c["interval"] is None else f" ({c['interval'][0]:.3f} to {c['interval'][1]:.3f})")
            for c in verdict["comparisons"]
        ]
        colour = colours[verdict["verdict"]]
        table.add_row(verdict["claim"], f"[{colour}]{verdict['verdict']}[/]", "\n".join(told))
        table.add_section()
    console.print(table)


def _description() -> str:
    rows = [f"{claim.name}: {claim.statement}" for claim in CLAIMS.values()]
    return "Run the paper's claims and write a verdict for each.\n\n" + "\n\n".join(rows)
