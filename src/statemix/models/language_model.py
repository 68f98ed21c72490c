"""The shared backbone: embedding, blocks, final norm, head; it reads tokens and predicts tokens."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.nn import BDLRU, HLRU
from statemix.nn.plain import is_plain
from statemix.ops.checks import check_choices, check_number, check_size
from statemix.shapes import Boundaries, Mask, Tokens

from .block import INITIAL_STD, MLP, Block, Blocks
from .inputs import check_mask, check_prompt, check_tokens, embedded, last_real
from .mixers import MixerConfig, make_mixer
from .modes import evaluating
from .sampling import Sampler, continued


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of the backbone and what mixes the sequence in it.

    Raises:
        ValueError: sizes below one, an unknown choice, or tied embeddings over unlike vocabularies.
        TypeError: a mixer that is no MixerConfig, or a pattern in one text.

    Examples:
        >>> config = ModelConfig(vocab_size=256, num_layers=4, pattern=("bdlru", "attention"))
        >>> [mixer.name for mixer in config.mixers()]
        ['bdlru', 'attention', 'bdlru', 'attention']
    """

    vocab_size: int | None = None
    """Tokens that go in. Default: what the data asks for."""

    output_size: int | None = None
    """Tokens that come out. Default: what the data asks for, else vocab_size."""

    d_model: int = 64
    """Width D of the residual stream."""

    num_layers: int = 1
    """Blocks of (mixer, MLP)."""

    mixer: MixerConfig = field(default_factory=MixerConfig)
    """The layer that mixes along time."""

    pattern: tuple[str, ...] = ()
    """Names of mixers, layer by layer and repeated, that take the place of mixer.name: bdlru attention."""

    mlp: Literal["swiglu", "gelu", "none"] = "swiglu"
    """What follows the mixer in a block."""

    mlp_ratio: float = 4.0
    """Hidden width of the MLP over D (SwiGLU takes two thirds of it: as many weights)."""

    mlp_init: Literal["paper", "fan-in"] = "paper"
    """How the weights of MLPs start: N(0, 0.02), or N(0, 1/sqrt(inputs)), as mixer.weight_init has it."""

    tie_embeddings: bool = False
    """Whether the head's weight is the embedding's."""

    embedding_std: float = 0.02
    """Standard deviation of the first embeddings. State tracking wants 1: far longer sequences stay right."""

    norm_eps: float = 1e-5
    """Added to the mean square in every RMSNorm."""

    gradient_checkpointing: bool = False
    """Whether backward runs each block again: less memory for a third more computation."""

    architecture: Literal["language-model", "autoencoder"] = "language-model"
    """A prediction at every token, or every token read back from the last one's vector (compression)."""

    max_length: int = 512
    """Longest sequence of an autoencoder, whose positions are a learned table."""

    def __post_init__(self) -> None:
        check_choices("model", self)
        if not isinstance(self.mixer, MixerConfig):
            hint = f": write MixerConfig(name={self.mixer!r})" if isinstance(self.mixer, str) else ""
            raise TypeError(f"model: mixer must be a MixerConfig; got {self.mixer!r}{hint}")
        above = "a number above 0"
        check_number("model", "embedding_std", self.embedding_std, above, lambda std: 0 < std < inf)
        check_number("model", "norm_eps", self.norm_eps, "a number from 0 on", lambda eps: 0 <= eps < inf)
        above += ' (mlp="none" leaves MLPs out)'
        check_number("model", "mlp_ratio", self.mlp_ratio, above, lambda ratio: 0 < ratio < inf)
        for name in ("vocab_size", "output_size", "d_model", "num_layers", "max_length"):
            size = getattr(self, name)
            if size is not None:
                check_size("model", name, size)
        if self.tie_embeddings and self.output_size not in (None, self.vocab_size):
            raise ValueError(
                f"model: tied embeddings need output_size = vocab_size; got {self.output_size} and "
                f"{self.vocab_size}; pass tie_embeddings=False"
            )
        if isinstance(self.pattern, str):
            raise TypeError(
                f"model: pattern must be a tuple of names, one a layer; got the text {self.pattern!r}: write "
                f"{tuple(self.pattern.replace(',', ' ').split())!r}"
            )
        for name in self.pattern:
            self.mixer.named(name)

    def mixers(self) -> list[MixerConfig]:
        """The mixer of every layer."""
        names = self.pattern or (self.mixer.name,)
        return [self.mixer.named(names[i % len(names)]) for i in range(self.num_layers)]


class LanguageModel(nn.Module):
    """Next-token logits from tokens, whole sequences at a time or one token at a time.

    Shapes: tokens (B, T) -> logits (B, T, V). The head and the MLPs start normal with standard deviation
    0.02 as in GPT-2, or MLPs as ``mlp_init`` says; embeddings with the config's, norms at one; each mixer
    draws its own (BD-LRU and H-LRU: normal 0.02 with zero gate biases, as in the paper).

    Raises:
        ValueError: ``config.vocab_size`` is None.

    Examples:
        >>> model = LanguageModel(ModelConfig(vocab_size=11, d_model=16, mixer=MixerConfig(name="gru")))
        >>> tokens = torch.randint(11, (2, 7))
        >>> whole = model(tokens)
        >>> first, states = model(tokens[:, :3], return_states=True)
        >>> rest = model(tokens[:, 3:], states)
        >>> whole.shape, torch.allclose(torch.cat([first, rest], 1), whole, atol=1e-6)
        (torch.Size([2, 7, 11]), True)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise ValueError("LanguageModel: config.vocab_size must be given; only training fills it in")
        self.config = config
        width = config.d_model
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.blocks = make_blocks(config)
        self.norm = nn.RMSNorm(width, eps=config.norm_eps)
        self.head = None
        if not config.tie_embeddings:
            self.head = nn.Linear(width, config.output_size or config.vocab_size, bias=False)
        self._initialize()

    def _initialize(self) -> None:
        nn.init.normal_(self.embedding.weight, std=self.config.embedding_std)
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=INITIAL_STD)
        for module in self.modules():
            if isinstance(module, MLP):
                module.reset_parameters()

    @property
    def reads_weights(self) -> bool:
        """Whether a step may read the weights of all parts in place of calling them.

        The mixers are BD-LRU and H-LRU, and no part is wrapped, patched or hooked.
        """
        kinds = (Blocks, Block, MLP, BDLRU, HLRU, nn.Linear, nn.Embedding, nn.RMSNorm)
        parts = (module for module in self.modules() if module is not self)
        return all(any(is_plain(part, kind) for kind in kinds) for part in parts)

    @property
    def head_weight(self) -> Tensor:
        """The weight that turns hidden vectors into logits, (V, D): the embedding's where they are tied.

        Raises:
            RuntimeError: the head is more than its weight: wrapped, patched, hooked, or with a bias.
        """
        return self.embedding.weight if self.head is None else weight_alone(self.head)

    def forward(
        self,
        tokens: Tokens,
        states: tuple[Any, ...] | None = None,
        *,
        return_states: bool = False,
        return_hidden: bool = False,
        cu_seqlens: Boundaries | None = None,
        mask: Mask | None = None,
    ) -> Any:
        """Logits (B, T, V); with ``return_states`` also the state of each layer, to go on from.

        ``return_hidden`` gives what the head reads, (B, T, D), in place of logits: a loss that works in
        pieces multiplies it with :attr:`head_weight`. ``cu_seqlens`` (S + 1,) int32 bounds sequences packed
        in a batch of 1; ``mask`` (B, T) bool is True at real tokens. Both together raise ValueError.
        """
        if cu_seqlens is not None and mask is not None:
            raise ValueError("LanguageModel: give cu_seqlens or mask, not both")
        x, ends = self.blocks(
            embedded("LanguageModel", self.embedding, tokens),
            states,
            return_states=return_states,
            cu_seqlens=cu_seqlens,
            mask=mask,
        )
        x = self.norm(x)
        found = x if return_hidden else self._logits(x)
        return (found, ends) if return_states else found

    def step(self, tokens: Tensor, states: tuple[Any, ...] | None = None) -> tuple[Tensor, tuple[Any, ...]]:
        """One token of each sequence: tokens (B,) -> logits (B, V) and the next states."""
        x, ends = self.blocks.step(embedded("LanguageModel", self.embedding, tokens, 1), states)
        return self._logits(self.norm(x)), ends

    def read(
        self,
        tokens: Tokens,
        states: tuple[Any, ...] | None = None,
        *,
        mask: Mask | None = None,
        piece: int = 4096,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """The logits (B, V) after the last token that is real, and the states there.

        ``piece`` tokens stand in memory. A row without a real token gets the logits of a padded place.

        Raises:
            TypeError: tokens that are no integers, a mask that is none of bool. ValueError: no token to read,
                a mask of another shape, or a piece below 1.
        """
        check_tokens("LanguageModel: read", tokens)
        if tokens.shape[1] < 1:
            raise ValueError(
                f"LanguageModel: read: tokens must be (B, T) with T >= 1; got {tuple(tokens.shape)}"
            )
        check_mask("LanguageModel: read", mask, tokens)
        piece = check_size("LanguageModel: read", "piece", piece)
        last = tokens.new_empty(0)
        masks = itertools.repeat(None) if mask is None else mask.split(piece, 1)
        for some, real in zip(tokens.split(piece, 1), masks, strict=False):
            hidden, states = self(some, states, return_states=True, return_hidden=True, mask=real)
            found = last_real(hidden, real)
            if real is not None and last.numel():
                # Rows of which this piece holds padding alone stand where they stood.
                found = torch.where(real.any(1, keepdim=True), found, last)
            last = found
        return self._logits(last), states or ()

    def stream(
        self,
        prompt: Tokens,
        *,
        mask: Mask | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop_tokens: tuple[int, ...] = (),
        generator: torch.Generator | None = None,
    ) -> Iterator[Tensor]:
        """Yield sampled tokens (B,), in the memory of one state (attention's grows).

        It ends when every row has met a stop token, which a row then repeats; without any it never ends.
        The model is read as in evaluation mode, whatever mode it is in: noise that training draws is no part
        of what it says, and would take random numbers from the training that it is part of.

        Args:
            prompt: (B, T) with T at least 1.
            mask: (B, T) bool, True at real tokens, for prompts of unequal length padded on the left.
            temperature: divides the logits; 0 takes the most likely token.
            top_k: sample among that many most likely tokens.
            top_p: sample among the fewest most likely tokens whose probability reaches this sum.
            stop_tokens: tokens after which a row has ended.
            generator: source of the randomness, on the model's device.

        Raises:
            ValueError: an empty prompt, tokens that the vocabulary does not have, a mask of another shape or
                padding on the right, a negative temperature, top_k below 1, or top_p outside (0, 1].
            TypeError: a prompt that is no tensor of integers, or a mask that is none of bool.
        """
        check_prompt(prompt, mask, self.embedding.num_embeddings)
        sampler = Sampler(temperature=temperature, top_k=top_k, top_p=top_p, stop_tokens=stop_tokens)
        return self._stream(prompt, mask, sampler, generator)

    def generate(
        self,
        prompt: Tokens,
        max_new_tokens: int,
        *,
        mask: Mask | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop_tokens: tuple[int, ...] = (),
        generator: torch.Generator | None = None,
    ) -> Tokens:
        """The prompt and at most ``max_new_tokens`` sampled tokens after it, (B, T + new).

        Options as in :meth:`stream`.

        Examples:
            >>> model = LanguageModel(ModelConfig(vocab_size=11, d_model=16))
            >>> prompts = torch.tensor([[0, 0, 5], [1, 2, 3]])
            >>> mask = torch.tensor([[False, False, True], [True, True, True]])
            >>> model.generate(prompts, 4, mask=mask, temperature=0).shape
            torch.Size([2, 7])
        """
        tokens = self.stream(
            prompt, mask=mask, temperature=temperature, top_k=top_k, top_p=top_p,
            stop_tokens=stop_tokens, generator=generator,
        )  # fmt: skip
        return continued(prompt, tokens, max_new_tokens)

    @torch.no_grad()
    def _stream(
        self, prompt: Tensor, mask: Tensor | None, sampler: Sampler, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        with evaluating(self):
            logits, states = self.read(prompt, mask=mask)
        while True:
            token = sampler.next(logits, generator)
            yield token
            if sampler.finished:
                return
            # Anew for each token: between two of them the model may be trained.
            with evaluating(self):
                logits, states = self.step(token, states)

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(x, self.embedding.weight) if self.head is None else self.head(x)


def make_blocks(config: ModelConfig, mixers: Iterable[MixerConfig] | None = None) -> Blocks:
    """The blocks that a config asks for, as drawn by their own constructors.

    ``mixers`` takes the place of the config's own, where layers differ in more than a name.
    """

    def mlp() -> MLP | None:
        if config.mlp == "none":
            return None
        return MLP(config.d_model, kind=config.mlp, ratio=config.mlp_ratio, init=config.mlp_init)

    return Blocks(
        (
            Block(config.d_model, make_mixer(mixer, config.d_model), mlp(), eps=config.norm_eps)
            for mixer in (config.mixers() if mixers is None else mixers)
        ),
        gradient_checkpointing=config.gradient_checkpointing,
    )


def weight_alone(head: nn.Module) -> Tensor:
    """The weight of a head, which must be nothing but it."""
    if not is_plain(head) or head.bias is not None:
        raise RuntimeError(
            f"head_weight: a {type(head).__name__} that is wrapped, patched, hooked or has a bias is more "
            f"than its weight; call model.head on the hidden vectors"
        )
    return cast(nn.Linear, head).weight
