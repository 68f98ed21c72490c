"""Between ``statemix.LanguageModel`` and ``StatemixForCausalLM``: the same weights under other names."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from statemix.models.language_model import LanguageModel, ModelConfig

from .configuration import StatemixConfig
from .modeling import StatemixForCausalLM


def to_huggingface(model: LanguageModel, **config: Any) -> StatemixForCausalLM:
    """A Transformers model with copies of a language model's weights.

    Args:
        config: further fields of :class:`StatemixConfig`, such as ``eos_token_id``.

    Raises:
        TypeError: a model of another kind. ValueError: outputs that are not the inputs' vocabulary.

    Examples:
        >>> from statemix import LanguageModel, ModelConfig
        >>> model = LanguageModel(ModelConfig(vocab_size=256, d_model=16)).eval()
        >>> tokens = torch.randint(256, (1, 9))
        >>> torch.equal(to_huggingface(model)(tokens).logits, model(tokens))
        True
    """
    _check_kind("to_huggingface", model, LanguageModel, "from_huggingface goes the other way")
    theirs = StatemixForCausalLM(StatemixConfig.from_model_config(model.config, **config))
    _cast(theirs, next(model.parameters()).dtype)
    theirs.load_state_dict(their_names(model.state_dict()), strict=not model.config.tie_embeddings)
    return theirs.train(model.training)


def from_huggingface(model: StatemixForCausalLM) -> LanguageModel:
    """The language model with copies of a Transformers model's weights.

    Raises:
        TypeError: a model of another kind. ValueError: mixers with sizes or options of their own, which a
            run's config cannot hold.

    Examples:
        >>> from statemix.models import ModelConfig
        >>> model = LanguageModel(ModelConfig(vocab_size=11, d_model=8))
        >>> tokens = torch.randint(11, (1, 5))
        >>> torch.equal(from_huggingface(to_huggingface(model))(tokens), model(tokens))
        True
    """
    remedy = "StatemixForCausalLM.from_pretrained(folder) reads a folder; to_huggingface goes the other way"
    _check_kind("from_huggingface", model, StatemixForCausalLM, remedy)
    our_config(model.config)
    return language_model(model)


def language_model(model: StatemixForCausalLM) -> LanguageModel:
    """As :func:`from_huggingface`, to be used and not to be written down.

    Where mixers have sizes or options of their own, ``config`` says those of one of them.
    """
    config = model.config.model_config()
    ours = LanguageModel(config)
    if config.mixers() != model.config.mixers():
        ours.blocks = copy.deepcopy(model.model.blocks)
    _cast(ours, next(model.parameters()).dtype)
    ours.load_state_dict(our_names(model.state_dict(), ours.state_dict()))
    return ours.train(model.training)


def _check_kind(operation: str, model: object, kind: type[nn.Module], remedy: str) -> None:
    if not isinstance(model, kind):
        raise TypeError(f"{operation}: model must be a {kind.__name__}; got {type(model).__name__}: {remedy}")


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Parameters alone: buffers keep the dtype that their layer chose."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def our_config(config: StatemixConfig) -> ModelConfig:
    """The backbone's own config for one of Transformers; ``order`` becomes the block size of hlru.

    Raises:
        ValueError: mixers with sizes or options of their own, which a run's config cannot hold.
    """
    found = config.model_config()
    if found.mixers() != config.mixers():
        raise ValueError(
            f"conversion: the mixers {', '.join(config.names())} have sizes or options of their own, and a "
            f"run holds one set for all (block_size {config.block_size}, order {config.order}); this model "
            f"stays in the format of Transformers"
        )
    return found


def their_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by their names in StatemixForCausalLM."""
    return {
        "lm_head.weight" if name == "head.weight" else f"model.{name}": weight
        for name, weight in weights.items()
    }


def our_names(weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by their names in LanguageModel, those that it has: a tied head is its embedding's."""
    renamed = {
        "head.weight" if name == "lm_head.weight" else name.removeprefix("model."): weight
        for name, weight in weights.items()
    }
    return {name: weight for name, weight in renamed.items() if name in wanted or name != "head.weight"}
