"""What every generated task is: a frozen config that can sample itself."""

from __future__ import annotations

import functools
import numbers
import types
import typing
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from .rendering import render
from .streams import stream, whole_number

IGNORED = -100
"""The target where nothing is asked: what cross-entropy in PyTorch leaves out."""


class Batch(NamedTuple):
    """Token sequences and what is asked at each place.

    inputs: (B, T) int64. targets: (B, T) int64, :data:`IGNORED` where nothing is asked.
    """

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A task with its settings. A new one gives its vocabulary, its answers and :meth:`generate`.

    Raises:
        TypeError: a setting of another kind than its field's, such as a length of 3.5.
        ValueError: a length below :attr:`minimum_length`, or a setting out of range. Every length from
            the minimum on works.

    Examples:
        >>> class LargestSoFar(Task):
        ...     num_tokens = output_size = 5
        ...
        ...     def generate(self, batch, length, random):
        ...         inputs = random.integers(5, size=(batch, length))
        ...         return inputs, np.maximum.accumulate(inputs, axis=1)
        >>> inputs, targets = LargestSoFar(length=8).sample(2)
        >>> bool((inputs.cummax(1).values == targets).all())
        True
    """

    needs_autoencoder: ClassVar[bool] = False
    """Whether every answer is to be computed from the last vector alone: a model that answers step by step
    would see it in the input."""

    length: int = 32
    """Tokens in a sequence, all counted: inputs and targets are (B, length)."""

    start_token: bool = False
    """Whether sequences begin with a token of their own: something stands in the state before it is moved."""

    def __post_init__(self) -> None:
        for name, (kinds, wanted) in _kinds(type(self)).items():
            value = getattr(self, name)
            # To Python, True and False are integers.
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise TypeError(f"{type(self).__name__}: {name} must be {wanted}; got {value!r}")
        for name, choices in _choices(type(self)).items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{type(self).__name__}: {name} must be one of {choices}; got {getattr(self, name)!r}"
                )
        self.check()

    def check(self) -> None:
        """Refuse settings out of range with a ValueError; all are what the types of their fields say."""
        self.check_at_least(self.minimum_length, "length")

    def check_at_least(self, least: int, *names: str) -> None:
        """Raise ValueError for the first of these settings that is below ``least``."""
        for name in names:
            if getattr(self, name) < least:
                raise ValueError(
                    f"{type(self).__name__}: {name} must be at least {least}; got {getattr(self, name)}"
                )

    @property
    @abstractmethod
    def num_tokens(self) -> int:
        """How many input tokens there are besides the start token."""

    @property
    @abstractmethod
    def output_size(self) -> int:
        """How many answers a model must tell apart."""

    @abstractmethod
    def generate(self, batch: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets without the start token, each (batch, length)."""

    @property
    def vocab_size(self) -> int:
        """How many input tokens there are; the start token is the last."""
        return self.num_tokens + self.start_token

    @property
    def shortest(self) -> int:
        """Tokens of the shortest sequence without the start token."""
        return 1

    @property
    def minimum_length(self) -> int:
        """The shortest length that can be sampled."""
        return self.shortest + self.start_token

    @property
    def train_lengths(self) -> tuple[int, int]:
        """The shortest and the longest sequences to train on, as the task's source does."""
        return self.length, self.length

    @property
    def test_lengths(self) -> tuple[int, ...]:
        """Lengths to test at, as the task's source does."""
        return (self.length,)

    @property
    def chance(self) -> float:
        """Share of right answers of one who knows which answers come up, and guesses among them."""
        return 1 / self.output_size

    def with_length(self, length: int) -> Self:
        """The same task at another length."""
        return replace(self, length=length)

    def for_split(self, split: str) -> Self:
        """The task as a split asks it: some published protocols train on more than they test."""
        return self

    def sample(self, batch: int, seed: int = 0, *, step: int = 0, split: str = "train") -> Batch:
        """The batch of ``step`` in a split's stream: the same arguments give the same tokens anywhere.

        Splits ("train", "validation", "test") draw from streams that are disjoint by construction, see
        :func:`statemix.tasks.streams.stream`. Short sequences can still come up twice by chance.

        Raises:
            TypeError: a batch, seed or step that is no whole number.
            ValueError: a batch below 1, an unknown split, a negative seed or step, or what a task of your own
                generates is not of the shape and range that it promises.
        """
        batch = whole_number(f"{type(self).__name__}.sample: batch", batch)
        if batch < 1:
            raise ValueError(f"{type(self).__name__}.sample: batch must be at least 1; got {batch}")
        random = stream(seed, split, step)
        length = self.length - self.start_token
        inputs, targets = self._checked(self.for_split(split).generate(batch, length, random), batch, length)
        if self.start_token:
            inputs = np.pad(inputs, ((0, 0), (1, 0)), constant_values=self.num_tokens)
            targets = np.pad(targets, ((0, 0), (1, 0)), constant_values=IGNORED)
        return Batch(_tensor(inputs), _tensor(targets))

    def _checked(self, made: Any, batch: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """What :meth:`generate` made, as arrays of the promised shape and range."""
        what = f"{type(self).__name__}: what it generates"
        if not isinstance(made, tuple | list) or len(made) != 2:
            raise TypeError(f"{what} must be inputs and targets, two arrays; got {type(made).__name__}")
        inputs, targets = map(np.asarray, made)
        for name, array, size in (
            ("inputs", inputs, self.num_tokens),
            ("targets", targets, self.output_size),
        ):
            if array.shape != (batch, length):
                raise ValueError(f"{what}: {name} must be {(batch, length)}; got {array.shape}")
            if array.dtype.kind not in "iub":
                raise TypeError(f"{what}: {name} must be integers; got {array.dtype}: cast with .astype(int)")
            counted = array if name == "inputs" else np.where(array == IGNORED, 0, array)
            if not 0 <= (least := counted.min()) <= (most := counted.max()) < size:
                besides = f", or {IGNORED}" if name == "targets" else ""
                raise ValueError(
                    f"{what}: {name} must lie from 0 to {size - 1}{besides}; got {least} to {most}"
                )
        return inputs, targets

    def token_name(self, token: int) -> str:
        """How an input token is written; the start token is ``^``."""
        return str(token)

    def answer_name(self, answer: int) -> str:
        """How an answer is written."""
        return str(answer)

    def render(self, batch: Batch, index: int = 0, *, width: int = 100) -> str:
        """One sequence of a batch as text: tokens above, answers below, ``.`` where nothing is asked.

        Args:
            width: Characters of a line at most; longer sequences go on below.

        Examples:
            >>> from statemix.tasks import make
            >>> task = make("counting", length=6)
            >>> print(task.render(task.sample(1)))
            tokens   0 0 1 0 0 0
            answers  0 0 1 1 1 1
        """
        tokens = [
            "^" if token == self.num_tokens else self.token_name(token)
            for token in batch.inputs[index].tolist()
        ]
        answers = [
            "." if answer == IGNORED else self.answer_name(answer) for answer in batch.targets[index].tolist()
        ]
        return render({"tokens": tokens, "answers": answers}, width)


_KINDS: dict[Any, tuple[type, str]] = {
    int: (numbers.Integral, "an integer"),
    float: (numbers.Real, "a number"),
    bool: (bool, "True or False"),
    str: (str, "a string"),
    types.NoneType: (types.NoneType, "None"),
}


@functools.cache
def _kinds(cls: type[Task]) -> dict[str, tuple[tuple[type, ...], str]]:
    """What the fields of a task may hold, and how that is said."""
    hints = typing.get_type_hints(cls)
    found = {}
    for field in fields(cls):
        hint = hints[field.name]
        parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if all(part in _KINDS for part in parts):
            kinds, names = zip(*(_KINDS[part] for part in parts), strict=True)
            found[field.name] = kinds, " or ".join(names)
    return found


@functools.cache
def _choices(cls: type[Task]) -> dict[str, tuple[Any, ...]]:
    """The values that fields of a ``Literal`` type may have."""
    hints = typing.get_type_hints(cls)
    return {
        field.name: typing.get_args(hints[field.name])
        for field in fields(cls)
        if typing.get_origin(hints[field.name]) is typing.Literal
    }


def _tensor(tokens: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64))
