"""Transformers models around the recurrences: importing this registers them with the Auto classes.

    StatemixConfig                        sizes, and what mixes the sequence
    StatemixModel, StatemixForCausalLM    for generate, pipeline, Trainer, save_pretrained, lm-eval
    StatemixCache                         the recurrent states between calls
    byte_tokenizer                        a tokenizer whose token ids are bytes
    to_huggingface, from_huggingface      to and from statemix.LanguageModel, weight for weight

Needs the extra "hf".
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .cache import StatemixCache
from .configuration import StatemixConfig
from .conversion import from_huggingface, to_huggingface
from .modeling import StatemixForCausalLM, StatemixModel
from .tokenizer import byte_tokenizer

AutoConfig.register("statemix", StatemixConfig, exist_ok=True)
AutoModel.register(StatemixConfig, StatemixModel, exist_ok=True)
AutoModelForCausalLM.register(StatemixConfig, StatemixForCausalLM, exist_ok=True)
# Trainer's label smoothing looks here, and not among what is registered, for models whose labels are shifted.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["statemix"] = "StatemixForCausalLM"

__all__ = [
    "StatemixCache",
    "StatemixConfig",
    "StatemixForCausalLM",
    "StatemixModel",
    "byte_tokenizer",
    "from_huggingface",
    "to_huggingface",
]
