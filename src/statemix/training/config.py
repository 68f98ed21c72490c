"""A whole run as one frozen value, and its way to JSON and back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from statemix import nested
from statemix.models import MixerConfig, ModelConfig
from statemix.models.mixers import options_of
from statemix.ops.checks import check_choices, check_numbers
from statemix.tasks import TASKS, Task, make, name_of

from .data import DataConfig, TaskData, TextData
from .optimizer import OptimizerConfig
from .schedule import ScheduleConfig
from .shard_data import ShardData


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a training run computes.

    Raises:
        TypeError: a part or a count of another kind. ValueError: values out of range, or parts that do not go
            together, such as a task that reads one vector back and a model that has none.

    Examples:
        >>> config = RunConfig(steps=100, optimizer=OptimizerConfig(learning_rate=1e-3))
        >>> config.model.vocab_size, config.resolved().model.vocab_size
        (None, 6)
    """

    name: str = "run"
    """What the run is called in its folder and in tables."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The backbone."""

    data: DataConfig = field(default_factory=TaskData)
    """What is trained and tested on."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW."""

    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The learning rate over the steps."""

    gate_noise_rise: tuple[float, float] = (0.0, 0.0)
    """Shares of the steps between which the gate noise of the mixers rises from nothing to its full size."""

    sharpen_gates: tuple[float, ...] = ()
    """Factors on the gate logits that are tried, beside 1, when training is over; what validates best is
    kept. Mixers without such gates are left as they are."""

    steps: int = 400
    """Updates of the weights."""

    batch_size: int = 64
    """Sequences in a batch, over all workers and accumulated parts."""

    accumulate: int = 1
    """Parts that a batch is cut into, one after the other: less memory for the same update."""

    compile: bool = False
    """Whether model and loss go through torch.compile, which takes a minute and then saves time."""

    seed: int = 0
    """Decides the initial weights and the training stream."""

    device: str = "auto"
    """"auto" takes a GPU where there is one; or cpu, cuda, cuda:1."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the projections; auto takes bfloat16 on a GPU that has it. Weights and states stay float32."""

    threads: int = 0
    """CPU threads of PyTorch, which decide the last digits of sums; 0 leaves them as they are."""

    log_every: int = 10
    """Steps between rows of metrics, which are means over these steps."""

    evaluate_every: int = 0
    """Steps between evaluations on validation data; 0 evaluates at the end only, on test data."""

    checkpoint_every: int = 200
    """Steps between checkpoints; the last two are kept."""

    tensorboard: bool = True
    """Whether metrics also go to TensorBoard."""

    def __post_init__(self) -> None:
        kinds = {
            "name": (str,),
            "model": (ModelConfig,),
            "data": tuple(_DATA_KINDS.values()),
            "optimizer": (OptimizerConfig,),
            "schedule": (ScheduleConfig,),
        }
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                wanted = " or ".join(some.__name__ for some in kind)
                raise TypeError(f"config: {name} must be a {wanted}; got {getattr(self, name)!r}")
        counts = ("steps", "batch_size", "accumulate", "log_every", "checkpoint_every")
        for name in (*counts, "seed", "evaluate_every", "threads"):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool):
                raise TypeError(f"config: {name} must be an integer; got {count!r}")
        check_choices("config", self)
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"config: {name} must be at least 1; got {getattr(self, name)}")
        for name in ("seed", "evaluate_every", "threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"config: {name} must be at least 0; got {getattr(self, name)}")
        if self.seed >= 2**64:
            raise ValueError(f"config: seed must be below 2**64; got {self.seed}")
        rise = check_numbers("config", "gate_noise_rise", self.gate_noise_rise)
        if len(rise) != 2 or not 0 <= rise[0] <= rise[1] <= 1:
            raise ValueError(
                f"config: gate_noise_rise must be two shares of the steps, 0 <= first <= last <= 1; got "
                f"{', '.join(map(str, rise))}"
            )
        mixer = self.model.mixer
        if rise[1] > 0 and mixer.gate_noise == 0 and "gate_noise" in options_of(mixer.name):
            raise ValueError(
                "config: gate_noise_rise must have a gate noise that can rise; got model.mixer.gate_noise 0: "
                "set it, or leave gate_noise_rise out"
            )
        factors = check_numbers("config", "sharpen_gates", self.sharpen_gates)
        if not all(0 < factor < float("inf") for factor in factors):
            raise ValueError(f"config: sharpen_gates must be numbers above 0; got {self.sharpen_gates}")
        needed = isinstance(self.data, TaskData) and self.data.task.needs_autoencoder
        if needed and self.model.architecture != "autoencoder":
            raise ValueError(
                f"config: {type(self.data.task).__name__} is read back from one vector, and a "  # type: ignore[union-attr]
                f"{self.model.architecture} sees what it is asked for; set model.architecture to autoencoder"
            )

    def resolved(self) -> RunConfig:
        """The same config with the vocabulary sizes that its data has.

        Raises:
            ValueError: the model was given others, or has no places for its longest sequences, or a batch is
                larger than the training set.
        """
        if isinstance(self.data, TaskData):
            self.data.check_batch(self.batch_size)
        sizes: dict[str, int] = {}
        for name in ("vocab_size", "output_size"):
            given, wanted = getattr(self.model, name), getattr(self.data, name)
            if isinstance(self.data, ShardData):
                # Text may leave rows of a vocabulary unused, as of one that is padded for fast products.
                wanted = max(wanted, self.model.vocab_size or 0)
            if given not in (None, wanted):
                raise ValueError(f"config: model.{name} is {given}, but the data has {wanted}; leave it out")
            sizes[name] = wanted
        longest = self.data.longest if isinstance(self.data, TaskData) else 0
        places = self.model.max_length
        if self.model.architecture == "autoencoder" and longest > places:
            raise ValueError(
                f"config: model.max_length is {places}, but the data has sequences of {longest} tokens; "
                f"set it to as many"
            )
        return replace(self, model=replace(self.model, **sizes))


def to_json(config: RunConfig) -> dict[str, Any]:
    """Plain values that :func:`from_json` reads back; a task and a kind of data carry their names.

    Examples:
        >>> to_json(RunConfig(steps=7))["steps"]
        7
    """
    return _encode(config)


def from_json(values: dict[str, Any]) -> RunConfig:
    """The config that :func:`to_json` wrote.

    Raises:
        ValueError: unknown fields, as from another version, or values out of range.

    Examples:
        >>> from_json(to_json(RunConfig(steps=7))) == RunConfig(steps=7)
        True
    """
    return _decode(RunConfig, values, "config")


def differences(one: RunConfig, other: RunConfig) -> list[str]:
    """The fields in which two configs differ, with both values.

    Examples:
        >>> differences(RunConfig(steps=7), RunConfig(steps=8))
        ['steps: 7 and 8']
    """
    return nested.differences(to_json(one), to_json(other))


_NESTED: dict[str, Any] = {
    "model": ModelConfig,
    "mixer": MixerConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
}
_DATA_KINDS: dict[str, Any] = {"task": TaskData, "text": TextData, "shards": ShardData}


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        plain = {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Task):
            plain["kind"] = name_of(value)
        for kind, cls in _DATA_KINDS.items():
            if isinstance(value, cls):
                plain["kind"] = kind
        return plain
    if isinstance(value, tuple | list):
        return [_encode(one) for one in value]
    # Numbers of NumPy are taken wherever numbers are, and JSON knows Python's own alone.
    return value.item() if isinstance(value, np.generic) else value


def _decode(cls: Any, values: dict[str, Any], where: str) -> Any:
    known = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{where}: unknown fields {', '.join(unknown)}; they come from another version")
    return cls(**{name: _decode_field(name, value, where) for name, value in values.items()})


def _decode_field(name: str, value: Any, where: str) -> Any:
    where = f"{where}.{name}"
    if name in _NESTED:
        return _decode(_NESTED[name], value, where)
    if name == "data":
        kind = value.get("kind")
        if kind not in _DATA_KINDS:
            raise ValueError(f"{where}: kind must be one of {tuple(_DATA_KINDS)}; got {kind!r}")
        return _decode(_DATA_KINDS[kind], {k: v for k, v in value.items() if k != "kind"}, where)
    if name == "task":
        kind = value["kind"]
        if kind not in TASKS:
            raise ValueError(
                f"{where}: no task {kind!r} here: if it is one of your own, enter its class first, as "
                f"statemix.tasks.TASKS[{kind!r}] (the command line knows those that ship)"
            )
        return make(kind, **{k: v for k, v in value.items() if k != "kind"})
    return _as_tuple(value)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value
