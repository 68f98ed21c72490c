"""The one table from the name of a sequence mixer to the layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, Literal

from torch import nn

from statemix.names import unknown_name
from statemix.nn import BDLRU, HLRU
from statemix.nn.baselines import FLA_BACKENDS as _FLA
from statemix.nn.baselines import (
    LRU,
    MLSTM,
    PDSSM,
    RGLRU,
    RWKV7,
    CausalAttention,
    DeltaNet,
    GatedDeltaNet,
    GatedDeltaProduct,
    Mamba,
    Mamba2,
    MinGRU,
    Recurrent,
    SelectiveLRU,
)
from statemix.nn.baselines import RECURRENT_BACKENDS as _RECURRENT
from statemix.nn.checks import check_noise
from statemix.nn.convolved import Convolved
from statemix.nn.layer import RecurrentLayer
from statemix.ops.checks import check_choice, check_choices, check_number, check_size
from statemix.ops.dispatch import BACKENDS


@dataclass(frozen=True, kw_only=True)
class MixerConfig:
    """Which layer mixes the sequence, and its sizes.

    Options that stand at their default are the layer's own choice. An option that the named layer does
    not have is refused, but for ``block_size`` and ``num_blocks``, which only size a state.

    Raises:
        ValueError: an unknown name or choice (the nearest ones are listed), sizes below one, a backend that
            the layer does not run on, or an option that it does not have.

    Examples:
        >>> MixerConfig(name="hlru", block_size=2, normalization="tanh").name
        'hlru'
    """

    name: str = "bdlru"
    """Kind of layer: bdlru, hlru, lru, selective-lru, rg-lru, mingru, lstm, gru, mamba, mamba2, deltanet,
    gated-deltanet, deltaproduct, pd-ssm, mlstm, rwkv7 or attention."""

    block_size: int = 4
    """Channels that mix: the block size of bdlru, the order of hlru. Others only count states with it."""

    num_blocks: int | None = None
    """Blocks (bdlru), channels (hlru); the state is as many times block_size. Default: about the width."""

    normalization: Literal["softmax", "sigmoid", "relu", "tanh", "linear", "none"] = "softmax"
    """How gate logits become coefficients (bdlru, hlru)."""

    selective: bool = True
    """Whether the gates depend on the input (bdlru, hlru)."""

    initial_state: Literal["zeros", "learned"] = "zeros"
    """What stands before the first step; attention learns a key and a value a head."""

    gate_init: Literal["paper", "identity", "closed"] = "paper"
    """How the gates start: as in the paper, keeping the state, or letting nothing in (bdlru, hlru)."""

    weight_init: Literal["paper", "fan-in"] = "paper"
    """How weights start: N(0, 0.02) as in the paper, or N(0, 1/sqrt(inputs)) (bdlru, hlru)."""

    gate_noise: float = 0.0
    """Standard deviation of noise on the gate logits in training, which makes gates sharp (bdlru, hlru)."""

    block_dropout: float = 0.0
    """Share of the blocks that training leaves out of what is read of a sequence, so that each becomes right
    by itself (bdlru; hlru: of the channels)."""

    readout: Literal["window", "latest"] | None = None
    """What hlru reads out: all the states it holds, or the newest. Default: window when selective."""

    num_heads: int | None = None
    """Heads of attention and of layers with a matrix state. Default: 4 in attention, else D / head_dim."""

    head_dim: int | None = None
    """Width of a head. Default: the layer's own."""

    rotary: bool = False
    """Whether attention rotates queries and keys by their places; it has no other positional code."""

    state_size: int | None = None
    """States a channel (mamba), or columns of a head's state (mamba2). Default: 16 and 64."""

    expand: float | None = None
    """Inner width over D (mamba, mamba2). Default: 2."""

    negative_eigenvalues: bool | None = None
    """Whether transitions reach -1, which parity needs (the delta-rule family). Default: the layer's own."""

    convolution: bool | None = None
    """Whether a causal convolution over 4 steps comes before the recurrence. Default: as published."""

    recompute_gates: bool = False
    """Whether the backward pass makes the gate logits again instead of keeping them (bdlru, hlru)."""

    output_gate: bool | None = None
    """Whether what is read is gated by the input. Default: as published."""

    householder_steps: int | None = None
    """Householder factors in one transition (deltaproduct). Default: 2."""

    backend: Literal["auto", "reference", "cpu", "cuda", "triton", "torch", "fla"] = "auto"
    """What runs the recurrence: the operators' backends, or torch and fla for baselines that have them."""

    def __post_init__(self) -> None:
        if self.name not in MIXERS:
            raise unknown_name("mixer", self.name, MIXERS)
        what = f"mixer {self.name}"
        check_choice(what, "backend", self.backend, MIXERS[self.name].backends)
        check_choices(what, self)
        check_noise(what, gate_noise=self.gate_noise, block_dropout=self.block_dropout)
        for field in ("block_size", "num_blocks", "num_heads", "head_dim", "state_size", "householder_steps"):
            size = getattr(self, field)
            if size is not None:
                check_size(what, field, size)
        if self.expand is not None:
            check_number(what, "expand", self.expand, "a number above 0", lambda ratio: 0 < ratio < inf)
        has = options_of(self.name)
        refused = [name for name in self._given() if name not in has]
        if refused:
            raise ValueError(
                f"mixer {self.name} has no option {', '.join(refused)}: leave it out; it has "
                f"{', '.join(has) or 'none of these'}"
            )

    def named(self, name: str) -> MixerConfig:
        """The config of another mixer, with those of these options that it has.

        Examples:
            >>> MixerConfig(name="hlru", block_size=3, readout="latest").named("bdlru").block_size
            3
        """
        if name not in MIXERS:
            return replace(self, name=name)
        has = options_of(name)
        dropped = {o: _DEFAULTS[o] for o in self._given() if o not in has}
        return replace(self, name=name, **dropped)

    def blocks_for(self, d_model: int) -> int:
        """The number of blocks or channels at width ``d_model``: as given, or so that states fill the width.

        Examples:
            >>> MixerConfig(block_size=3).blocks_for(64)
            21
        """
        return self.num_blocks or max(1, d_model // self.block_size)

    def hidden_for(self, d_model: int) -> int:
        """The width of a recurrence that has no blocks: num_blocks times block_size, else ``d_model``."""
        return d_model if self.num_blocks is None else self.num_blocks * self.block_size

    def _given(self) -> list[str]:
        return [o for o, default in _DEFAULTS.items() if getattr(self, o) != default]


_DEFAULTS: dict[str, Any] = {
    field.name: field.default
    for field in fields(MixerConfig)
    if field.name not in ("name", "block_size", "num_blocks")
}


@dataclass(frozen=True, kw_only=True)
class Mixer:
    """A line of the table: the layer, and what of a config sizes it.

    Attributes:
        layer: the class, or a function that makes it; an option of :class:`MixerConfig` is passed on
            where it has a keyword of that name.
        sizes: keywords made from a config and the width D.
        grows_with: the option that makes the layer larger, which ``models.sizing`` solves for.
        backends: what can run it.
    """

    layer: Callable[..., nn.Module]
    sizes: Callable[[MixerConfig, int], dict[str, Any]]
    grows_with: Literal["num_blocks", "num_heads", "expand"]
    backends: tuple[str, ...] = BACKENDS


def options_of(name: str) -> tuple[str, ...]:
    """Options of :class:`MixerConfig` that the named mixer has, without the sizes of blocks.

    Examples:
        >>> options_of("lstm")
        ('initial_state', 'backend')
    """
    keywords = inspect.signature(MIXERS[name].layer).parameters
    return tuple(option for option in _DEFAULTS if option in keywords)


def make_mixer(config: MixerConfig, d_model: int) -> nn.Module:
    """Build the layer that ``config`` names. Every one of them keeps this interface:

        y, state = mixer(x, state, return_state=True)     x, y (B, T, D); state None to begin with
        y = mixer(x, cu_seqlens=...), mixer(x, mask=...)  packed, padded
        y_t, state = mixer.step(x_t, state)               x_t, y_t (B, D)

    A state is a tensor or a tuple of tensors. A new kind of layer is one more line in :data:`MIXERS`.

    Examples:
        >>> type(make_mixer(MixerConfig(name="gru"), 16)).__name__
        'Recurrent'
    """
    mixer = MIXERS[config.name]
    options = {o: getattr(config, o) for o in options_of(config.name)}
    options = {o: value for o, value in options.items() if value is not None}
    return mixer.layer(d_model, **mixer.sizes(config, d_model), **options)


def _blocks(config: MixerConfig, d_model: int) -> dict[str, Any]:
    return {"num_blocks": config.blocks_for(d_model), "block_size": config.block_size}


def _channels(config: MixerConfig, d_model: int) -> dict[str, Any]:
    return {"num_channels": config.blocks_for(d_model), "order": config.block_size}


def _hidden(config: MixerConfig, d_model: int) -> dict[str, Any]:
    return {"hidden_size": config.hidden_for(d_model)}


def _nothing(config: MixerConfig, d_model: int) -> dict[str, Any]:
    return {}


def _lstm(d_model: int, *, hidden_size: int, initial_state: str = "zeros", backend: str = "auto"):
    return Recurrent("lstm", d_model, hidden_size=hidden_size, initial_state=initial_state, backend=backend)


def _gru(d_model: int, *, hidden_size: int, initial_state: str = "zeros", backend: str = "auto"):
    return Recurrent("gru", d_model, hidden_size=hidden_size, initial_state=initial_state, backend=backend)


def _convolvable(layer: Callable[..., RecurrentLayer]) -> Callable[..., nn.Module]:
    """A layer of statemix with one option more: ``convolution``, before its recurrence."""

    def make(d_model: int, *, convolution: bool = False, **options: Any) -> nn.Module:
        made = layer(d_model, **options)
        return Convolved(made) if convolution else made

    signature = inspect.signature(layer)
    own = inspect.Parameter("convolution", inspect.Parameter.KEYWORD_ONLY, default=False)
    make.__signature__ = signature.replace(parameters=[*signature.parameters.values(), own])  # type: ignore[attr-defined]
    return make


MIXERS: dict[str, Mixer] = {
    "bdlru": Mixer(layer=_convolvable(BDLRU), sizes=_blocks, grows_with="num_blocks"),
    "hlru": Mixer(layer=_convolvable(HLRU), sizes=_channels, grows_with="num_blocks"),
    "lru": Mixer(layer=LRU, sizes=_hidden, grows_with="num_blocks"),
    "selective-lru": Mixer(layer=SelectiveLRU, sizes=_hidden, grows_with="num_blocks"),
    "rg-lru": Mixer(layer=RGLRU, sizes=_hidden, grows_with="num_blocks"),
    "mingru": Mixer(layer=MinGRU, sizes=_hidden, grows_with="num_blocks"),
    "lstm": Mixer(layer=_lstm, sizes=_hidden, grows_with="num_blocks", backends=_RECURRENT),
    "gru": Mixer(layer=_gru, sizes=_hidden, grows_with="num_blocks", backends=_RECURRENT),
    "mamba": Mixer(layer=Mamba, sizes=_nothing, grows_with="expand"),
    "mamba2": Mixer(layer=Mamba2, sizes=_nothing, grows_with="expand", backends=_FLA),
    "deltanet": Mixer(layer=DeltaNet, sizes=_nothing, grows_with="num_heads", backends=_FLA),
    "gated-deltanet": Mixer(layer=GatedDeltaNet, sizes=_nothing, grows_with="num_heads", backends=_FLA),
    "deltaproduct": Mixer(layer=GatedDeltaProduct, sizes=_nothing, grows_with="num_heads", backends=_FLA),
    "pd-ssm": Mixer(layer=PDSSM, sizes=_hidden, grows_with="num_blocks"),
    "mlstm": Mixer(layer=MLSTM, sizes=_nothing, grows_with="num_heads"),
    "rwkv7": Mixer(layer=RWKV7, sizes=_nothing, grows_with="num_heads", backends=_FLA),
    "attention": Mixer(layer=CausalAttention, sizes=_nothing, grows_with="num_heads"),
}
