"""``StatemixConfig``: a model's sizes in the words of Transformers."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from statemix.models.language_model import ModelConfig
from statemix.models.mixers import MIXERS, MixerConfig, options_of
from statemix.ops.checks import check_size

# Options of MixerConfig by their names here; all others go into mixer_options.
_MIXER_OPTIONS = {
    "normalization": "normalization",
    "selective": "selective",
    "initial_state": "initial_state",
    "gate_init": "gate_init",
    "weight_init": "weight_init",
    "gate_noise": "gate_noise",
    "block_dropout": "block_dropout",
    "readout": "readout",
    "num_heads": "num_attention_heads",
    "backend": "backend",
}
_MODEL_FIELDS = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "num_layers": "num_hidden_layers",
    "mlp": "mlp",
    "mlp_ratio": "mlp_ratio",
    "mlp_init": "mlp_init",
    "tie_embeddings": "tie_word_embeddings",
    "embedding_std": "embedding_std",
    "norm_eps": "rms_norm_eps",
}
# Where words of ModelConfig and MixerConfig have another place here: Transformers would keep any argument.
_ELSEWHERE = {ours: here for ours, here in (_MODEL_FIELDS | _MIXER_OPTIONS).items() if ours != here}
_ELSEWHERE |= {"pattern": "mixer"}
_ELSEWHERE |= {
    field.name: f"mixer_options={{{field.name!r}: ...}}"
    for field in dataclasses.fields(MixerConfig)
    if field.name not in ("name", "block_size", "num_blocks", *_MIXER_OPTIONS)
}
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "block_size")
_OPTIONAL_SIZES = ("order", "num_blocks", "num_attention_heads")


class StatemixConfig(PreTrainedConfig):
    """Sizes of the backbone and what mixes the sequence in it.

    Args:
        vocab_size: tokens; 256 reads bytes.
        hidden_size: width D of the residual stream.
        num_hidden_layers: blocks of (mixer, MLP).
        mixer: "bdlru", "hlru", "attention" or another name of the mixer table; a list of names is repeated
            over the layers.
        block_size: channels that mix with each other (bdlru).
        order: states that a channel looks back on (hlru); block_size where it is left out. Models that
            hold both kinds may have both sizes.
        num_blocks: blocks (bdlru) or channels (hlru); default about hidden_size over the block size.
        normalization, selective, initial_state, readout, backend: as in :class:`statemix.MixerConfig`; each
            goes to those mixers that have it.
        gate_init, weight_init, gate_noise, block_dropout: the same.
        num_attention_heads: heads of attention layers; default 4.
        mixer_options: further fields of :class:`statemix.MixerConfig`, for other mixers.
        mlp, mlp_ratio, mlp_init: kind of the MLP, its hidden width over hidden_size, how its weights start.
        embedding_std: standard deviation of the first embeddings.
        rms_norm_eps: added to the mean square in every RMSNorm.
        skip_logits: whether labels give the loss alone, without logits. Default: where Trainer trains.

    Raises:
        ValueError: an unknown mixer (the nearest are listed), sizes that are no integers from one on, or
            words of :class:`statemix.ModelConfig` that are others here.

    Examples:
        >>> names = ["bdlru", "bdlru", "hlru"]
        >>> config = StatemixConfig(hidden_size=64, num_hidden_layers=3, mixer=names, order=2)
        >>> [(m.name, m.block_size) for m in config.mixers()]
        [('bdlru', 4), ('bdlru', 4), ('hlru', 2)]
    """

    model_type = "statemix"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "cache"]

    vocab_size: int = 256
    hidden_size: int = 256
    num_hidden_layers: int = 4
    mixer: str | list[str] = "bdlru"
    block_size: int = 4
    order: int | None = None
    num_blocks: int | None = None
    normalization: str = "softmax"
    selective: bool = True
    initial_state: str = "zeros"
    gate_init: str = "paper"
    weight_init: str = "paper"
    gate_noise: float = 0.0
    block_dropout: float = 0.0
    readout: str | None = None
    num_attention_heads: int | None = None
    backend: str = "auto"
    mixer_options: dict[str, Any] | None = None
    mlp: str = "swiglu"
    mlp_ratio: float = 4.0
    mlp_init: str = "paper"
    embedding_std: float = 0.02
    rms_norm_eps: float = 1e-5
    use_cache: bool = True
    skip_logits: bool | None = None
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        misplaced = [f"{name} (write {_ELSEWHERE[name]})" for name in kwargs if name in _ELSEWHERE]
        if misplaced:
            raise ValueError(f"StatemixConfig: there is no {', '.join(misplaced)}")
        super().__post_init__(**kwargs)
        if isinstance(self.mixer, (list, tuple)):
            self.mixer = list(self.mixer)
        for name in _SIZES:
            check_size("StatemixConfig", name, getattr(self, name))
        for name in _OPTIONAL_SIZES:
            if getattr(self, name) is not None:
                check_size("StatemixConfig", name, getattr(self, name))
        self.model_config()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in Transformers, which warns of another architecture's config and then draws weights for it.

        Raises:
            ValueError: the config of another architecture.
        """
        kind = config_dict.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise ValueError(
                f"StatemixConfig: this is the config of another architecture, {kind!r}: load it with "
                f"AutoConfig or AutoModelForCausalLM"
            )
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Nothing: what is saved points to this package, and copies no code."""

    def mixers(self) -> list[MixerConfig]:
        """The mixer of every layer."""
        options = {option: getattr(self, here) for option, here in _MIXER_OPTIONS.items()}
        options |= self.mixer_options or {}
        names = self.names()
        _check_options(options, names)
        kinds = [self._mixer(name, options) for name in names]
        return [kinds[layer % len(kinds)] for layer in range(self.num_hidden_layers)]

    def names(self) -> list[str]:
        """The names of mixers that repeat over the layers."""
        names = [self.mixer] if isinstance(self.mixer, str) else self.mixer
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"StatemixConfig: mixer must be a name or a list that names at least one; got {names!r}"
            )
        return names

    def model_config(self) -> ModelConfig:
        """The backbone's own config.

        Its one :class:`MixerConfig` holds what the mixers share; :meth:`mixers` counts where they do not.
        """
        sizes = {field: getattr(self, here) for field, here in _MODEL_FIELDS.items()}
        pattern = tuple(self.names()) if len(self.names()) > 1 else ()
        mixers = self.mixers()
        whole = [ModelConfig(**sizes, mixer=mixer, pattern=pattern) for mixer in mixers]
        return next((config for config in whole if config.mixers() == mixers), whole[0])

    def _mixer(self, name: str, options: dict[str, Any]) -> MixerConfig:
        size = self.order if name == "hlru" and self.order is not None else self.block_size
        # An unknown name is refused by MixerConfig, which lists the nearest.
        has = options_of(name) if name in MIXERS else ()
        chosen = {option: value for option, value in options.items() if option in has}
        return MixerConfig(name=name, block_size=size, num_blocks=self.num_blocks, **chosen)

    @classmethod
    def from_model_config(cls, config: ModelConfig, **kwargs: Any) -> StatemixConfig:
        """The config of Transformers for a backbone's own.

        Raises:
            ValueError: a model that is no language model: outputs unlike its inputs, or another architecture.
        """
        if config.output_size not in (None, config.vocab_size):
            raise ValueError(
                f"StatemixConfig: a language model's outputs are its inputs' vocabulary; this one reads "
                f"{config.vocab_size} tokens and predicts {config.output_size}"
            )
        if config.architecture != "language-model":
            raise ValueError(
                f"StatemixConfig: only language models convert; this one is an {config.architecture}"
            )
        values = {here: getattr(config, field) for field, here in _MODEL_FIELDS.items()}
        # A pattern may leave out the mixer that an option of the config's was meant for.
        has = {option for name in config.pattern or (config.mixer.name,) for option in options_of(name)}
        values |= {here: getattr(config.mixer, o) for o, here in _MIXER_OPTIONS.items() if o in has}
        values |= {"block_size": config.mixer.block_size, "num_blocks": config.mixer.num_blocks}
        default = MixerConfig(name=config.mixer.name)
        rest = {
            option: getattr(config.mixer, option)
            for option in options_of(config.mixer.name)
            if option in has - set(_MIXER_OPTIONS)
            and getattr(config.mixer, option) != getattr(default, option)
        }
        mixer = list(config.pattern) if config.pattern else config.mixer.name
        return cls(mixer=mixer, mixer_options=rest or None, **values, **kwargs)


def _check_options(options: dict[str, Any], names: list[str]) -> None:
    """Raise for options that no mixer here has, unless they stand at their default."""
    defaults = {f.name: f.default for f in dataclasses.fields(MixerConfig)}
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        raise ValueError(
            f"StatemixConfig: mixer_options has unknown fields {', '.join(unknown)}; they may come from "
            f"another version of statemix"
        )
    has = {option for name in names if name in MIXERS for option in options_of(name)}
    unused = [o for o, value in options.items() if o not in has and value != defaults[o]]
    if unused and all(name in MIXERS for name in names):
        raise ValueError(
            f"StatemixConfig: no mixer of {', '.join(dict.fromkeys(names))} has the option "
            f"{', '.join(_MIXER_OPTIONS.get(o, o) for o in unused)}; leave it out"
        )
