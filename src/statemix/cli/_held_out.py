"""Text that a model did not read: what its run held out, or any other."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from statemix.text import PrepareOptions, ReadOptions, ShardError, SourceError, TokenShards, prepare
from statemix.text.shards import INDEX, TokenSplit
from statemix.text.tokenizers import TOKENIZER_FILE
from statemix.training import DataConfig, ShardData, TextData, read_config
from statemix.training.data import TextSource, open_source
from statemix.training.shard_data import open_shards

from ._models import OpenedModel, format_of


def trained_on(path: Path) -> DataConfig:
    """What the run in a folder was trained on.

    Raises:
        ValueError: it does not say so, or its text is gone.
    """
    if format_of(path) != "run":
        raise ValueError(f"{path} does not say what it was trained on: give --data")
    data = read_config(path).data
    text = data.corpus if isinstance(data, TextData) else getattr(data, "path", "stdlib")
    if text != "stdlib" and not Path(text).exists():
        raise ValueError(f"the text that {path.name} was trained on, {text}, is not here: give --data")
    return data


@contextlib.contextmanager
def held_out(
    opened: OpenedModel, name: str | None, data: TextData | ShardData | None
) -> Iterator[TokenSplit]:
    """Text that a model did not read, as its own tokens; what is not prepared is, for as long as it takes.

    Args:
        opened: the model and its tokenizer.
        name: a folder of prepared shards (its validation split), "stdlib", or any text; None for ``data``.
        data: what the model was trained on.

    Raises:
        ShardError: tokens of another vocabulary or tokenizer.
        SourceError: text that cannot be read.
        ModelFileError: text for a model whose tokens are no text.
    """
    if isinstance(data, ShardData):
        yield _split(opened, open_shards(data.path), "validation")
    elif name == "stdlib" or (name is not None and (Path(name) / INDEX).is_file()):
        yield _split(opened, open_shards(name), "validation")
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
            yield _split(opened, _prepared(name, folder / "shards", options), "train")


def _prepared(source: str, folder: Path, options: PrepareOptions) -> TokenShards:
    try:
        return prepare([source], folder, options, progress=False)
    except SourceError as error:
        # Its advice is about flags and a folder of the other command.
        raise SourceError(
            f"{str(error).partition('; ')[0]}; statemix text prepare has flags for such text: give --data "
            f"the folder that it writes"
        ) from None


def _split(opened: OpenedModel, shards: TokenShards, split: str) -> TokenSplit:
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
    return shards.split(split)


def trained_length(path: Path) -> int | None:
    """Tokens of the sequences that a model was trained on, where its folder says so."""
    if format_of(path) != "run":
        return None
    return getattr(read_config(path).data, "length", None)
