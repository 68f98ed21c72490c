"""The shared backbone, the table of sequence mixers that can stand in it, and equal budgets for them."""

from .autoencoder import Autoencoder
from .decoding import Decoder
from .factory import make_model
from .language_model import LanguageModel, ModelConfig
from .mixers import MIXERS, Mixer, MixerConfig, make_mixer
from .sizing import TIERS, Fit, fit, fit_tier

__all__ = [
    "MIXERS",
    "TIERS",
    "Autoencoder",
    "Decoder",
    "Fit",
    "LanguageModel",
    "Mixer",
    "MixerConfig",
    "ModelConfig",
    "fit",
    "fit_tier",
    "make_mixer",
    "make_model",
]
