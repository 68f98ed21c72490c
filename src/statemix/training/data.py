"""Where batches come from: a generated task or windows of a text, each a pure function of the step."""

from __future__ import annotations

from dataclasses import dataclass, field

from statemix.tasks import Batch, Permutation, Task, stream
from statemix.text import Corpus, open_corpus, random_windows

BYTES = 256


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Train on a generated task, test at several lengths."""

    task: Task = field(default_factory=Permutation)
    """What is generated; its length is the one trained on."""

    test_lengths: tuple[int, ...] = (32, 128, 512)
    """Tokens of the sequences that are tested."""

    test_examples: int = 512
    """Sequences tested at each length."""

    start_length: int | None = None
    """Length to begin training at, for a curriculum that grows to the task's. Default: no curriculum."""

    growing_share: float = 0.6
    """Share of the steps over which the curriculum grows."""

    def __post_init__(self) -> None:
        if self.test_examples < 1 or any(length < 1 for length in self.test_lengths):
            raise ValueError(
                f"data: test_lengths and test_examples must be at least 1; got {self.test_lengths} and "
                f"{self.test_examples}"
            )
        if self.start_length is not None and not 1 <= self.start_length <= self.task.length:
            raise ValueError(
                f"data: start_length must lie between 1 and the task's length {self.task.length}; got "
                f"{self.start_length}"
            )
        if not 0 < self.growing_share <= 1:
            raise ValueError(f"data: growing_share must lie in (0, 1]; got {self.growing_share}")

    @property
    def vocab_size(self) -> int:
        return self.task.vocab_size

    @property
    def output_size(self) -> int:
        return self.task.output_size

    def length_at(self, step: int, steps: int) -> int:
        """Tokens of the training sequences in the batch of ``step`` (from 0) of ``steps``.

        Example:
            >>> data = TaskData(task=Permutation(length=8), start_length=2, growing_share=0.5)
            >>> [data.length_at(step, 100) for step in (0, 25, 50, 99)]
            [2, 5, 8, 8]
        """
        longest = self.task.length
        if self.start_length is None:
            return longest
        share = min(1.0, step / (self.growing_share * steps))
        return self.start_length + int(share * (longest - self.start_length))


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
        if self.length < 1 or self.evaluation_bytes < 1:
            raise ValueError(
                f"data: length and evaluation_bytes must be at least 1; got {self.length} and "
                f"{self.evaluation_bytes}"
            )

    @property
    def vocab_size(self) -> int:
        return BYTES

    @property
    def output_size(self) -> int:
        return BYTES


class TaskSource:
    """Batches of a task."""

    def __init__(self, config: TaskData) -> None:
        self.config = config

    def describe(self) -> str:
        return f"{self.config.task}, tested at {self.config.test_lengths}"

    def batch(self, step: int, *, batch_size: int, seed: int, steps: int) -> Batch:
        """The training batch of ``step``: the same arguments give the same tokens, whatever ran before."""
        task = self.config.task.with_length(self.config.length_at(step, steps))
        return task.sample(batch_size, seed, step=step)


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

    def describe(self) -> str:
        return self.corpus.describe()

    def batch(self, step: int, *, batch_size: int, seed: int, steps: int) -> Batch:
        """The training batch of ``step``: the same arguments give the same windows, whatever ran before."""
        random = stream(seed, "train", step)
        return Batch(*random_windows(self.corpus.train, self.config.length, batch_size, random))


DataConfig = TaskData | TextData
Source = TaskSource | TextSource


def open_source(config: DataConfig) -> Source:
    """The batches that a config asks for; text is read now."""
    return TaskSource(config) if isinstance(config, TaskData) else TextSource(config)
