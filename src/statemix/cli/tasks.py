"""``statemix tasks``: what generated tasks there are, and samples of each in readable form."""

from __future__ import annotations

import inspect
import itertools
import shutil
import sys
import textwrap
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from statemix.tasks import CATALOG, Entry, Task, entry, make

USAGE = """usage: statemix tasks                     list all tasks, with a small sample of each
       statemix tasks NAME [--SETTING ...]  show samples of one; every setting is a flag

statemix tasks NAME --help lists the settings."""

NARROW = 120
"""Characters of a line below which the list leaves settings and sources out."""


def main(argv: list[str]) -> int:
    """List, or show samples."""
    if argv and argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if argv:
        print(_describe(argv[0], _read(argv)))
    else:
        _list()
    return 0


@dataclass(frozen=True, kw_only=True)
class _Options:
    task: Annotated[Task, tyro.conf.arg(name="")]
    """The task."""

    samples: int = 3
    """Sequences to show."""

    seed: int = 0
    """Seed of the samples."""

    step: int = 0
    """Step whose batch is shown."""

    split: Literal["train", "validation", "test"] = "train"
    """Split whose batch is shown."""


def _read(argv: list[str]) -> _Options:
    name = argv[0]
    if name.startswith("-"):
        raise ValueError(f"the name of a task comes first; got {name!r}\n\n{USAGE}")
    return tyro.cli(
        _Options,
        default=_Options(task=make(name)),
        args=argv[1:],
        prog=f"statemix tasks {name}",
        description=_what(make(name)),
        config=(tyro.conf.AvoidSubcommands,),
    )


def _what(task: Task) -> str:
    """The docstring of a task up to what concerns code."""
    paragraphs = inspect.cleandoc(type(task).__doc__ or "").split("\n\n")
    told = itertools.takewhile(
        lambda text: not text.startswith(("Raises:", "Examples:", "Source:")), paragraphs
    )
    return "\n\n".join(told)


def _describe(name: str, options: _Options) -> str:
    found, task = entry(name), options.task
    batch = task.sample(options.samples, options.seed, step=options.step, split=options.split)
    rows = {
        "asked": found.asks,
        "settings": settings_of(task),
        "tokens": f"{task.vocab_size} in, {task.output_size} out; guessing is right in {task.chance:.1%}",
        "lengths": lengths_of(task),
        "harder": "; ".join(f"{axis} {_values(values)}" for axis, values in found.axes.items()),
        "training set": _training_set(found),
        "source": found.source,
    }
    width = max(map(len, rows)) + 2
    lines = [name]
    for title, text in rows.items():
        if text:
            indent = " " * (width + 2)
            first = f"  {title:<{width}}"
            lines += textwrap.wrap(text, _columns(100), initial_indent=first, subsequent_indent=indent)
    pictures = [task.render(batch, index, width=_columns(100)) for index in range(options.samples)]
    return "\n".join([*lines, "", "\n\n".join(pictures)])


def _list() -> None:
    console = Console(width=_columns(150), highlight=False)
    columns = {
        "task": lambda name, found, task: name,
        "what is asked": lambda name, found, task: found.asks,
        "settings": lambda name, found, task: settings_of(task),
        "in, out": lambda name, found, task: f"{task.vocab_size}, {task.output_size}",
        "train; test lengths": lambda name, found, task: lengths_of(task),
        "source": lambda name, found, task: found.source.partition(", ")[2],
    }
    if console.width < NARROW:
        # What NAME shows anyway.
        del columns["settings"], columns["source"]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in columns:
        table.add_column(title, no_wrap=title in ("task", "source"))
    for name, found in CATALOG.items():
        task = make(name)
        table.add_row(*(cell(name, found, task) for cell in columns.values()))
    console.print(table)
    print("\nSmall samples; statemix tasks NAME shows more.")
    for name, found in CATALOG.items():
        task = make(name, **found.small)
        print(f"\n{name} ({', '.join(f'{setting} {value}' for setting, value in found.small.items())})")
        print(task.render(task.sample(1, seed=1), width=_columns(100)))


def settings_of(task: Task) -> str:
    """The fields of a task with their values, the start token only where there is one."""
    values = {field.name: getattr(task, field.name) for field in fields(task)}
    if not task.start_token:
        del values["start_token"]
    return ", ".join(f"{name} {value}" for name, value in values.items())


def lengths_of(task: Task) -> str:
    """The lengths that the source trains on and tests at."""
    shortest, longest = task.train_lengths
    trained = f"{longest}" if shortest == longest else f"{shortest}-{longest}"
    return f"{trained}; {' '.join(map(str, task.test_lengths))}"


def _training_set(found: Entry) -> str:
    if found.examples is None:
        return "new sequences at every step"
    fewer = f"; harder: {_values(found.fewer_examples)}" if found.fewer_examples else ""
    return f"{found.examples} sequences{fewer}"


def _values(values: tuple[object, ...]) -> str:
    return " ".join(map(str, values))


def _columns(otherwise: int) -> int:
    """Width of the terminal, or of what is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else otherwise
