"""The autoencoder of the compression task: a sequence through one vector, and back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.shapes import Boundaries, Mask, Tokens

from .block import INITIAL_STD, MLP
from .inputs import embedded, last_real
from .language_model import ModelConfig, make_blocks, weight_alone


class Autoencoder(nn.Module):
    """Read a sequence into the vector of its last token, and every token back from that vector.

    Embedding plus a learned position, the blocks of the backbone, the final norm at the last token; then at
    each place the same position table is added to that one vector, and a two-layer GELU decoder names
    the token. Nothing else passes from encoder to decoder.

    Shapes: tokens (B, T) -> logits (B, T, V), T at most ``config.max_length``.

    Raises:
        ValueError: ``config.vocab_size`` is None, tied embeddings, or a sequence too long or empty.

    Examples:
        >>> model = Autoencoder(ModelConfig(vocab_size=11, d_model=16, max_length=8))
        >>> model(torch.randint(11, (2, 8))).shape
        torch.Size([2, 8, 11])

    Source: Poli et al. 2024, arXiv 2403.17844, section 3.1 (compression).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise ValueError("Autoencoder: config.vocab_size must be given; only training fills it in")
        if config.tie_embeddings:
            raise ValueError("Autoencoder: its decoder is no embedding; pass tie_embeddings=False")
        self.config = config
        width, hidden = config.d_model, max(1, int(config.d_model * config.mlp_ratio))
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Parameter(torch.empty(config.max_length, width))
        self.blocks = make_blocks(config)
        self.norm = nn.RMSNorm(width, eps=config.norm_eps)
        self.decoder = nn.Linear(width, hidden)
        self.head = nn.Linear(hidden, config.output_size or config.vocab_size, bias=False)
        self._initialize()

    def _initialize(self) -> None:
        nn.init.normal_(self.embedding.weight, std=self.config.embedding_std)
        # As large as the embeddings, or one of the two would drown the other.
        nn.init.normal_(self.positions, std=self.config.embedding_std)
        nn.init.zeros_(self.decoder.bias)
        for weight in (self.decoder.weight, self.head.weight):
            nn.init.normal_(weight, std=INITIAL_STD)
        for module in self.modules():
            if isinstance(module, MLP):
                module.reset_parameters()

    @property
    def head_weight(self) -> Tensor:
        """The weight that turns hidden vectors into logits, (V, H).

        Raises:
            RuntimeError: the head is more than its weight: wrapped, patched, hooked, or with a bias.
        """
        return weight_alone(self.head)

    def encode(self, tokens: Tokens, *, mask: Mask | None = None) -> Tensor:
        """The one vector of each sequence, (B, D): the final norm at its last real token."""
        x = embedded("Autoencoder", self.embedding, tokens)
        time = tokens.shape[1]
        self._check_length(time)
        x, _ = self.blocks(x + self.positions[:time], mask=mask)
        return self.norm(last_real(x, mask))

    def decode(self, vectors: Tensor, length: int) -> Tensor:
        """What the head reads at each of ``length`` places, (B, length, H), from vectors (B, D)."""
        self._check_length(length)
        return F.gelu(self.decoder(vectors[:, None] + self.positions[:length]))

    def forward(
        self,
        tokens: Tokens,
        *,
        return_hidden: bool = False,
        cu_seqlens: Boundaries | None = None,
        mask: Mask | None = None,
    ) -> Tensor:
        """Logits (B, T, V), or with ``return_hidden`` what the head reads, (B, T, H).

        ``mask`` (B, T) bool is True at real tokens. Packed sequences are refused: they have no one vector.
        """
        if cu_seqlens is not None:
            raise ValueError("Autoencoder: sequences cannot be packed; pad them and give a mask")
        hidden = self.decode(self.encode(tokens, mask=mask), tokens.shape[1])
        return hidden if return_hidden else self.head(hidden)

    def _check_length(self, length: int) -> None:
        if not 1 <= length <= self.config.max_length:
            raise ValueError(
                f"Autoencoder: a sequence must have 1 to max_length = {self.config.max_length} tokens; got "
                f"{length}: raise max_length"
            )
