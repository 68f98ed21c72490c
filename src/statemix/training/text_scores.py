"""How well a model knows prepared text: bits per byte and perplexity, by how much it has read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.tasks import IGNORED
from statemix.text import TokenSplit, permuted

_TOKENS_AT_ONCE = 32768
_LOGITS_AT_ONCE = 2**26
_ORDER = 0


@dataclass(frozen=True)
class Bucket:
    """Tokens that had at least ``start`` and fewer than ``stop`` tokens of their document before them."""

    start: int
    stop: int
    tokens: int
    nats: float

    @property
    def bits_per_token(self) -> float:
        return self.nats / max(self.tokens, 1) / math.log(2)

    @property
    def perplexity(self) -> float:
        """exp of the mean loss of a token; inf where no float holds it."""
        try:
            return math.exp(self.nats / max(self.tokens, 1))
        except OverflowError:
            return math.inf


@dataclass(frozen=True)
class TextScores:
    """What a model made of held-out documents.

    documents, tokens, bytes: what was read; an end of a document counts as a token and as a byte.
    buckets: by context, powers of two.
    """

    documents: int
    tokens: int
    bytes: float
    buckets: tuple[Bucket, ...]

    @property
    def total(self) -> Bucket:
        """All tokens together."""
        stop = max(bucket.stop for bucket in self.buckets)
        return Bucket(0, stop, self.tokens, sum(bucket.nats for bucket in self.buckets))

    @property
    def bits_per_byte(self) -> float:
        return self.total.nats / math.log(2) / self.bytes

    def bits_per_byte_in(self, bucket: Bucket) -> float:
        """Of one bucket, at the bytes that a token holds on average (exact where tokens are bytes)."""
        return bucket.bits_per_token * self.tokens / self.bytes


@torch.no_grad()
def score_text(model: nn.Module, split: TokenSplit, *, length: int, tokens: int | None = None) -> TextScores:
    """Read held-out documents from their beginnings, ``length`` tokens at most at a time, and count bits.

    Every token is predicted once: a document's first from its end token alone. What is left of a document
    after ``length`` tokens is read as another one, so that context never exceeds what is asked for.

    Args:
        tokens: stop before the document that would exceed them; documents come in an order that is
            shuffled but always the same. Default: all. One document is read in any case, cut to fit.

    Examples:
        >>> from pathlib import Path
        >>> from statemix.models import LanguageModel, ModelConfig
        >>> from statemix.text import prepare
        >>> _ = Path("a.txt").write_text("to be or not to be " * 40)
        >>> split = prepare(["a.txt"], "shards", progress=False).split("validation")
        >>> scores = score_text(LanguageModel(ModelConfig(vocab_size=256, d_model=8)), split, length=64)
        >>> scores.tokens == len(split), 7 < scores.bits_per_byte < 9
        (True, True)
    """
    device = next(model.parameters()).device
    pieces, documents, size = _pieces(split, length, tokens)
    nats = torch.zeros(length, dtype=torch.float64, device=device)
    counts = np.zeros(length, dtype=np.int64)
    for inputs, targets in _batches(split, pieces, _rows_at_once(model)):
        counts[: inputs.shape[1]] += (targets != IGNORED).sum(0).numpy()
        logits = model(inputs.to(device)).flatten(0, 1)
        losses = F.cross_entropy(
            logits.float(), targets.flatten().to(device), ignore_index=IGNORED, reduction="none"
        )
        nats[: inputs.shape[1]] += losses.view(inputs.shape).sum(0, dtype=torch.float64)
    return TextScores(documents, int(counts.sum()), size, _buckets(nats.cpu(), counts, length))


def _pieces(split: TokenSplit, length: int, tokens: int | None) -> tuple[list[tuple[int, int]], int, float]:
    """(start, stop) of what is read without a break, the number of documents, and their bytes."""
    budget = len(split) if tokens is None else tokens
    pieces: list[tuple[int, int]] = []
    documents, size, read = 0, 0.0, 0
    for number in permuted(np.arange(split.documents), split.documents, _ORDER).tolist():
        start, stop, held = split.document(number)
        if read + stop - start > budget:
            if documents:
                continue
            held, stop = held * budget / (stop - start), start + budget
        pieces += [(at, min(at + length, stop)) for at in range(start, stop, length)]
        documents, size, read = documents + 1, size + held, read + stop - start
        if read >= budget:
            break
    return pieces, documents, size


def _batches(
    split: TokenSplit, pieces: list[tuple[int, int]], at_once: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets (B, T) of pieces of like length; what pads the shorter ones is not asked."""
    pieces = sorted(pieces, key=lambda piece: piece[0] - piece[1])
    while pieces:
        longest = pieces[0][1] - pieces[0][0]
        rows = max(1, at_once // longest)
        some, pieces = pieces[:rows], pieces[rows:]
        inputs = np.full((len(some), longest), split.end_token, dtype=np.int64)
        targets = np.full((len(some), longest), IGNORED, dtype=np.int64)
        for row, (start, stop) in enumerate(some):
            tokens = split.read(start - 1, stop)
            inputs[row, : stop - start], targets[row, : stop - start] = tokens[:-1], tokens[1:]
        yield torch.from_numpy(inputs), torch.from_numpy(targets)


def _rows_at_once(model: nn.Module) -> int:
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None) or 1
    return max(1, min(_TOKENS_AT_ONCE, _LOGITS_AT_ONCE // vocabulary))


def _buckets(nats: Tensor, counts: np.ndarray, length: int) -> tuple[Bucket, ...]:
    edges = [0, 16]
    while edges[-1] < length:
        edges.append(2 * edges[-1])
    found = []
    for start, stop in zip(edges, [*edges[1:], length], strict=True):
        stop = min(stop, length)
        if start < stop and counts[start:stop].sum():
            found.append(Bucket(start, stop, int(counts[start:stop].sum()), float(nats[start:stop].sum())))
    return tuple(found)
