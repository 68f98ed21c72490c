"""``statemix inspect``: a page about what the recurrent layers of a trained model do."""

from __future__ import annotations

import csv
import shlex
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from statemix.analysis import LayerFindings, inspect_layers
from statemix.analysis.report.model import ModelFindings, model_page
from statemix.analysis.report.state_tracking import percent
from statemix.ops.checks import check_size
from statemix.text import Tokenizer
from statemix.text.shards import TokenSplit
from statemix.training import TaskData, load_run, read_config, read_result
from statemix.training.metrics import METRICS

from ._held_out import held_out, trained_length, trained_on
from ._models import format_of, open_model
from ._outputs import check_output

_LONGEST = 512
_DOCUMENTS = 10_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a page about what a trained model does: its transitions, its memory, its training."""

    model: Annotated[Path | None, tyro.conf.arg(metavar="MODEL"), tyro.conf.Positional] = None
    """A run folder of statemix train, or a folder that save_pretrained wrote. Default: the shipped model."""

    data: str | None = None
    """What it reads meanwhile: a folder of prepared shards (its validation split), "stdlib", or any text.
    Default: what the run held out, and the standard library where a folder does not say."""

    length: int | None = None
    """Tokens of each sequence. Default: what the model was trained at, 512 at most."""

    sequences: int = 4
    """Sequences that are read."""

    out: Path | None = None
    """The page. Default: inspection.html in the model's folder, and here for the shipped model."""

    device: str = "auto"
    """"auto" takes a GPU where there is one; or cpu, cuda, cuda:1."""

    def __post_init__(self) -> None:
        for name in ("length", "sequences"):
            if getattr(self, name) is not None:
                check_size("inspect", f"--{name}", getattr(self, name))


@dataclass(frozen=True)
class _Subject:
    """A model and the tokens that it reads, with their names."""

    model: nn.Module
    tokens: Tensor
    read: str
    symbols: list[str]


def main(argv: list[str]) -> int:
    """Run the model, print a line for each layer, write the page."""
    options = tyro.cli(Options, args=argv, prog="statemix inspect", config=(tyro.conf.OmitArgPrefixes,))
    run = options.model if options.model is not None and format_of(options.model) == "run" else None
    out = options.out or (options.model or Path()) / "inspection.html"
    check_output("--out", out)
    subject = _subject(options, run)
    layers = inspect_layers(subject.model, subject.tokens)
    config = getattr(subject.model, "config", None)
    findings = ModelFindings(
        name="the shipped model" if options.model is None else options.model.resolve().name,
        parameters=sum(p.numel() for p in subject.model.parameters()),
        read=subject.read,
        layers=layers,
        symbols=subject.symbols,
        command=shlex.join(["statemix", "inspect", *argv]),
        **({"config": config} if run is None else _training(run)),
    )
    page = model_page(findings).write(out)
    for layer in layers:
        print(_line(layer))
    print(f"{page}")
    return 0


def _subject(options: Options, run: Path | None) -> _Subject:
    data = trained_on(run) if run is not None and options.data is None else None
    if isinstance(data, TaskData):
        assert run is not None
        model: nn.Module = load_run(run, device=options.device)
        length = options.length or min(data.trained_length, _LONGEST)
        task = data.task.with_length(length)
        tokens = task.sample(options.sequences, split="test").inputs
        names = ["^" if token == task.num_tokens else task.token_name(token) for token in tokens[0].tolist()]
        read = f"{options.sequences} test sequences of its task, {type(task).__name__}, of length {length}"
        return _Subject(model, tokens.to(next(model.parameters()).device), read, names)
    opened = open_model(options.model, device=options.device)
    source = options.data or ("stdlib" if data is None else None)
    length = options.length or min(trained_length(opened.path) or _LONGEST, _LONGEST)
    with held_out(opened, source, data) as split:
        tokens = torch.from_numpy(_documents(split, options.sequences, length)).long()
    read = f"{len(tokens)} held-out documents of {tokens.shape[1]:,} tokens, from their beginnings"
    names = _names(opened.tokenizer, tokens[0].tolist())
    return _Subject(opened.model, tokens.to(next(opened.model.parameters()).device), read, names)


def _documents(split: TokenSplit, sequences: int, length: int) -> np.ndarray:
    """The beginnings of the first documents that are long enough; of the longest where none is."""
    places = [split.document(number)[:2] for number in range(min(split.documents, _DOCUMENTS))]
    if not places:
        raise ValueError("the text has no documents: give --data")
    length = min(length, max(stop - start for start, stop in places))
    fitting = (start for start, stop in places if stop - start >= length)
    return np.stack([split.read(start, start + length) for start in islice(fitting, sequences)])


def _names(tokenizer: Tokenizer | None, tokens: list[int]) -> list[str]:
    if tokenizer is None:
        return [str(token) for token in tokens]
    return [repr(tokenizer.decode([token]))[1:-1] for token in tokens]


def _training(folder: Path) -> dict[str, Any]:
    """What a run folder says of the training."""
    config, result = read_config(folder), read_result(folder) or {"scores": {}}
    scores = dict(result["scores"])
    prefix = "accuracy_at_"
    ends = {name: name.removeprefix(prefix) for name in scores if name.startswith(prefix)}
    accuracy = {int(end): scores.pop(name) for name, end in ends.items() if end.isdigit()}
    rows: list[dict[str, str]] = []
    if (folder / METRICS).is_file():
        with open(folder / METRICS, newline="") as file:
            # A last row that was torn off, by a full disk, lacks columns.
            rows = [row for row in csv.DictReader(file) if None not in row.values()]
    wanted = ("loss", "accuracy") if isinstance(config.data, TaskData) else ("loss",)
    steps = [float(row["step"]) for row in rows]
    return {
        "training": {name: (steps, [float(row[name]) for row in rows]) for name in wanted if rows},
        "accuracy": accuracy,
        "scores": scores,
        "trained_at": config.data.trained_length,
        "config": config,
    }


def _line(layer: LayerFindings) -> str:
    summary = layer.spectrum.summary()
    return (
        f"{layer.name or layer.kind}: {layer.kind} {layer.blocks} x {layer.size}, "
        f"{percent(summary.complex_share)} turn, {percent(summary.negative_share)} flip, "
        f"largest eigenvalue {summary.radius:.4f}; half forget in {summary.median_memory:,.1f} steps, the "
        f"best block keeps {percent(layer.lasting)} of a difference over {layer.bound.steps:,}"
    )
