"""``statemix bench``: operators and layers, checked first, then timed beside a copy and their peers."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from statemix.bench import cases, decode, host, layers, operators
from statemix.bench.environment import describe, write_csv
from statemix.bench.peers import LAYERS
from statemix.bench.timing import warm_up
from statemix.ops import backend_for
from statemix.ops.checks import check_number, check_size
from statemix.ops.dispatch import unavailable_reason
from statemix.training.devices import choose_device, set_cpu_threads

from ._outputs import check_output


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, where, and where to keep it."""

    what: tyro.conf.Positional[Literal["op", "layer", "host", "decode"]] = "op"
    """Operators alone, layers with their projections, what calls cost the host, or decoding by tokens."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """A torch device."""
    threads: int | None = None
    """CPU threads; default what torch takes."""
    seconds: float = 1.0
    """Time spent on each measurement."""
    csv: Path | None = None
    """Write the rows here too, and beside them a .txt that says what made them."""
    only: Annotated[tuple[int, ...], tyro.conf.arg(metavar="M ...")] = ()
    """Only these block sizes and orders."""
    cases: tuple[Literal["targets", "contract", "few-lanes"], ...] = ("targets",)
    """Groups of operator shapes on a GPU: what training meets; every dtype, state and odd size; few lanes."""
    backend: Literal["auto", "reference", "cpu", "cuda", "triton"] = "auto"
    """Which kernels run the operators."""
    compile: bool = False
    """Decode with torch.compile as well."""
    minutes: float = 9.0
    """Time after which decoding is measured no further."""
    peers: bool = True
    """Measure the peers as well."""
    peer_seconds: float = 120.0
    """Time that a peer has, its compilation and tuning included; as long again to compile side by side."""


def main(argv: list[str]) -> int:
    """Parse options, measure, print a table, write a CSV."""
    options = tyro.cli(
        Options,
        args=argv,
        prog="statemix bench",
        description="Measure operators and layers, checked first, then timed beside a copy and their peers.",
    )
    if options.threads is not None:
        set_cpu_threads(check_size("bench", "--threads", options.threads))
    for name in ("seconds", "minutes", "peer_seconds"):
        check_number("bench", f"--{name}", getattr(options, name), "at least 0", lambda size: size >= 0)
    for size in options.only:
        check_size("bench", "--only", size)
    _check_taken(options)
    device = _device(options)
    if options.csv is not None and options.csv.suffix == ".txt":
        raise ValueError(
            f"bench: --csv must not end with .txt, where what made the rows is said; got {options.csv}"
        )
    rows = map(asdict, _MEASURES[options.what](options, device))
    check_output("--csv", options.csv)
    check_output("--csv", options.csv and options.csv.with_suffix(".txt"))
    head = describe(device, shlex.join(["statemix", "bench", *argv]))
    console = Console(width=None if Console().is_terminal else 140)
    for line in head:
        console.print(line, highlight=False)
    warm_up(device)
    found = []
    for row in rows:
        found.append(row)
        console.print(f"  measured {_summary(row)}", highlight=False)
        if options.csv is not None:  # row by row: a run that is stopped keeps what it measured
            write_csv(options.csv, found, head)
    console.print(_table(found))
    if options.csv is not None:
        console.print(f"written to {options.csv}")
    return 0


def _device(options: Options) -> torch.device:
    """The device; ValueError where it, or the backend that is named, cannot be measured here."""
    name = options.device
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"bench: --device {name}: there is no such kind; give cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"bench: --device must be cpu or cuda, where times can be taken; got {name}")
    wanted = {"size": 4, "family": "bdlru", "dtype": torch.float32}
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"bench: --device {device} cannot run here: {unavailable_reason('cuda', device, **wanted)}"
        )
    device = choose_device(name)
    if options.backend != "auto":
        reason = unavailable_reason(options.backend, device, **wanted)
        if reason is not None:
            raise ValueError(f"bench: --backend {options.backend} cannot run on {name}: {reason}")
    return device


def _operators(options: Options, device: torch.device) -> Iterator[operators.Row]:
    on_gpu = device.type == "cuda"
    chosen = cases.cuda_cases(options.cases) if on_gpu else cases.cpu_cases()
    sizes = sorted({case.M for case in chosen})
    chosen = [case for case in chosen if not options.only or case.M in options.only]
    if not chosen:
        raise ValueError(f"bench: --only must name some of the sizes {sizes}; got {list(options.only)}")
    return _measured(chosen, options, device)


def _measured(chosen: list[cases.Case], options: Options, device: torch.device) -> Iterator[operators.Row]:
    budget = options.seconds
    backend = backend_for(device) if options.backend == "auto" else options.backend
    yield from operators.measure(chosen, device, backend, budget_s=budget)
    if not options.peers:
        return
    shape = chosen[0]
    if device.type == "cpu":
        loops = [case for case in chosen if case.M in (1, 4)]
        yield from operators.measure(loops, device, "reference", budget_s=budget)
    yield from operators.measure_peers(
        shape.M * shape.N, shape.B, shape.T, device, budget_s=budget, peer_s=options.peer_seconds
    )


def _layers(options: Options, device: torch.device) -> Iterator[layers.Row]:
    peers = tuple(LAYERS) if options.peers else ()
    return layers.measure(
        device, budget_s=options.seconds, orders=options.only, peers=peers, peer_s=options.peer_seconds
    )


def _host(options: Options, device: torch.device) -> Iterator[host.Row]:
    return host.measure(device, budget_s=options.seconds)


def _decode(options: Options, device: torch.device) -> Iterator[decode.Row]:
    return decode.measure(
        device, budget_s=options.seconds / 2, orders=options.only, peers=options.peers,
        compile=options.compile, minutes=options.minutes,
    )  # fmt: skip


# Each raises for options that it cannot take where it is called; its rows are measured as they are asked for.
_MEASURES = {"op": _operators, "layer": _layers, "host": _host, "decode": _decode}

# What each takes of the options that not all do. Whoever wants no peers gets none anywhere.
_TAKES = {
    "op": ("only", "cases", "backend", "peer_seconds"),
    "layer": ("only", "peer_seconds"),
    "host": (),
    "decode": ("only", "compile", "minutes"),
}


def _check_taken(options: Options) -> None:
    """Raise ValueError for an option that would change nothing of what is measured."""
    taken = _TAKES[options.what]
    for name in dict.fromkeys(itertools.chain(*_TAKES.values())):
        if name not in taken and getattr(options, name) != getattr(Options, name):
            whose = ", ".join(what for what, names in _TAKES.items() if name in names)
            flag = name.replace("_", "-")
            raise ValueError(
                f"bench: {options.what} takes no --{flag}, which is of {whose}; got "
                f"{getattr(options, name)!r}: leave it out"
            )


def _summary(row: dict[str, Any]) -> str:
    return ", ".join(f"{k} {_shown(v)}" for k, v in row.items() if v != "" and v == v)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="times are medians; a share is of the speed of a copy in this run")
    for name in rows[0]:
        table.add_column(name, justify="right" if isinstance(rows[0][name], (int, float)) else "left")
    for row in rows:
        table.add_row(*(_shown(v) for v in row.values()))
    return table


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return "-" if value != value else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return str(value)
