"""From a config to the model whose architecture it names."""

from __future__ import annotations

from torch import nn

from .autoencoder import Autoencoder
from .language_model import LanguageModel, ModelConfig

ARCHITECTURES: dict[str, type[LanguageModel] | type[Autoencoder]] = {
    "language-model": LanguageModel,
    "autoencoder": Autoencoder,
}


def make_model(config: ModelConfig) -> nn.Module:
    """Build the model that ``config.architecture`` names: tokens (B, T) -> logits (B, T, V).

    Examples:
        >>> type(make_model(ModelConfig(vocab_size=11, architecture="autoencoder"))).__name__
        'Autoencoder'
    """
    return ARCHITECTURES[config.architecture](config)
