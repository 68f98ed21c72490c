"""Lists of models that are compared on one recipe, each with what it needs to be compared fairly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from statemix.kernels.reference.normalization import NORMALIZATIONS
from statemix.models import MIXERS, MixerConfig
from statemix.names import unknown_name
from statemix.training import RunConfig

from .changes import with_mixer


def mixers(base: RunConfig) -> dict[str, RunConfig]:
    """BD-LRU, H-LRU, LSTM, GRU and attention with equal states (an LSTM's cells are as many again).

    BD-LRU and H-LRU have the options of the recipe's own mixer, and a learned initial state.

    Examples:
        >>> from .recipes import s3_composition
        >>> mixers(s3_composition())["BD-LRU m=2"].model.mixer.num_blocks
        24
    """
    own = base.model.mixer
    size = own.block_size
    # With what the recipe gives its own mixer, such as block dropout: a recipe may count on it.
    blocks, orders = (replace(own.named(name), initial_state="learned") for name in ("bdlru", "hlru"))
    named = {f"BD-LRU m={m}": replace(blocks, block_size=m) for m in range(size, 0, -1)}
    named |= {
        f"BD-LRU m={size}, zero initial state": replace(blocks, initial_state="zeros"),
        f"H-LRU m={size}": orders,
        "LSTM": MixerConfig(name="lstm", block_size=1),
        "GRU": MixerConfig(name="gru", block_size=1),
        "attention": MixerConfig(name="attention", block_size=1),
    }
    return with_equal_states(base, named)


def normalizations(base: RunConfig) -> dict[str, RunConfig]:
    """The recipe's own mixer with each way to make coefficients of gate logits.

    Examples:
        >>> from .recipes import s3_composition
        >>> list(normalizations(s3_composition()))
        ['softmax', 'sigmoid', 'relu', 'tanh', 'linear', 'none']
    """
    own = base.model.mixer
    return {name: with_mixer(base, replace(own, normalization=name)) for name in NORMALIZATIONS}


def block_sizes(base: RunConfig) -> dict[str, RunConfig]:
    """BD-LRU with blocks of 1, 2, 4, 8 and 16 and the recipe's number of states."""
    named = {
        f"BD-LRU m={m}": replace(base.model.mixer.named("bdlru"), block_size=m) for m in (1, 2, 4, 8, 16)
    }
    return with_equal_states(base, named)


def baselines(base: RunConfig) -> dict[str, RunConfig]:
    """The recipe's own mixer, and every other kind of layer at its usual size for this width."""
    own = base.model.mixer
    others = {name: own.named(name) for name in MIXERS if name not in (own.name, "bdlru", "hlru")}
    return {own.name: base} | {
        name: with_mixer(base, replace(mixer, num_blocks=None)) for name, mixer in others.items()
    }


VARIANTS: dict[str, Callable[[RunConfig], dict[str, RunConfig]]] = {
    "mixers": mixers,
    "normalizations": normalizations,
    "block-sizes": block_sizes,
    "baselines": baselines,
}


def variants(name: str, base: RunConfig) -> dict[str, RunConfig]:
    """The configs of a list, by what tables call them.

    Raises:
        ValueError: an unknown name; the nearest are listed.
    """
    if name not in VARIANTS:
        raise unknown_name("variants", name, VARIANTS)
    return VARIANTS[name](base)


def with_equal_states(base: RunConfig, named: dict[str, MixerConfig]) -> dict[str, RunConfig]:
    """The base with each mixer, its blocks chosen so that states are as many as the base's."""
    mixer = base.model.mixer
    states = mixer.blocks_for(base.model.d_model) * mixer.block_size
    return {
        name: with_mixer(base, replace(one, num_blocks=max(1, states // one.block_size)))
        for name, one in named.items()
    }
