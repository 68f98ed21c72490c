"""The shared backbone: embedding, blocks, final norm, head; it reads tokens and predicts tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.shapes import Boundaries, Mask, Tokens

from .block import MLP, Block
from .mixers import MixerConfig, make_mixer

INITIAL_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of the backbone and what mixes the sequence in it.

    Raises:
        ValueError: sizes below one, or tied embeddings over unlike vocabularies.
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

    tie_embeddings: bool = False
    """Whether the head's weight is the embedding's."""

    embedding_std: float = 0.02
    """Standard deviation of the first embeddings. State tracking wants 1: far longer sequences stay right."""

    norm_eps: float = 1e-5
    """Added to the mean square in every RMSNorm."""

    def __post_init__(self) -> None:
        if self.embedding_std <= 0:
            raise ValueError(f"model: embedding_std must be above 0; got {self.embedding_std}")
        for name in ("vocab_size", "output_size", "d_model", "num_layers"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"model: {name} must be at least 1; got {size}")
        if self.tie_embeddings and self.output_size not in (None, self.vocab_size):
            raise ValueError(
                f"model: tied embeddings need output_size = vocab_size; got {self.output_size} and "
                f"{self.vocab_size}; pass tie_embeddings=False"
            )
        for name in self.pattern:
            replace(self.mixer, name=name)

    def mixers(self) -> list[MixerConfig]:
        """The mixer of every layer."""
        names = self.pattern or (self.mixer.name,)
        return [replace(self.mixer, name=names[i % len(names)]) for i in range(self.num_layers)]


class LanguageModel(nn.Module):
    """Next-token logits from tokens, whole sequences at a time or one token at a time.

    Shapes: tokens (B, T) -> logits (B, T, V). Weights of the backbone start normal with standard
    deviation 0.02, embeddings as the config says; each mixer draws its own.

    Raises:
        ValueError: ``config.vocab_size`` is None.

    Example:
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
        self.blocks = nn.ModuleList(self._block(mixer) for mixer in config.mixers())
        self.norm = nn.RMSNorm(width, eps=config.norm_eps)
        self.head = None
        if not config.tie_embeddings:
            self.head = nn.Linear(width, config.output_size or config.vocab_size, bias=False)
        self._initialize()

    def _block(self, mixer: MixerConfig) -> Block:
        config = self.config
        mlp = None
        if config.mlp != "none":
            mlp = MLP(config.d_model, kind=config.mlp, ratio=config.mlp_ratio)
        return Block(config.d_model, make_mixer(mixer, config.d_model), mlp, eps=config.norm_eps)

    def _initialize(self) -> None:
        nn.init.normal_(self.embedding.weight, std=self.config.embedding_std)
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=INITIAL_STD)
        for module in self.modules():
            if isinstance(module, MLP):
                nn.init.normal_(module.up.weight, std=INITIAL_STD)
                nn.init.normal_(module.down.weight, std=INITIAL_STD)

    def forward(
        self,
        tokens: Tokens,
        states: tuple[Any, ...] | None = None,
        *,
        return_states: bool = False,
        cu_seqlens: Boundaries | None = None,
        mask: Mask | None = None,
    ) -> Any:
        """Logits (B, T, V); with ``return_states`` also the state of each layer, to go on from.

        ``cu_seqlens`` (S + 1,) int32 bounds sequences packed in a batch of 1; ``mask`` (B, T) bool is
        True at real tokens. Both together raise ValueError.
        """
        if cu_seqlens is not None and mask is not None:
            raise ValueError("LanguageModel: give cu_seqlens or mask, not both")
        x = self.embedding(tokens)
        ends = []
        for block, state in zip(self._blocks(), self._states(states), strict=True):
            x = block(x, state, return_state=return_states, cu_seqlens=cu_seqlens, mask=mask)
            if return_states:
                x, state = x
                ends.append(state)
        logits = self._logits(x)
        return (logits, tuple(ends)) if return_states else logits

    def step(self, tokens: Tensor, states: tuple[Any, ...] | None = None) -> tuple[Tensor, tuple[Any, ...]]:
        """One token of each sequence: tokens (B,) -> logits (B, V) and the next states."""
        x = self.embedding(tokens)
        ends = []
        for block, state in zip(self._blocks(), self._states(states), strict=True):
            x, state = block.step(x, state)
            ends.append(state)
        return self._logits(x), tuple(ends)

    def stream(
        self,
        prompt: Tokens,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[Tensor]:
        """Yield sampled tokens (B,) without end, in the memory of one state (attention's grows).

        Args:
            prompt: (B, T) with T at least 1.
            temperature: divides the logits; 0 takes the most likely token.
            top_k: sample among that many most likely tokens.
            generator: source of the randomness, on the model's device.

        Raises:
            ValueError: an empty prompt, a negative temperature, or top_k below 1.
        """
        if prompt.dim() != 2 or prompt.shape[1] < 1:
            raise ValueError(f"generate: prompt must be (B, T) with T >= 1; got {tuple(prompt.shape)}")
        if temperature < 0:
            raise ValueError(f"generate: temperature must be at least 0; got {temperature}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"generate: top_k must be at least 1; got {top_k}")
        return self._stream(prompt, temperature, top_k, generator)

    def generate(
        self,
        prompt: Tokens,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tokens:
        """The prompt and ``max_new_tokens`` sampled tokens after it, (B, T + max_new_tokens).

        Options as in :meth:`stream`.
        """
        tokens = self.stream(prompt, temperature=temperature, top_k=top_k, generator=generator)
        new = [next(tokens) for _ in range(max_new_tokens)]
        return torch.cat([prompt, torch.stack(new, 1)], 1) if new else prompt

    @torch.no_grad()
    def _stream(
        self, prompt: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        logits, states = self(prompt, return_states=True)
        logits = logits[:, -1]
        while True:
            token = _sample(logits.float(), temperature, top_k, generator)
            yield token
            logits, states = self.step(token, states)

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    def _states(self, states: tuple[Any, ...] | None) -> tuple[Any, ...]:
        if states is None:
            return (None,) * len(self.blocks)
        if len(states) != len(self.blocks):
            raise ValueError(
                f"LanguageModel: states must hold one for each layer: {len(self.blocks)}; got {len(states)}"
            )
        return tuple(states)

    def _logits(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return F.linear(x, self.embedding.weight) if self.head is None else self.head(x)


def _sample(
    logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None
) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
