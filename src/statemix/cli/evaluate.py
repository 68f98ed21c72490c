"""``statemix evaluate``: bits per byte and perplexity on held-out text, by how much was read before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from statemix.files import write_table
from statemix.ops.checks import check_size
from statemix.training import TaskData
from statemix.training.data import open_source
from statemix.training.evaluation import evaluate
from statemix.training.progress import describe_scores
from statemix.training.text_scores import TextScores, score_text

from ._held_out import held_out, trained_length, trained_on
from ._models import OpenedModel, open_model
from ._outputs import check_output

COLUMNS = ("context_from", "context_to", "tokens", "bits_per_byte", "perplexity")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure a model on text that it was not trained on; a run of a task on that task."""

    model: Annotated[Path | None, tyro.conf.arg(metavar="MODEL"), tyro.conf.Positional] = None
    """A run folder of statemix train, or a folder that save_pretrained wrote. Default: the shipped model."""

    data: str | None = None
    """Folder of prepared shards (its validation split), "stdlib", or any text: a file, a folder, JSON lines.
    Default: what the run held out."""

    length: int | None = None
    """Tokens of context at most. Default: what the run was trained at, else 1024."""

    tokens: int = 2**20
    """Tokens that are measured at most, in whole documents."""

    csv: Path | None = None
    """Write the table there too."""

    device: str = "auto"
    """"auto" takes a GPU where there is one; or cpu, cuda, cuda:1."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the projections."""

    def __post_init__(self) -> None:
        for name in ("length", "tokens"):
            if getattr(self, name) is not None:
                check_size("evaluate", f"--{name}", getattr(self, name))


def main(argv: list[str]) -> int:
    """Measure, print the table, write it where it is asked for."""
    options = tyro.cli(Options, args=argv, prog="statemix evaluate", config=(tyro.conf.OmitArgPrefixes,))
    check_output("--csv", options.csv)
    opened = open_model(options.model, device=options.device)
    data = trained_on(opened.path) if options.data is None else None
    device = next(opened.model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
        if isinstance(data, TaskData):
            _check_taken(options)
            scores = evaluate(opened.model, open_source(data))
            print(f"{opened.path}: {describe_scores(dict(scores))}")
            if options.csv is not None:
                write_table(options.csv, list(scores), [scores])
            return 0
        length = options.length or trained_length(opened.path) or 1024
        with held_out(opened, options.data, data) as split:
            found = score_text(opened.model, split, length=length, tokens=options.tokens)
    _show(opened, options, found)
    return 0


def _check_taken(options: Options) -> None:
    """Raise ValueError for an option that would change nothing of what a run of a task is measured by."""
    for name in ("length", "tokens"):
        if getattr(options, name) != getattr(Options, name):
            raise ValueError(
                f"evaluate: a run of a task takes no --{name}, which is of text: it is tested at the lengths "
                f"of its config; got {getattr(options, name)}: leave it out"
            )


def _show(opened: OpenedModel, options: Options, scores: TextScores) -> None:
    rows = [
        {
            "context_from": bucket.start,
            "context_to": bucket.stop,
            "tokens": bucket.tokens,
            "bits_per_byte": scores.bits_per_byte_in(bucket),
            "perplexity": bucket.perplexity,
        }
        for bucket in (*scores.buckets, scores.total)
    ]
    print(
        f"{opened.path}: {scores.documents:,} documents, {scores.tokens:,} tokens, {scores.bytes:,.0f} bytes"
    )
    print(f"{'tokens before':>15}  {'tokens':>10}  {'bits per byte':>13}  {'perplexity':>10}")
    for row in rows:
        last = row is rows[-1]
        place = "all" if last else f"{row['context_from']} to {row['context_to'] - 1}"
        print(f"{place:>15}  {row['tokens']:>10,}  {row['bits_per_byte']:>13.4f}  {row['perplexity']:>10.4g}")
    if options.csv is not None:
        write_table(options.csv, COLUMNS, rows)
