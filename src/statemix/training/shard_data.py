"""Batches of prepared text: documents packed into rows, shuffled, a pure function of the step."""

from __future__ import annotations

import functools
import platform
import shutil
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from statemix.files import cache_folder
from statemix.ops.checks import check_size
from statemix.tasks import Batch, stream
from statemix.text import (
    ByteTokenizer,
    Packed,
    PrepareOptions,
    ReadOptions,
    TokenShards,
    pack,
    permuted,
    prepare,
)
from statemix.text.corpora import HELD_OUT_SHARE, LEFT_OUT
from statemix.text.shards import INDEX


@dataclass(frozen=True, kw_only=True)
class ShardData:
    """Train on prepared text, documents packed into rows; measure on documents that were held out.

    Raises:
        ValueError: a size below one. What is wrong with the shards is said when they are opened.

    Examples:
        >>> ShardData(length=512).vocab_size
        256
    """

    path: str = "stdlib"
    """Folder of prepared shards; "stdlib" prepares the source of Python's standard library by itself."""

    length: int = 1024
    """Tokens of a row."""

    reset_states: bool = True
    """Whether every document starts from a fresh state; otherwise rows are read as one text each."""

    evaluation_tokens: int = 2**20
    """Held-out tokens that are measured at most, in whole documents."""

    def __post_init__(self) -> None:
        for name in ("length", "evaluation_tokens"):
            check_size("data", name, getattr(self, name))

    @property
    def trained_length(self) -> int:
        """Tokens of the sequences that are trained on."""
        return self.length

    @property
    def vocab_size(self) -> int:
        return ByteTokenizer.vocab_size if self.path == "stdlib" else open_shards(self.path).vocab_size

    @property
    def output_size(self) -> int:
        return self.vocab_size


class ShardSource:
    """Rows of a split, each a stretch of ``length`` tokens.

    An epoch shifts where rows begin by a number of its own, goes through all of them once in an order of
    its own, and drops less than a row. Shift, order and rows follow from seed and step alone.

    Raises:
        ShardError: not prepared, damaged, or nothing held out. ValueError: fewer tokens than one row.
    """

    def __init__(self, config: ShardData) -> None:
        self.config = config
        self.shards = open_shards(config.path)
        self.train = self.shards.split("train")
        self.shards.split("validation")  # what is not there at the end of a run must be said at its beginning
        if len(self.train) < config.length:
            raise ValueError(
                f"data: {config.path} has {len(self.train):,} tokens to train on: too few for rows of "
                f"{config.length:,}; pass a smaller --data.length"
            )

    def describe(self) -> str:
        return self.shards.describe()

    @property
    def text_sha256(self) -> str:
        """Over the tokens and what makes them; not over where they lie or came from."""
        return self.shards.text_sha256

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return len(self.train) // self.config.length

    def batch(
        self, step: int, *, batch_size: int, seed: int, steps: int, rows: slice = slice(None)
    ) -> Batch | Packed:
        """The training batch of ``step``, or some of its rows: the same arguments give the same tokens."""
        length = self.config.length
        numbers = step * batch_size + np.arange(batch_size)[rows]
        starts = np.empty_like(numbers)
        for epoch in np.unique(numbers // self.rows).tolist():
            random = stream(seed, "train", epoch)
            shift, key = int(random.integers(length)), int(random.integers(2**63))
            here = numbers // self.rows == epoch
            starts[here] = shift + length * permuted(numbers[here] % self.rows, self.rows, key)
        packed = pack(self.train, starts, length)
        if self.config.reset_states:
            return packed
        return Batch(packed.inputs.view(-1, length), packed.targets.view(-1, length))


def open_shards(path: str) -> TokenShards:
    """The shards in a folder, or those of the standard library, which are prepared when they are missing.

    Raises:
        ShardError: nothing prepared there (the message has the command), or a damaged file.
    """
    folder = _standard_library() if path == "stdlib" else Path(path)
    index = folder / INDEX
    return _open(str(folder), index.stat().st_mtime_ns if index.is_file() else 0)


@functools.lru_cache(maxsize=8)
def _open(path: str, changed: int) -> TokenShards:
    """Opened once while it stays as it is, since its checksums take time."""
    return TokenShards(path)


def _standard_library() -> Path:
    """Shards of the running Python's standard library, in the folder of caches."""
    folder = cache_folder() / "text" / f"stdlib-{platform.python_version()}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    options = PrepareOptions(
        validation_share=HELD_OUT_SHARE,
        read=ReadOptions(pattern="*.py", exclude=tuple(sorted(LEFT_OUT)), skip_errors=True),
    )
    # Beside its place, and moved there when it is whole: other processes may be at it too.
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "shards"
        prepare([sysconfig.get_path("stdlib")], made, options, progress=False)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():
                shutil.copytree(made, folder)
    return folder
