"""Equal budgets: the size of a mixer at a given number of parameters, or of numbers in its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import inf, lcm
from numbers import Real
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import nn

from statemix.nn import RecurrentLayer
from statemix.nn.baselines import Baseline
from statemix.ops.checks import check_number, check_size

from .factory import make_model
from .language_model import LanguageModel, ModelConfig
from .mixers import MIXERS, MixerConfig, make_mixer, options_of
from .states import grows, tensors_in

Budget = Literal["parameters", "mixer parameters", "state numbers"]

# Steps of a size after which a layer that heeds it is larger, were it to round up.
_STEPS_THAT_SHOW = 64


class Tier(NamedTuple):
    """A size that the paper compares at: parameters, and the width D that goes with them."""

    parameters: int
    d_model: int


TIERS: dict[str, Tier] = {
    "0.33M": Tier(330_000, 128),
    "1M": Tier(1_000_000, 128),
    "1M-wide": Tier(1_000_000, 1024),
    "10M": Tier(10_000_000, 1024),
    "33M": Tier(33_000_000, 1024),
    "100M": Tier(100_000_000, 1024),
}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A config whose size was solved for, and how near it came.

    Attributes:
        config: the solved config.
        what: what was matched: "parameters" (of the whole model), "mixer parameters" or "state numbers".
        wanted, got: the budget, and what the config has.
        option, size: the option of the mixer that was solved for, and its value.
    """

    config: ModelConfig
    what: Budget
    wanted: int
    got: int
    option: str
    size: float

    @property
    def miss(self) -> float:
        """got / wanted - 1: how much too large, as a share."""
        return self.got / self.wanted - 1

    def __str__(self) -> str:
        return (
            f"{self.config.mixer.name} {self.option} = {self.size:g}: {self.got:,} {self.what} for "
            f"{self.wanted:,} ({self.miss:+.2%})"
        )


def fit(
    config: ModelConfig,
    *,
    parameters: int | None = None,
    mixer_parameters: int | None = None,
    state: int | None = None,
    multiple_of: int = 1,
    tolerance: float = 0.05,
) -> Fit:
    """Solve for the size of the mixers so that the model meets a budget as nearly as it can.

    What is solved for is ``num_blocks`` (the blocks N of BD-LRU, the channels of H-LRU, the width over
    ``block_size`` of recurrences without blocks), ``num_heads`` where a head has a matrix state and
    attention, or ``expand`` in Mamba and Mamba-2. Nothing else in the config changes, and no weight is
    ever made: a solution takes milliseconds at any size.

    Args:
        config: what is fixed; ``vocab_size`` must be given where whole models are counted.
        parameters: of the whole model, embeddings and head included, tied ones once.
        mixer_parameters: of all mixers together.
        state: numbers that the recurrences of all mixers keep for one sequence (windows of past inputs
            are not counted): N m; heads head_dim^2; expand D state_size; an LSTM's two vectors.
        multiple_of: what num_blocks, or an inner width, is a multiple of: 8 or 32 suits a GPU's products.
        tolerance: the largest miss, as a share of the budget.

    Raises:
        ValueError: not exactly one budget, a mixer without such a budget or whose size changes nothing in the
            model, a multiple_of that is no whole number, or a budget that no size meets; the message says the
            nearest possible one.

    Examples:
        >>> config = ModelConfig(vocab_size=16, d_model=128, num_layers=2, mixer=MixerConfig(block_size=3))
        >>> print(fit(config, parameters=1_000_000))
        bdlru num_blocks = 158: 1,000,784 parameters for 1,000,000 (+0.08%)

    Source: arXiv 2602.12021: comparisons at equal parameters and at equal state.
    """
    what, wanted = _budget(parameters, mixer_parameters, state)
    multiple_of = check_size("fit", "multiple_of", multiple_of)
    check_number("fit", "tolerance", tolerance, "a share of at least 0", lambda share: share >= 0)
    knob = _Knob.of(config, multiple_of)
    count = _counter(config, what)
    # Counts grow with every step in the layers that ship; one of your own may take no notice, and then no
    # number of steps would ever be enough.
    if count(knob.turned(1)) == count(knob.turned(_STEPS_THAT_SHOW)):
        mixers = ", ".join(dict.fromkeys(mixer.name for mixer in config.mixers()))
        raise ValueError(
            f"fit: {knob.option} changes nothing in this model, whose layers are {mixers} and have "
            f"{count(config):,} {what}: name as config.mixer a layer of the model that {knob.option} sizes"
        )
    steps = _nearest(cache(lambda steps: count(knob.turned(steps))), wanted)
    best = Fit(
        config=knob.turned(steps),
        what=what,
        wanted=wanted,
        got=count(knob.turned(steps)),
        option=knob.option,
        size=knob.value(steps),
    )
    if abs(best.miss) > tolerance:
        raise ValueError(
            f"fit: no {knob.option} of {config.mixer.name} at width {config.d_model} gives {wanted:,} {what} "
            f"within {tolerance:.0%}; the nearest possible is {best.got:,} with {knob.option} = {best.size:g}"
            f": try {_remedy(what, knob, smallest=steps == 1 and best.got > wanted)}"
        )
    return best


def fit_tier(
    config: ModelConfig, tier: str, *, of: Literal["model", "mixers"] = "model", **options: Any
) -> Fit:
    """Fit a config to a tier of the paper: its width, and its number of parameters.

    Args:
        tier: a name in :data:`TIERS`.
        of: whose parameters the tier counts: the whole model's or those of all mixers.
        options: as of :func:`fit`.

    Raises:
        ValueError: an unknown tier or ``of``, and as of :func:`fit`.

    Examples:
        >>> config = ModelConfig(vocab_size=16, num_layers=2, mixer=MixerConfig(name="lstm", block_size=1))
        >>> fit_tier(config, "0.33M").config.d_model
        128
    """
    if tier not in TIERS:
        raise ValueError(f"fit: tier must be one of {tuple(TIERS)}; got {tier!r}")
    if of not in ("model", "mixers"):
        raise ValueError(f'fit: of must be "model" or "mixers"; got {of!r}')
    parameters, width = TIERS[tier]
    budget = {"parameters" if of == "model" else "mixer_parameters": parameters}
    return fit(replace(config, d_model=width), **budget, **options)


def count_parameters(config: ModelConfig) -> int:
    """Parameters of the whole model, without making a weight.

    Examples:
        >>> count_parameters(ModelConfig(vocab_size=16, d_model=8, mlp="none", mixer=MixerConfig(name="gru")))
        768
    """
    return _size(_on_meta(lambda: make_model(config)))


def count_mixer_parameters(config: ModelConfig) -> int:
    """Parameters of all mixers together, without making a weight."""
    return sum(_size(layer) for layer in _layers(config))


def count_state(config: ModelConfig) -> int:
    """Numbers that the recurrences of all mixers keep for one sequence.

    Raises:
        ValueError: a mixer whose state grows with the sequence.

    Examples:
        >>> count_state(ModelConfig(d_model=64, mixer=MixerConfig(name="lstm")))
        128
    """
    return sum(_state_numbers(layer, config.d_model) for layer in _layers(config))


def state_numbers(model: LanguageModel) -> int | None:
    """What :func:`count_state` says, of a model that is built; None where a state grows with the sequence.

    Examples:
        >>> state_numbers(LanguageModel(ModelConfig(vocab_size=5, d_model=64, mixer=MixerConfig(name="gru"))))
        64
    """
    layers = [cast(nn.Module, block.mixer) for block in model.blocks]
    if any(map(grows, layers)):
        return None
    return sum(_state_numbers(layer, model.config.d_model) for layer in layers)


def _budget(parameters: int | None, mixer_parameters: int | None, state: int | None) -> tuple[Budget, int]:
    budgets: dict[Budget, int | None] = {
        "parameters": parameters,
        "mixer parameters": mixer_parameters,
        "state numbers": state,
    }
    given: list[tuple[Budget, int]] = [(w, n) for w, n in budgets.items() if n is not None]
    if len(given) != 1:
        raise ValueError(
            f"fit: give exactly one of parameters, mixer_parameters and state; got {dict(given) or 'none'}"
        )
    what, wanted = given[0]
    if isinstance(wanted, bool) or not isinstance(wanted, Real) or not 1 <= float(wanted) < inf:
        raise ValueError(
            f"fit: a budget must be a finite number of at least 1, such as 1_000_000; got {wanted!r} {what}"
            + (": fit_tier takes the names of sizes" if isinstance(wanted, str) else "")
        )
    return what, wanted


@dataclass(frozen=True)
class _Knob:
    """The option that makes a mixer larger, and the smallest change of it."""

    config: ModelConfig
    option: str
    unit: float
    multiple_of: int

    @classmethod
    def of(cls, config: ModelConfig, multiple_of: int) -> _Knob:
        mixer = config.mixer
        option = MIXERS[mixer.name].grows_with
        unit = float(multiple_of)
        if option != "num_blocks":
            head_dim = getattr(_on_meta(lambda: make_mixer(mixer, config.d_model)), "head_dim", None)
            # More heads must not be narrower ones.
            config = replace(config, mixer=replace(mixer, head_dim=head_dim))
            # Inner widths grow by one channel, or by one head, or by as many as make the multiple.
            head = head_dim or 1
            channels = lcm(head, multiple_of)
            unit = channels // head if option == "num_heads" else channels / config.d_model
        return cls(config, option, unit, multiple_of)

    def value(self, steps: int) -> float:
        return steps * self.unit if self.option == "expand" else int(steps * self.unit)

    def turned(self, steps: int) -> ModelConfig:
        options: dict[str, Any] = {self.option: self.value(steps)}
        return replace(self.config, mixer=replace(self.config.mixer, **options))


def _counter(config: ModelConfig, what: Budget) -> Callable[[ModelConfig], int]:
    if what == "state numbers":
        return count_state
    if what == "mixer parameters":
        return count_mixer_parameters
    # What does not change is counted once.
    fixed = count_parameters(config) - count_mixer_parameters(config)
    return lambda other: fixed + count_mixer_parameters(other)


def _nearest(at: Callable[[int], int], wanted: int) -> int:
    """The number of steps, at least one, whose count is nearest; counts grow with steps."""
    low, high = 1, 2
    while at(high) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if at(middle) < wanted:
            low = middle
        else:
            high = middle
    return min((low, high), key=lambda steps: abs(at(steps) - wanted))


def _remedy(what: Budget, knob: _Knob, *, smallest: bool) -> str:
    """What brings a budget below the smallest size, or between two sizes, within reach."""
    choices = []
    if knob.multiple_of > 1:
        choices.append("a smaller multiple_of")
    if knob.config.mixer.head_dim is not None:
        choices.append("a smaller head_dim")
    if not smallest:
        choices.append("a larger tolerance")
    elif what == "parameters":
        choices.append("fewer layers, a smaller width or mlp, or mixer_parameters as the budget")
    else:
        choices.append("fewer layers")
        if knob.option == "num_blocks" and knob.config.mixer.block_size > 1:
            choices.append("a smaller block_size")
        if "state_size" in options_of(knob.config.mixer.name):
            choices.append("a smaller state_size")
    return " or ".join(choices)


def _layers(config: ModelConfig) -> Iterator[nn.Module]:
    """The mixer of every layer, on the meta device; equal ones are made once."""
    made: dict[MixerConfig, nn.Module] = {}
    for mixer in config.mixers():
        if mixer not in made:
            made[mixer] = _on_meta(lambda mixer=mixer: make_mixer(mixer, config.d_model))
        yield made[mixer]


def _on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _state_numbers(layer: nn.Module, d_model: int) -> int:
    if grows(layer):
        raise ValueError(
            f"fit: the state of {type(layer).__name__} grows with the sequence: match parameters"
        )
    if isinstance(layer, Baseline):
        return layer.state_numbers
    if isinstance(layer, RecurrentLayer):
        return layer.initial_state_for(1).numel()
    # A layer of one's own: what it hands on after a step.
    device = next((p.device for p in layer.parameters()), torch.device("cpu"))
    with torch.no_grad():
        _, state = layer(torch.zeros(1, 1, d_model, device=device), return_state=True)
    return sum(tensor.numel() for tensor in tensors_in(state))
