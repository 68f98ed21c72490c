"""``statemix convert``: models between run folders and the format of Transformers, weight for weight."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from statemix.files import write_json
from statemix.models import LanguageModel, ModelConfig
from statemix.text import ByteTokenizer, Tokenizer
from statemix.text.tokenizers import TOKENIZER_FILE
from statemix.training import (
    RunConfig,
    ShardData,
    TextData,
    from_json,
    read_config,
    to_json,
)
from statemix.training.checkpoint import newest_checkpoint, save_checkpoint
from statemix.training.folder import CHECKPOINTS, CONFIG, END_TOKEN_FILE, RESULT
from statemix.training.optimizer import make_optimizer

from ._models import (
    Format,
    ModelFileError,
    format_of,
    language_model_of_run,
    load_huggingface,
    quiet,
    tokenizer_of_huggingface,
    tokenizer_of_run,
    told_of,
)

RUN_FILE = "statemix_run.json"
"""In a folder of Transformers: the config of the run that made the weights, and the step."""

KEPT_FILES = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", TOKENIZER_FILE)
"""Files of Transformers that a run folder keeps, so that nothing is lost on the way back."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Convert a run folder to the format of Transformers, or back; the weights stay as they are."""

    source: Annotated[Path, tyro.conf.arg(metavar="SOURCE"), tyro.conf.Positional]
    """A run folder of statemix train, or a folder that save_pretrained wrote."""

    target: Annotated[Path, tyro.conf.arg(metavar="TARGET"), tyro.conf.Positional]
    """The folder to write; it must not hold anything."""

    to: Format | None = None
    """Format to write. Default: the other one. A run made into a run loses its optimizer state alone."""

    max_shard_size: str = "5GB"
    """Largest file of weights in the format of Transformers."""

    def __post_init__(self) -> None:
        size = re.fullmatch(r"(\d+|\d*\.\d+)[KMGT]B", self.max_shard_size.upper())
        if size is None or not float(size[1]):
            raise ValueError(
                f"convert: max_shard_size must be a size above 0 in KB, MB, GB or TB, as 5GB; got "
                f"{self.max_shard_size!r}"
            )


def main(argv: list[str]) -> int:
    """Convert."""
    options = tyro.cli(Options, args=argv, prog="statemix convert", description=Options.__doc__)
    written = convert(options)
    print(f"written to {options.target} ({written})")
    return 0


def convert(options: Options) -> Format:
    """Write the target whole or not at all; the format that was written.

    Raises:
        ModelFileError: no model in the source, or a target that is not empty.
    """
    source, target = options.source, options.target
    found = format_of(source)
    wanted: Format = options.to or ("run" if found == "huggingface" else "huggingface")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelFileError(f"{target}: it is not empty, and nothing is written over; choose another")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        if wanted == "huggingface":
            if found == "huggingface":
                raise ModelFileError(f"{source}: it has the format of Transformers already; copy it")
            _to_huggingface(source, made, options.max_shard_size)
        elif found == "huggingface":
            _to_run(source, made, target.name)
        else:
            step = newest_checkpoint_step(source)
            write_run(made, read_config(source), language_model_of_run(source), step)
            _copy(source, made)
        if target.exists():
            target.rmdir()
        made.rename(target)
    return wanted


def write_run(folder: Path, config: RunConfig, model: LanguageModel, step: int) -> None:
    """A run folder that holds a model and no optimizer state: to use, evaluate or convert."""
    write_json(folder / CONFIG, to_json(config))
    save_checkpoint(folder / CHECKPOINTS, model, make_optimizer(model, config.optimizer), step, {})


def newest_checkpoint_step(folder: Path) -> int:
    """The step of a run's newest good checkpoint."""
    checkpoint = newest_checkpoint(folder / CHECKPOINTS)
    if checkpoint is None:
        raise ModelFileError(f"{folder}: the run has no checkpoint yet")
    return int(checkpoint.name.rpartition("-")[2])


def _to_huggingface(source: Path, made: Path, max_shard_size: str) -> None:
    from statemix.models.huggingface import to_huggingface

    tokenizer = tokenizer_of_run(source)
    ends: dict[str, Any] = {}
    if tokenizer is not None:
        ends = {"eos_token_id": tokenizer.end_token, "pad_token_id": tokenizer.end_token}
    model = language_model_of_run(source)
    with told_of(source):
        model = to_huggingface(model, **ends)
    with quiet():
        model.save_pretrained(made, max_shard_size=max_shard_size)
    if tokenizer is not None:
        _save_tokenizer(tokenizer, made)
    step = newest_checkpoint_step(source)
    write_json(made / RUN_FILE, {"step": step, "config": to_json(read_config(source))})
    _copy(source, made)


def _save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    from statemix.models.huggingface import byte_tokenizer

    if isinstance(tokenizer, ByteTokenizer):
        byte_tokenizer().save_pretrained(folder)
        return
    tokenizer.save(folder)
    from tokenizers import Tokenizer as Fast

    fast = Fast.from_file(str(folder / TOKENIZER_FILE))
    end = fast.id_to_token(tokenizer.end_token)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=fast, eos_token=end, pad_token=end, padding_side="left",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    wrapped.save_pretrained(folder)


def _to_run(source: Path, made: Path, name: str) -> None:
    from statemix.models.huggingface import from_huggingface
    from statemix.models.huggingface.conversion import our_config

    theirs = load_huggingface(source)
    with told_of(source):
        model_config = our_config(theirs.config)
    config, step = _known_run(source)
    if config is None or not _is_the_same(config.model, model_config):
        reads_bytes = theirs.config.vocab_size == ByteTokenizer.vocab_size
        data = TextData() if reads_bytes else ShardData(path="shards")
        config = RunConfig(name=name, model=model_config, data=data)
    model = from_huggingface(theirs).float()  # runs keep float32; every bfloat16 is one
    write_run(made, config, model, step)
    _copy(source, made)
    if (made / TOKENIZER_FILE).is_file() and isinstance(config.data, ShardData):
        with contextlib.suppress(ValueError):  # without an end it is still a model
            tokenizer = tokenizer_of_huggingface(source, theirs.config)
            if tokenizer is not None:
                write_json(made / END_TOKEN_FILE, tokenizer.end_token)


def _is_the_same(model: ModelConfig, converted: ModelConfig) -> bool:
    """Whether a run's model is the one that came back: a pattern may be said in several ways."""
    said = {"mixer": converted.mixer, "pattern": converted.pattern}
    # What the format of Transformers has no word for.
    said |= {"output_size": converted.output_size, "gradient_checkpointing": converted.gradient_checkpointing}
    said |= {"max_length": converted.max_length}
    return replace(model, **said) == converted and model.mixers() == converted.mixers()


def _known_run(source: Path) -> tuple[RunConfig | None, int]:
    file = source / RUN_FILE
    if not file.is_file():
        return None, 0
    try:
        values = json.loads(file.read_bytes())
        return from_json(values["config"]), int(values["step"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return None, 0  # of another version: the model's own config is enough


def _copy(source: Path, made: Path) -> None:
    for name in (*KEPT_FILES, RESULT, "example.json", END_TOKEN_FILE, "README.md"):
        if (source / name).is_file() and not (made / name).exists():
            shutil.copyfile(source / name, made / name)
