"""Models from files, of either format: run folders of statemix and folders of Transformers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from statemix.assets import EXAMPLE
from statemix.models import LanguageModel
from statemix.text import ByteTokenizer, FileTokenizer, Tokenizer
from statemix.text.tokenizers import TOKENIZER_FILE
from statemix.training import ShardData, TextData, load_run, read_config
from statemix.training.devices import choose_device
from statemix.training.folder import END_TOKEN_FILE

Format = Literal["run", "huggingface"]


class ModelFileError(ValueError):
    """A folder that holds no such model; the message has its path, the reason and what to do."""


@dataclass(frozen=True)
class OpenedModel:
    """A language model ready to be used, and the tokenizer of its text (None where tokens are no text)."""

    model: LanguageModel
    tokenizer: Tokenizer | None
    path: Path

    def text_tokenizer(self) -> Tokenizer:
        """The tokenizer, where text is to be read or written.

        Raises:
            ModelFileError: there is none.
        """
        if self.tokenizer is None:
            raise ModelFileError(
                f"{self.path}: its tokens are no text (it was trained on a generated task, or its tokenizer "
                f"is missing: put its tokenizer.json there)"
            )
        return self.tokenizer


def open_model(path: Path | None, *, device: str = "auto") -> OpenedModel:
    """The model in a folder of either format; the shipped example for None.

    Raises:
        ModelFileError: no model there, one of another architecture, or weights that do not fit its config.
        ValueError: a device that is not here.
    """
    folder = EXAMPLE if path is None else path
    place = choose_device(device)
    if format_of(folder) == "run":
        model = language_model_of_run(folder, device=str(place))
        tokenizer = tokenizer_of_run(folder)
    else:
        from statemix.models.huggingface.conversion import language_model

        theirs = load_huggingface(folder)
        with told_of(folder):
            model = language_model(theirs).to(place).eval()
        tokenizer = tokenizer_of_huggingface(folder, theirs.config)
    reads = model.embedding.num_embeddings
    if tokenizer is not None and tokenizer.vocab_size > reads:
        raise ModelFileError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size:,} tokens and its model reads {reads:,}: "
            f"they belong to different models"
        )
    return OpenedModel(model, tokenizer, folder)


def language_model_of_run(folder: Path, *, device: str = "cpu") -> LanguageModel:
    """The model of a run folder.

    Raises:
        ModelFileError: it is of another architecture.
    """
    model: Any = load_run(folder, device=device)
    if not isinstance(model, LanguageModel):
        raise ModelFileError(f"{folder}: it holds an {type(model).__name__.lower()}, no language model")
    return model


@contextlib.contextmanager
def told_of(folder: Path) -> Iterator[None]:
    """What a conversion refuses is wrong with the model in this folder."""
    try:
        yield
    except ValueError as error:
        raise ModelFileError(f"{folder}: {error}") from None


def format_of(folder: Path) -> Format:
    """Which format a folder is of.

    Raises:
        ModelFileError: neither.
    """
    if not folder.exists():
        raise ModelFileError(f"{folder}: there is nothing there")
    file = folder / "config.json"
    if not file.is_file():
        raise ModelFileError(
            f"{folder}: it holds no config.json; give a run folder of statemix train, or a folder that "
            f"save_pretrained wrote"
        )
    values = _json_in(file)
    if not isinstance(values, dict):
        raise ModelFileError(f"{file}: it is no config of a model")
    kind = values.get("model_type")
    if kind == "statemix":
        return "huggingface"
    if kind is not None:
        raise ModelFileError(f"{folder}: it holds a model of another architecture, {kind!r}")
    if "model" not in values or "data" not in values:
        raise ModelFileError(f"{file}: it is the config of neither a run nor a model of Transformers")
    return "run"


def tokenizer_of_run(folder: Path) -> Tokenizer | None:
    """The tokenizer of the text that a run was trained on; None for a generated task."""
    data = read_config(folder).data
    if isinstance(data, TextData):
        return ByteTokenizer()
    if (folder / TOKENIZER_FILE).is_file():
        return FileTokenizer.from_file(folder, end_token=_end_token(folder))
    if (folder / END_TOKEN_FILE).is_file():
        return ByteTokenizer()
    if isinstance(data, ShardData):
        from statemix.training.shard_data import open_shards

        return open_shards(data.path).tokenizer()
    return None


def tokenizer_of_huggingface(folder: Path, config: Any) -> Tokenizer | None:
    """The tokenizer.json in a folder; without one, bytes for a vocabulary of their size.

    What ends a text the model says, else the tokenizer, else the usual names do.
    """
    if not (folder / TOKENIZER_FILE).is_file():
        return ByteTokenizer() if config.vocab_size == ByteTokenizer.vocab_size else None
    end = config.eos_token_id
    if isinstance(end, list):
        end = end[0] if end else None
    return FileTokenizer.from_file(folder, end_token=_end_text(folder) if end is None else end)


def load_huggingface(folder: Path) -> Any:
    """The Transformers model in a folder, every weight of which came from there.

    Raises:
        ModelFileError: weights are missing, unknown or of other sizes, with the first of them.
    """
    from statemix.models.huggingface import StatemixForCausalLM

    try:
        with quiet():
            found: Any = StatemixForCausalLM.from_pretrained(
                folder, output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True
            )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelFileError(f"{folder}: its weights cannot be read: {error}") from None
    model, loading = found
    problems = [f"{name} is missing" for name in sorted(loading["missing_keys"])]
    problems += [f"{name} is unknown" for name in sorted(loading["unexpected_keys"])]
    for name, there, here in sorted(loading["mismatched_keys"]):
        problems.append(f"{name} is {tuple(there)} there and {tuple(here)} by its config")
    if problems:
        shown = "; ".join(problems[:3]) + ("; ..." if len(problems) > 3 else "")
        raise ModelFileError(
            f"{folder}: its weights are not those of its config ({len(problems)} differences): {shown}"
        )
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and reports of Transformers: what is wrong is said by us."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def _end_text(folder: Path) -> str | None:
    """The token that ends a text by the tokenizer_config.json of Transformers."""
    file = folder / "tokenizer_config.json"
    values = _json_in(file) if file.is_file() else {}
    if not isinstance(values, dict):
        raise ModelFileError(f"{file}: it is no config of a tokenizer")
    end = values.get("eos_token")
    return end.get("content") if isinstance(end, dict) else end


def _end_token(folder: Path) -> int | None:
    file = folder / END_TOKEN_FILE
    if not file.is_file():
        return None
    end = _json_in(file)
    if not isinstance(end, int):
        raise ModelFileError(f"{file}: it must hold the number of the token that ends a text; got {end!r}")
    return end


def _json_in(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise ModelFileError(f"{file}: it is no JSON: {error}") from None
