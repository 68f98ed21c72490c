"""``statemix evaluate``: bits per byte and perplexity on held-out text, by how much was read before."""

from __future__ import annotations

import contextlib
import csv
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from statemix.ops.checks import check_size
from statemix.text import PrepareOptions, ReadOptions, ShardError, SourceError, TokenShards, prepare
from statemix.text.shards import INDEX
from statemix.text.tokenizers import TOKENIZER_FILE
from statemix.training import ShardData, TaskData, TextData, read_config
from statemix.training.data import TextSource, open_source
from statemix.training.evaluation import evaluate
from statemix.training.progress import describe_scores
from statemix.training.shard_data import open_shards
from statemix.training.text_scores import TextScores, score_text

from ._models import OpenedModel, format_of, open_model
from ._tables import check_table

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
    check_table(options.csv)
    opened = open_model(options.model, device=options.device)
    data = None
    if options.data is None:
        if format_of(opened.path) != "run":
            raise ValueError(f"{opened.path} does not say what it was trained on: give --data")
        data = read_config(opened.path).data
        text = data.corpus if isinstance(data, TextData) else getattr(data, "path", "stdlib")
        if text != "stdlib" and not Path(text).exists():
            raise ValueError(
                f"the text that {opened.path.name} was trained on, {text}, is not here: give --data"
            )
    device = next(opened.model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
        if isinstance(data, TaskData):
            scores = evaluate(opened.model, open_source(data))
            print(f"{opened.path}: {describe_scores(dict(scores))}")
            if options.csv is not None:
                _write(options.csv, list(scores), [scores])
            return 0
        length = options.length or _trained_length(opened.path) or 1024
        with _shards(opened, options.data, data) as (shards, split):
            _check_vocabulary(opened, shards)
            found = score_text(opened.model, shards.split(split), length=length, tokens=options.tokens)
    _show(opened, options, found)
    return 0


@contextlib.contextmanager
def _shards(
    opened: OpenedModel, name: str | None, data: TextData | ShardData | None
) -> Iterator[tuple[TokenShards, str]]:
    """Shards and the split that is measured; text that is not prepared is, for as long as it takes."""
    if isinstance(data, ShardData):
        yield open_shards(data.path), "validation"
    elif name == "stdlib" or (name is not None and (Path(name) / INDEX).is_file()):
        yield open_shards(name), "validation"
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            read = ReadOptions()
            if isinstance(data, TextData):
                source = open_source(data)
                assert isinstance(source, TextSource)
                (folder / "held-out").write_bytes(source.corpus.held_out.tobytes())
                name, read = str(folder / "held-out"), ReadOptions(separator="\0")
            assert name is not None
            tokenizer = opened.text_tokenizer()
            tokenizer.save(folder)
            file = folder / TOKENIZER_FILE
            options = PrepareOptions(validation_share=0.0, read=read)
            if file.is_file():
                options = replace(options, tokenizer=str(file), end_token=tokenizer.end_text or "")
            yield _prepared(name, folder / "shards", options), "train"


def _prepared(source: str, folder: Path, options: PrepareOptions) -> TokenShards:
    try:
        return prepare([source], folder, options, progress=False)
    except SourceError as error:
        # Its advice is about flags and a folder of the other command.
        raise SourceError(
            f"{str(error).partition('; ')[0]}; statemix text prepare has flags for such text: give --data "
            f"the folder that it writes"
        ) from None


def _check_vocabulary(opened: OpenedModel, shards: TokenShards) -> None:
    reads = opened.model.embedding.num_embeddings
    if shards.vocab_size > reads:
        raise ShardError(
            f"{shards.folder} has tokens of a vocabulary of {shards.vocab_size:,} and the model of "
            f"{opened.path} reads {reads:,}: prepare the text with the model's tokenizer"
        )
    theirs = opened.tokenizer
    if theirs is not None and theirs.identity != shards.tokenizer().identity:
        raise ShardError(
            f"{shards.folder} was prepared with another tokenizer than the model of {opened.path}: prepare "
            f"the text with the model's"
        )


def _trained_length(path: Path) -> int | None:
    if format_of(path) != "run":
        return None
    return getattr(read_config(path).data, "length", None)


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
        _write(options.csv, COLUMNS, rows)


def _write(path: Path, columns: tuple[str, ...] | list[str], rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
