"""``StatemixModel`` and ``StatemixForCausalLM``: the backbone behind the interface of Transformers."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from statemix.models.block import INITIAL_STD
from statemix.models.inputs import embedded
from statemix.models.language_model import make_blocks

from .cache import StatemixCache
from .configuration import StatemixConfig
from .initialization import draw, initialize
from .loss import needs_no_logits, next_label_loss
from .packing import ARGUMENTS, document_bounds

_generation: Any = GenerationMixin  # its methods are typed for models of their own

CACHE = "past_key_values"
"""What this version of Transformers calls the cache; newer ones say "cache"."""
if "cache" in inspect.signature(_generation.prepare_inputs_for_generation).parameters:
    CACHE = "cache"

SIGNPOST = "modeling_statemix"
"""Module that is saved beside the weights and imports the classes from here."""

_ROWS = ("input_ids", "inputs_embeds")
"""Arguments whose first size is the number of sequences."""

_AUTO_CLASSES = {
    "AutoConfig": "StatemixConfig",
    "AutoModel": "StatemixModel",
    "AutoModelForCausalLM": "StatemixForCausalLM",
}


class StatemixPreTrainedModel(PreTrainedModel):
    """What both models share: how weights begin, and what Transformers may do with them."""

    config_class = StatemixConfig
    config: StatemixConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    # What the mixer "attention" calls; programs ask for it by name whatever the model is.
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["Block"]
    # Generation by drafts needs to take tokens back, which a recurrent state cannot.
    _is_stateful = True

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As in Transformers; the folder also says where its classes are.

        With ``trust_remote_code=True`` a program that knows nothing of statemix then loads it by the Auto
        classes, where statemix is installed; ``import statemix.models.huggingface`` does without that.
        """
        self.config.auto_map = {auto: f"{SIGNPOST}.{name}" for auto, name in _AUTO_CLASSES.items()}
        super().save_pretrained(save_directory, *args, **kwargs)
        if os.path.isdir(save_directory):
            names = ", ".join(_AUTO_CLASSES.values())
            line = f"from statemix.models.huggingface import {names}  # noqa: F401\n"
            Path(save_directory, f"{SIGNPOST}.py").write_text(line)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Nothing: what is saved points to this package, and copies no code."""

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # Transformers takes modules of custom code that hold no weight of their own for initialised, and
        # would never ask _init_weights about blocks and MLPs.
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As :class:`statemix.LanguageModel` begins: each mixer draws itself."""
        if isinstance(module, StatemixForCausalLM):
            draw(module.lm_head.weight, INITIAL_STD)
        else:
            initialize(module, self.config.embedding_std)


class StatemixModel(StatemixPreTrainedModel):
    """Tokens to hidden vectors: embedding, blocks, final norm.

    Shapes: input_ids (B, T), or inputs_embeds (B, T, D) -> last_hidden_state (B, T, D).
    """

    def __init__(self, config: StatemixConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        mixers = config.mixers()
        self.mixers = tuple(mixer.name for mixer in mixers)
        self.blocks = make_blocks(config.model_config(), mixers)
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embedding = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: StatemixCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: StatemixCache | None = None,
        position_ids: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Read tokens, from the start or from a cache.

        Args:
            attention_mask: (B, T) or, with a cache, (B, tokens read + T): 1 at real tokens, 0 at padding,
                which leaves the states as they are. Padding may be anywhere.
            cache, past_key_values: the cache to go on from, by either name; it is changed to stand behind
                these tokens.
            use_cache: return a cache, a new one if none is passed.
            position_ids: (B, T); without a mask and a cache a document begins wherever they are 0, and knows
                nothing of what stands before it, as collators pack them. Else they are not read.
            cu_seq_lens_q: (S + 1,), the bounds of documents packed in a batch of 1, in place of that.

        Raises:
            ValueError: no tokens, on a CPU one that the vocabulary does not have, or a mask or cache that
                does not fit.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Statemix: give input_ids or inputs_embeds, one of them")
        if return_dict is None:
            return_dict = self.config.return_dict
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        cache = _one_of(cache, past_key_values)
        if use_cache is None:
            use_cache = cache is not None or (self.config.use_cache and not self.training)
        if self.training and self.blocks.gradient_checkpointing:
            use_cache = False
        x = inputs_embeds
        if x is None:
            x = embedded("Statemix", self.embedding, cast(Tensor, input_ids))
        batch, time = x.shape[:2]
        if time == 0:
            raise ValueError(
                "Statemix: there are no tokens to read; a prompt needs at least one (with a cache, input_ids "
                "is the whole sequence or comes with an attention_mask of the whole)"
            )
        cache = _checked_cache(cache, self.mixers, batch)
        mask = _mask_of_new(attention_mask, cache, batch, time)
        bounds = None
        if attention_mask is None and cache is None:
            bounds = document_bounds(position_ids, cu_seq_lens_q, batch, time)
        elif cu_seq_lens_q is not None:
            raise ValueError(
                "Statemix: cu_seq_lens_q packs whole documents: give no attention_mask and no cache"
            )
        if bounds is not None:  # each document ends in a state of its own, and none is the row's
            x, use_cache = x.flatten(0, 1)[None], False
        each: list[Any] | None = [] if output_hidden_states else None
        wants_states = use_cache or cache is not None
        x, states = self.blocks(
            x,
            None if cache is None else cache.states,
            return_states=wants_states,
            cu_seqlens=bounds,
            mask=mask,
            each=each,
        )
        x = self.norm(x)
        if bounds is not None:
            x = x.view(batch, time, -1)
            each = None if each is None else [some.view(batch, time, -1) for some in each]
        if states is not None:
            cache = StatemixCache() if cache is None else cache
            cache.update_states(states, time, self.mixers)
        found = BaseModelOutputWithPast(
            last_hidden_state=x,
            hidden_states=None if each is None else (*each, x),
            **cast(Any, {CACHE: cache if use_cache else None}),
        )
        return found if return_dict else found.to_tuple()


class StatemixForCausalLM(StatemixPreTrainedModel, GenerationMixin):
    """A language model for ``generate``, ``pipeline("text-generation")`` and ``Trainer``.

    Shapes: input_ids (B, T) -> logits (B, T, V); with labels (B, T) also the mean loss of predicting each
    next token, -100 left out. Where ``Trainer`` trains, labels give the loss alone and ``logits`` is None:
    those of a large vocabulary would take more memory than all else (``skip_logits`` says otherwise).

    Examples:
        >>> from statemix.models.huggingface import StatemixConfig
        >>> config = StatemixConfig(hidden_size=32, num_hidden_layers=2, mixer="hlru", order=2)
        >>> model = StatemixForCausalLM(config)
        >>> model.generate(torch.tensor([[72, 105]]), max_new_tokens=5, do_sample=False).shape
        torch.Size([1, 7])

    Source: arXiv 2602.12021.
    """

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embedding.weight"}

    def __init__(self, config: StatemixConfig) -> None:
        super().__init__(config)
        self.model = StatemixModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.embedding = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: StatemixCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: StatemixCache | None = None,
        skip_logits: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As :meth:`StatemixModel.forward`, its ``position_ids`` included, then logits.

        Args:
            logits_to_keep: how many of the last places get logits, or which places; 0 for all.
            labels: (B, T), the tokens themselves; -100 is not asked. With ``num_items_in_batch`` the loss is
                the sum over that number, as gradient accumulation needs it.
            skip_logits: with labels, make the loss in pieces and no logits. Default: the config's, else in
                training mode with ``num_items_in_batch``, as ``Trainer`` trains. Logits are there all the
                same where the loss needs them: a ``loss_function`` of one's own, a head that adapters,
                hooks or sharding wrap.

        Raises:
            ValueError: as there, or ``skip_logits=True`` without labels.
        """
        if skip_logits and labels is None:
            raise ValueError(
                "StatemixForCausalLM: skip_logits=True makes the loss alone, and there are no labels to take "
                "it of: give labels, or leave skip_logits out"
            )
        found = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            cache=_one_of(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            **{name: kwargs[name] for name in ARGUMENTS if name in kwargs},
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden = found.last_hidden_state[:, kept]
        logits = loss = None
        if labels is not None and self._skips(skip_logits, hidden, kwargs):
            loss = next_label_loss(hidden, self.lm_head.weight, labels, **kwargs)
        else:
            logits = self.lm_head(hidden)
            if labels is not None:
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.vocab_size, **kwargs)
        output = CausalLMOutputWithPast(
            **cast(Any, {"loss": loss, "logits": logits, CACHE: getattr(found, CACHE)}),
            hidden_states=found.hidden_states,
        )
        wants_dict = self.config.return_dict if return_dict is None else return_dict
        return output if wants_dict else output.to_tuple()

    def _skips(self, asked: bool | None, hidden: Tensor, loss_arguments: dict[str, Any]) -> bool:
        """Whether labels give the loss alone: the argument decides, else the config, else who calls."""
        if asked is None:
            asked = self.config.skip_logits
        if asked is None:
            # A loop of one's own may read logits; Trainer, which counts items, does not.
            asked = self.training and loss_arguments.get("num_items_in_batch") is not None
        return asked and needs_no_logits(self.lm_head, self.loss_function, hidden)

    def generate(self, *args: Any, cache: StatemixCache | None = None, **kwargs: Any) -> Any:
        """As in Transformers; ``cache``, a :class:`StatemixCache` to go on from, in every version of it."""
        if cache is not None:
            kwargs[CACHE] = cache
        return _generation.generate(self, *args, **kwargs)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _expand_inputs_for_generation(self, expand_size: int = 1, **inputs: Any) -> Any:
        """Where beams or samples repeat the prompts, a cache of as many rows is repeated with them."""
        cache = inputs.get(CACHE)
        rows = next((inputs[name].shape[0] for name in _ROWS if inputs.get(name) is not None), None)
        if isinstance(cache, StatemixCache) and cache.batch_size == rows:
            cache.batch_repeat_interleave(expand_size)
        # Found on the parent, since it is a static method there in some versions and not in others.
        parent: Any = super()
        return parent._expand_inputs_for_generation(expand_size=expand_size, **inputs)

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *arguments: Any, **options: Any
    ) -> None:
        """``generate`` starts with an empty cache of ours where none is passed."""
        cache = model_kwargs.get(CACHE)
        if cache is not None:
            _checked_cache(cache, self.model.mixers, None)
            cache._is_user_defined = True
        elif generation_config.use_cache is not False:
            model_kwargs[CACHE] = StatemixCache()


def _one_of(cache: StatemixCache | None, past_key_values: StatemixCache | None) -> StatemixCache | None:
    if cache is not None and past_key_values is not None:
        raise ValueError("Statemix: give cache or past_key_values, not both: they are two names of one thing")
    return past_key_values if cache is None else cache


def _checked_cache(cache: Any, mixers: tuple[str, ...], batch: int | None) -> StatemixCache | None:
    if cache is None:
        return None
    if not isinstance(cache, StatemixCache):
        raise TypeError(
            f"Statemix: the cache must be a StatemixCache; got {type(cache).__name__}: a recurrence "
            f"keeps states, not keys and values"
        )
    cache.check_fits(mixers, cache.batch_size if batch is None else batch)
    return cache


def _mask_of_new(
    attention_mask: Tensor | None, cache: StatemixCache | None, batch: int, time: int
) -> Tensor | None:
    """The mask of the tokens that come now, (B, T) bool; None where all are real."""
    if attention_mask is None:
        return None
    past = 0 if cache is None else cache.seen
    # Not by `in`: the compiler takes a size that may vary for unlike one that may not, whatever it is now.
    if attention_mask.shape != (batch, time) and attention_mask.shape != (batch, past + time):
        raise ValueError(
            f"Statemix: attention_mask must be (B, T) = ({batch}, {time}), or ({batch}, {past + time}) with "
            f"the {past} tokens in the cache; got {tuple(attention_mask.shape)}"
        )
    mask = attention_mask[:, -time:].bool()
    if not torch.compiler.is_compiling() and bool(mask.all()):
        return None
    return mask
