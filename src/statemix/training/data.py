"""Where batches come from: a task, windows of a text, prepared shards; each a pure function of the step."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from statemix.ops.checks import check_choices, check_number, check_size, check_size_tuple
from statemix.tasks import Batch, Permutation, Task, stream
from statemix.text import ByteTokenizer, Corpus, open_corpus, random_windows

from .shard_data import ShardData, ShardSource

# Streams of their own: the seed of the lengths, and the first of the steps that shuffle a training set.
_LENGTHS = 2**32
_SHUFFLES = 2**32


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Train on a generated task, test at several lengths.

    Raises:
        TypeError: no task. ValueError: lengths, sizes or a choice that the task cannot have.

    Examples:
        >>> data = TaskData(task=Permutation(length=32), start_length=2, test_lengths=(32, 128))
        >>> data.vocab_size, data.longest
        (6, 128)
    """

    task: Task = field(default_factory=Permutation)
    """What is generated; its length is the one trained on."""

    test_lengths: tuple[int, ...] = (32, 128, 512)
    """Tokens of the sequences that are tested; where it is empty, and test_bins too, the task's length."""

    test_examples: int = 512
    """Sequences tested at each length."""

    start_length: int | None = None
    """Length to begin training at, for a curriculum that grows to the task's. Default: no curriculum."""

    growing_share: float = 0.6
    """Share of the steps over which the curriculum grows."""

    min_length: int | None = None
    """Each batch draws its length from here to the longest. Default: always the longest."""

    test_bins: tuple[tuple[int, int], ...] = ()
    """Ranges of lengths (first, last) that are tested besides, each as one score: 41 256."""

    labels: Literal["asked", "every"] = "asked"
    """Train on what the task asks, or on the answer at every step; tests ask as the task does."""

    examples: int | None = None
    """Size of a fixed training set, shuffled anew for every epoch. Default: new sequences at every step."""

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task):
            hint = f": write statemix.tasks.make({self.task!r})" if isinstance(self.task, str) else ""
            raise TypeError(f"data: task must be a Task; got {self.task!r}{hint}")
        check_choices("data", self)
        check_size_tuple("data", "test_lengths", self.test_lengths)
        check_size("data", "test_examples", self.test_examples)
        for name in ("start_length", "min_length", "examples"):
            if getattr(self, name) is not None:
                check_size("data", name, getattr(self, name))
        check_number("data", "growing_share", self.growing_share, "in (0, 1]", lambda share: 0 < share <= 1)
        _check_bins(self.test_bins)
        if self.start_length is not None and not 1 <= self.start_length <= self.task.length:
            raise ValueError(
                f"data: start_length must lie between 1 and the task's length {self.task.length}; got "
                f"{self.start_length}"
            )
        if self.min_length is not None and not 1 <= self.min_length <= self.shortest_longest:
            raise ValueError(
                f"data: min_length must lie between 1 and {self.shortest_longest}, the longest sequence that "
                f"training begins with; got {self.min_length}"
            )
        shortest = self.task.minimum_length
        asked = [*self.test_lengths, *(first for first, _ in self.test_bins)]
        asked += [length for length in (self.start_length, self.min_length) if length is not None]
        if min(asked, default=shortest) < shortest:
            raise ValueError(
                f"data: {type(self.task).__name__} has no sequences shorter than {shortest}; got length "
                f"{min(asked)} to train or test at"
            )
        if self.labels == "every" and not hasattr(self.task, "asked"):
            raise ValueError(
                f"data: {type(self.task).__name__} has no answer at every step; leave out labels"
            )
        if self.examples is not None and (self.start_length is not None or self.min_length is not None):
            raise ValueError(
                "data: a fixed training set (examples) has one length; leave out start_length and min_length"
            )

    @property
    def vocab_size(self) -> int:
        return self.task.vocab_size

    @property
    def output_size(self) -> int:
        return self.task.output_size

    @property
    def trained_task(self) -> Task:
        """The task as training asks it."""
        return replace(self.task, asked="every") if self.labels == "every" else self.task  # type: ignore[call-arg]

    @property
    def tested_lengths(self) -> tuple[int, ...]:
        """The lengths that are tested one by one: those given, or where nothing is, the trained one.

        Examples:
            >>> TaskData(task=Permutation(length=8), test_lengths=()).tested_lengths
            (8,)
        """
        return self.test_lengths or (() if self.test_bins else (self.task.length,))

    @property
    def trained_length(self) -> int:
        """Tokens of the longest sequences that are trained on."""
        return self.task.length

    @property
    def longest(self) -> int:
        """Tokens of the longest sequences, trained or tested."""
        return max([self.task.length, *self.tested_lengths, *(last for _, last in self.test_bins)])

    @property
    def shortest_longest(self) -> int:
        """The longest sequences of the first step: where the curriculum begins, else the task's length."""
        return self.task.length if self.start_length is None else self.start_length

    def length_at(self, step: int, steps: int) -> int:
        """Tokens of the training sequences in the batch of ``step`` (from 0) of ``steps``.

        It depends on nothing else, so that runs with other seeds can be trained as one.

        Examples:
            >>> data = TaskData(task=Permutation(length=8), start_length=2, growing_share=0.5)
            >>> [data.length_at(step, 100) for step in (0, 25, 50, 99)]
            [2, 5, 8, 8]
        """
        longest = self.task.length
        if self.start_length is not None:
            share = min(1.0, step / (self.growing_share * steps))
            longest = self.start_length + int(share * (longest - self.start_length))
        if self.min_length is None:
            return longest
        return int(stream(_LENGTHS, "train", step).integers(self.min_length, longest + 1))

    def check_batch(self, batch_size: int) -> None:
        """Raise ValueError unless a batch fits the training set."""
        if self.examples is not None and batch_size > self.examples:
            raise ValueError(
                f"data: a batch of {batch_size} does not fit a training set of {self.examples} examples; "
                f"lower batch_size or raise data.examples"
            )


def _check_bins(bins: tuple[tuple[int, int], ...]) -> None:
    def is_bin(pair: tuple[int, int]) -> bool:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            return False
        first, last = check_size_tuple("data", "test_bins", pair)
        return first <= last

    if not isinstance(bins, tuple | list) or not all(map(is_bin, bins)):
        raise ValueError(
            f"data: test_bins must be a tuple of pairs (first, last) with 1 <= first <= last, such as "
            f"((41, 256),); got {bins!r}"
        )


@dataclass(frozen=True, kw_only=True)
class TextData:
    """Train on random windows of a text, byte by byte; measure on files that were held out."""

    corpus: str = "stdlib"
    """"stdlib" for the source of Python's standard library, or the path of a text file or a folder."""

    length: int = 256
    """Bytes in a window."""

    evaluation_bytes: int = 65536
    """Held-out bytes that are measured at most."""

    def __post_init__(self) -> None:
        for name in ("length", "evaluation_bytes"):
            check_size("data", name, getattr(self, name))

    @property
    def trained_length(self) -> int:
        """Tokens of the sequences that are trained on."""
        return self.length

    @property
    def vocab_size(self) -> int:
        return ByteTokenizer.vocab_size

    @property
    def output_size(self) -> int:
        return ByteTokenizer.vocab_size


class TaskSource:
    """Batches of a task."""

    text_sha256 = None
    """It reads no text."""

    def __init__(self, config: TaskData) -> None:
        self.config = config
        self._training_set = functools.lru_cache(maxsize=16)(self._draw_training_set)

    def describe(self) -> str:
        return f"{self.config.task}, tested at {self.config.tested_lengths}"

    def batch(self, step: int, *, batch_size: int, seed: int, steps: int) -> Batch:
        """The training batch of ``step``: the same arguments give the same tokens, whatever ran before."""
        if self.config.examples is not None:
            return self._of_training_set(self.config.examples, step, batch_size, seed)
        task = self.config.trained_task.with_length(self.config.length_at(step, steps))
        return task.sample(batch_size, seed, step=step)

    def _of_training_set(self, examples: int, step: int, batch_size: int, seed: int) -> Batch:
        """A batch of an epoch; what does not fill a last one is left out until the next shuffle."""
        self.config.check_batch(batch_size)
        epoch, place = divmod(step, examples // batch_size)
        order = stream(seed, "train", _SHUFFLES + epoch).permutation(examples)
        chosen = torch.from_numpy(order[place * batch_size : (place + 1) * batch_size])
        inputs, targets = self._training_set(seed)
        return Batch(inputs[chosen], targets[chosen])

    def _draw_training_set(self, seed: int) -> Batch:
        return self.config.trained_task.sample(self.config.examples or 0, seed)


class TextSource:
    """Windows of a text."""

    def __init__(self, config: TextData) -> None:
        self.config = config
        self.corpus: Corpus = open_corpus(config.corpus)
        if len(self.corpus.train) <= config.length:
            raise ValueError(
                f"data: {self.corpus.name} has {len(self.corpus.train)} bytes to train on: too few for "
                f"windows of {config.length}; pass a smaller length"
            )

    @property
    def text_sha256(self) -> str:
        """Over the paths and contents of all files."""
        return self.corpus.sha256

    def describe(self) -> str:
        return self.corpus.describe()

    def batch(self, step: int, *, batch_size: int, seed: int, steps: int) -> Batch:
        """The training batch of ``step``: the same arguments give the same windows, whatever ran before."""
        random = stream(seed, "train", step)
        return Batch(*random_windows(self.corpus.train, self.config.length, batch_size, random))


DataConfig = TaskData | TextData | ShardData
Source = TaskSource | TextSource | ShardSource


def open_source(config: DataConfig) -> Source:
    """The batches that a config asks for; text is read now.

    Raises:
        FileNotFoundError: no text or shards there.
        SourceError, ShardError: text that cannot be read, or shards that are unfinished or damaged.

    Examples:
        >>> from statemix.tasks import make
        >>> source = open_source(TaskData(task=make("parity", length=8)))
        >>> source.batch(0, batch_size=4, seed=0, steps=1).inputs.shape
        torch.Size([4, 8])
    """
    if isinstance(config, TaskData):
        return TaskSource(config)
    return TextSource(config) if isinstance(config, TextData) else ShardSource(config)
