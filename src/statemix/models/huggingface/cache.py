"""``StatemixCache``: what ``generate`` carries from one token to the next."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from statemix.models.states import map_tensors, tensors_in


class StatemixCache(Cache):
    """The state of each layer and how many tokens made it; its size does not depend on their number.

    States are float32 (B, M, N) for recurrences, and whatever other mixers keep. ``generate`` makes one by
    itself; pass one as ``cache`` (or ``past_key_values``) to go on from where it stands. It moves on with
    what is generated, and its rows are repeated where beams or samples repeat the prompts.

    Examples:
        >>> from statemix.models.huggingface import StatemixConfig, StatemixForCausalLM
        >>> model = StatemixForCausalLM(StatemixConfig(hidden_size=16, num_hidden_layers=1, num_blocks=8))
        >>> cache = StatemixCache()
        >>> _ = model(torch.randint(256, (2, 100)), cache=cache)
        >>> cache.get_seq_length(), cache.batch_size, cache.states[0].shape
        (100, 2, torch.Size([2, 4, 8]))
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.states: tuple[Any, ...] | None = None
        self.mixers: tuple[str, ...] = ()
        self.seen = 0

    def update_states(self, states: tuple[Any, ...], tokens: int, mixers: tuple[str, ...]) -> None:
        """Keep the states after ``tokens`` further tokens, and the names of the mixers that they are of."""
        self.states, self.mixers = tuple(states), mixers
        self.seen += tokens

    def check_fits(self, mixers: tuple[str, ...], batch: int) -> None:
        """Raise ValueError unless it is empty, or of layers with these mixers and of that many sequences."""
        if self.states is None:
            return
        if len(self.mixers) != len(mixers):
            raise ValueError(
                f"StatemixCache: the cache is of a model of {len(self.mixers)} layers, and this one has "
                f"{len(mixers)}: start with an empty StatemixCache()"
            )
        # States of other mixers may have the same shapes, and mean something else.
        for layer, (theirs, here) in enumerate(zip(self.mixers, mixers, strict=True)):
            if theirs != here:
                raise ValueError(
                    f"StatemixCache: the cache is of a model whose layer {layer} is {theirs}, and here it is "
                    f"{here}: start with an empty StatemixCache()"
                )
        if self.batch_size != batch:
            raise ValueError(
                f"StatemixCache: the cache holds the states of {self.batch_size} sequences and input_ids has "
                f"{batch}: use batch_repeat_interleave or batch_select_indices, or an empty StatemixCache()"
            )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens that were read, padding included."""
        return self.seen

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: there is no limit."""
        return -1

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """(tokens in all, offset), as masks are made."""
        return self.seen + query_length, 0

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Whether any token was read."""
        return self.states is not None

    @property
    def batch_size(self) -> int:
        """Sequences; -1 while it is empty."""
        tensors = tensors_in(self.states)
        return tensors[0].shape[0] if tensors else -1

    @property
    def is_compileable(self) -> bool:
        """False: the states are new tensors at every step. A compiled step is :class:`statemix.Decoder`'s."""
        return False

    @property
    def is_linear(self) -> list[bool]:
        """No layer is taken for one that forgot how much it read: ``generate`` leaves out what was read."""
        return [False]

    @property
    def is_initialized(self) -> bool:
        return self.states is not None

    @property
    def is_croppable(self) -> bool:
        """False: a recurrence cannot forget its last tokens."""
        return False

    def __deepcopy__(self, memo: dict[int, Any]) -> StatemixCache:
        """A cache of its own; PyTorch itself copies no tensor deeply that was made with gradients."""
        made = memo[id(self)] = type(self).__new__(type(self))
        for name, value in vars(self).items():
            setattr(made, name, None if name == "states" else copy.deepcopy(value, memo))
        made.states = map_tensors(torch.Tensor.clone, self.states)
        return made

    def __len__(self) -> int:
        return len(self.states or ())

    def __repr__(self) -> str:
        return f"StatemixCache(layers={len(self)}, batch_size={self.batch_size}, tokens={self.seen})"

    def crop(self, tokens_to_remove: int) -> None:
        """Raise: copy the cache before tokens that may have to be taken back (copy.deepcopy)."""
        raise NotImplementedError(
            "StatemixCache: a recurrent state cannot be cropped; keep a copy.deepcopy of the cache and go "
            "back to that"
        )

    def reset(self) -> None:
        """Empty it."""
        self.states, self.mixers, self.seen = None, (), 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the states of these rows, as beam search asks."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Take the states of these rows, any number of times each."""
        self._each(lambda t: t.index_select(0, indices.to(t.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat the states of each row."""
        self._each(lambda t: t.repeat_interleave(repeats, 0))

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        self.states = map_tensors(change, self.states)
