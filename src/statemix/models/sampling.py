"""The next token from logits: temperature, the likeliest k, the likeliest mass p, and where rows end."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from math import inf

import torch
from torch import Tensor

from statemix.ops.checks import check_number, check_size, check_size_tuple

_LOWEST = torch.finfo(torch.float32).tiny


class Sampler:
    """Draws tokens row by row, and remembers which rows have ended.

    Args:
        temperature: divides the logits; 0 takes the most likely token.
        top_k: sample among that many most likely tokens.
        top_p: sample among the fewest most likely tokens whose probability reaches this sum.
        stop_tokens: tokens after which a row has ended; it then repeats the token that ended it.

    Raises:
        ValueError: a negative temperature, top_k below 1, top_p outside (0, 1], or stop tokens that are no
            integers. TypeError: one stop token that is not in a tuple.

    Examples:
        >>> sampler = Sampler(temperature=0, stop_tokens=(2,))
        >>> sampler.next(torch.tensor([[0.0, 1.0, 3.0]])), sampler.finished
        (tensor([2]), True)

    Source: top-p is nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751.
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop_tokens: tuple[int, ...] = (),
    ) -> None:
        check_number("generate", "temperature", temperature, "a number of at least 0", lambda t: 0 <= t < inf)
        if top_k is not None:
            top_k = check_size("generate", "top_k", top_k)
        if top_p is not None:
            check_number("generate", "top_p", top_p, "a number above 0 and at most 1", lambda p: 0 < p <= 1)
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.stop_tokens = check_size_tuple("generate", "stop_tokens", stop_tokens, at_least=0)
        self._ended: Tensor | None = None
        self._last: Tensor | None = None

    @property
    def finished(self) -> bool:
        """Whether every row has met a stop token."""
        return self._ended is not None and bool(self._ended.all())

    def anew(self) -> Sampler:
        """One of the same settings in which no row has ended, for another text.

        Examples:
            >>> sampler = Sampler(temperature=0, stop_tokens=(2,))
            >>> _ = sampler.next(torch.tensor([[0.0, 1.0, 3.0]]))
            >>> sampler.finished, sampler.anew().finished
            (True, False)
        """
        made = copy.copy(self)
        made._ended = made._last = None
        return made

    def next(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """logits (B, V) -> tokens (B,)."""
        token = self._draw(logits.float(), generator)
        if self.stop_tokens:
            if self._ended is not None and self._last is not None:
                token = torch.where(self._ended, self._last, token)
            stops = torch.tensor(self.stop_tokens, device=token.device)
            self._ended, self._last = torch.isin(token, stops), token
        return token

    def _draw(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.temperature == 0:
            return logits.argmax(-1)
        # The largest becomes 0, so that no temperature, however low, makes an infinity of it.
        logits = (logits - logits.amax(-1, keepdim=True)) / max(self.temperature, _LOWEST)
        vocabulary = logits.shape[-1]
        if self.top_k is not None and self.top_k < vocabulary:
            # By their places and not by the least of them, which others may equal: in 16 bits many do.
            likeliest, index = logits.topk(self.top_k, -1)
            logits = torch.full_like(logits, float("-inf")).scatter(-1, index, likeliest)
        probabilities = logits.softmax(-1)
        if self.top_p is not None and self.top_p < 1:
            ordered, index = probabilities.sort(-1, descending=True)
            # A token stays while those before it have not reached the sum: the likeliest always does.
            ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= self.top_p, 0.0)
            probabilities = torch.zeros_like(ordered).scatter(-1, index, ordered)
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def continued(prompt: Tensor, tokens: Iterator[Tensor], max_new_tokens: int) -> Tensor:
    """The prompt (B, T) and at most so many of the tokens (B,) that follow it, (B, T + new).

    Examples:
        >>> continued(torch.tensor([[1, 2]]), iter([torch.tensor([3]), torch.tensor([4])]), 1)
        tensor([[1, 2, 3]])
    """
    max_new_tokens = check_size("generate", "max_new_tokens", max_new_tokens, at_least=0)
    new = list(islice(tokens, max_new_tokens))
    return torch.cat([prompt, torch.stack(new, 1)], 1) if new else prompt
