"""Recipes for language models: sizes of the field, each with any mixer at equal parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from statemix.models import MixerConfig, ModelConfig
from statemix.models.sizing import count_parameters, fit
from statemix.names import unknown_name
from statemix.text import ByteTokenizer
from statemix.training import OptimizerConfig, RunConfig, ScheduleConfig, ShardData


class Size(NamedTuple):
    """A backbone, and how it is trained.

    d_model, num_layers: of a backbone with attention; other mixers get as many parameters. tokens: to
    train on. batch_tokens: in one update. learning_rate: at its peak. accumulate: parts of an update.
    """

    d_model: int
    num_layers: int
    tokens: int
    batch_tokens: int
    learning_rate: float
    accumulate: int = 1


SIZES: dict[str, Size] = {
    "lm": Size(d_model=128, num_layers=4, tokens=3 * 2**20, batch_tokens=2**12, learning_rate=4e-3),
    "lm-10m": Size(d_model=384, num_layers=6, tokens=200_000_000, batch_tokens=2**16, learning_rate=2e-3),
    "lm-40m": Size(d_model=640, num_layers=8, tokens=400_000_000, batch_tokens=2**16, learning_rate=1e-3),
    "lm-134m": Size(
        d_model=768,
        num_layers=12,
        tokens=2_700_000_000,
        batch_tokens=2**19,
        learning_rate=6e-4,
        accumulate=16,
    ),
}
"""Named after their parameters, 10.8 and 39.6 M of bytes; the last 134 M at a vocabulary of 32,000."""

LANGUAGE_MIXERS: dict[str, dict[str, Any]] = {
    "bdlru-1": {"name": "bdlru", "block_size": 1},
    "bdlru-2": {"name": "bdlru", "block_size": 2},
    "bdlru-4": {"name": "bdlru", "block_size": 4},
    "hlru-2": {"name": "hlru", "block_size": 2},
    "hlru-4": {"name": "hlru", "block_size": 4},
    "deltanet": {"name": "deltanet"},
    "gated-deltanet": {"name": "gated-deltanet"},
    "mamba2": {"name": "mamba2"},
    "attention": {"name": "attention", "rotary": True},
    "lstm": {"name": "lstm", "block_size": 1},
    "bdlru-2+attention": {"name": "attention", "rotary": True, "block_size": 2},
    "hlru-2+attention": {"name": "attention", "rotary": True, "block_size": 2},
}
"""Mixers by the name that follows a recipe's: ``lm-10m/hlru-2``."""

PATTERNS: dict[str, tuple[str, ...]] = {
    "bdlru-2+attention": ("bdlru", "bdlru", "attention"),
    "hlru-2+attention": ("hlru", "hlru", "attention"),
}
"""Those that differ from layer to layer: two recurrences carry state, then attention looks up."""

DEFAULT_MIXER = "bdlru-4"

_READ_PACKED = ("bdlru", "hlru")
_HEAD_DIM = 64


def language_run(
    size: str, mixer: str = DEFAULT_MIXER, *, vocab_size: int = ByteTokenizer.vocab_size, length: int = 1024
) -> RunConfig:
    """A whole run: the backbone of ``size`` with a mixer that has as many parameters as attention would.

    Args:
        size: a name in :data:`SIZES`.
        mixer: a name in :data:`LANGUAGE_MIXERS`.
        vocab_size: of the tokens, which decides what the whole model weighs and not how the mixer is sized.
        length: tokens of a row.

    Raises:
        ValueError: an unknown name (the nearest are listed).

    Examples:
        >>> from statemix.models.sizing import count_mixer_parameters
        >>> runs = [language_run("lm-10m", mixer) for mixer in ("bdlru-2", "attention")]
        >>> counts = [count_mixer_parameters(run.model) for run in runs]
        >>> abs(counts[0] / counts[1] - 1) < 0.03
        True
    """
    chosen, options = _named("size", size, SIZES), dict(_named("mixer", mixer, LANGUAGE_MIXERS))
    if options["name"] == "attention":
        options["num_heads"] = chosen.d_model // _HEAD_DIM
    pattern = PATTERNS.get(mixer, ())
    rows = max(1, chosen.batch_tokens // length)
    model = ModelConfig(
        vocab_size=vocab_size,
        d_model=chosen.d_model,
        num_layers=chosen.num_layers,
        mixer=MixerConfig(**options),
        pattern=pattern,
    )
    return RunConfig(
        name=size if mixer == DEFAULT_MIXER else f"{size}-{mixer}",
        # The data says how large the vocabulary is.
        model=replace(_as_large_as_attention(model), vocab_size=None),
        # Others run packed documents as padded rows, which costs them more than a state that crosses over.
        data=ShardData(length=length, reset_states=options["name"] in _READ_PACKED),
        optimizer=OptimizerConfig(
            learning_rate=chosen.learning_rate, weight_decay=0.1, betas=(0.9, 0.95), clip_norm=1.0
        ),
        schedule=ScheduleConfig(name="cosine", warmup_share=0.05, start_share=0.0, end_share=0.1),
        steps=max(1, chosen.tokens // (rows * length)),
        batch_size=rows,
        accumulate=chosen.accumulate,
        log_every=20,
        checkpoint_every=500,
    )


def lm(mixer: str = DEFAULT_MIXER) -> RunConfig:
    """A byte-level language model of 0.9 M parameters; some minutes on a CPU."""
    return language_run("lm", mixer, length=256)


def lm_10m(mixer: str = DEFAULT_MIXER) -> RunConfig:
    """A language model of 10 M parameters, 200 M tokens; minutes on a GPU."""
    return language_run("lm-10m", mixer)


def lm_40m(mixer: str = DEFAULT_MIXER) -> RunConfig:
    """A language model of 40 M parameters, 400 M tokens; a quarter of an hour on a GPU."""
    return language_run("lm-40m", mixer)


def lm_134m(mixer: str = DEFAULT_MIXER) -> RunConfig:
    """A language model of 134 M parameters at a vocabulary of 32,000, 2.7 G tokens; hours on a GPU."""
    return language_run("lm-134m", mixer, length=2048)


LANGUAGE: dict[str, Callable[..., RunConfig]] = {
    "lm": lm, "lm-10m": lm_10m, "lm-40m": lm_40m, "lm-134m": lm_134m
}  # fmt: skip


def _as_large_as_attention(config: ModelConfig) -> ModelConfig:
    """The config with its mixers sized to the parameters of attention, in multiples that products like."""
    kinds = [name for name in config.pattern or (config.mixer.name,) if name != "attention"]
    if not kinds:
        return config
    heads = config.d_model // _HEAD_DIM
    peer = replace(config, mixer=MixerConfig(name="attention", num_heads=heads), pattern=())
    # Heads are too coarse to come nearer than a tenth of a small model.
    coarse = kinds[0] not in ("bdlru", "hlru", "lstm", "gru")
    found = fit(
        replace(config, mixer=config.mixer.named(kinds[0]), pattern=()),
        parameters=count_parameters(peer),
        multiple_of=1 if coarse else 8,
        tolerance=0.1 if coarse else 0.05,
    )
    if not config.pattern:
        return found.config
    return replace(config, mixer=replace(config.mixer, num_blocks=found.config.mixer.num_blocks))


_Value = TypeVar("_Value")


def _named(what: str, name: str, table: Mapping[str, _Value]) -> _Value:
    if name not in table:
        raise ValueError(f"language: {unknown_name(what, name, table)}")
    return table[name]
