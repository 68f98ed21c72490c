"""The shared backbone and the table of sequence mixers that can stand in it."""

from .language_model import LanguageModel, ModelConfig
from .mixers import MIXERS, MixerConfig, make_mixer

__all__ = ["MIXERS", "LanguageModel", "MixerConfig", "ModelConfig", "make_mixer"]
