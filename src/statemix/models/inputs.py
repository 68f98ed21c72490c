"""What models ask of tokens, prompts and masks: bad ones are named before they reach a layer."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

_TOKENS = (torch.int64, torch.int32)
_SHAPES = {1: "(B,)", 2: "(B, T)"}


def check_tokens(operation: str, tokens: Tensor, dims: int = 2, *, name: str = "tokens") -> None:
    """Raise TypeError or ValueError unless these are integers (B, T), or (B,) for one dimension."""
    if not isinstance(tokens, Tensor):
        raise TypeError(
            f"{operation}: {name} must be a torch.Tensor {_SHAPES[dims]} of integers; got "
            f"{type(tokens).__name__}: make one with torch.tensor()"
        )
    if tokens.dtype not in _TOKENS:
        raise TypeError(f"{operation}: {name} must be integers; got {tokens.dtype}: cast with .long()")
    if tokens.dim() != dims:
        hint = ": add the batch with [None]" if tokens.dim() == dims - 1 else ""
        raise ValueError(f"{operation}: {name} must be {_SHAPES[dims]}; got {tuple(tokens.shape)}{hint}")


def embedded(model: str, embedding: nn.Module, tokens: Tensor, dims: int = 2) -> Tensor:
    """The vectors of tokens; on a CPU a token that the embedding does not have is named.

    Raises:
        TypeError, ValueError: no such tokens, by :func:`check_tokens` or by the vocabulary.
    """
    check_tokens(model, tokens, dims)
    try:
        return embedding(tokens)
    except IndexError as error:
        raise unknown_token(model, embedding, tokens, error) from None


def unknown_token(model: str, embedding: nn.Module, tokens: Tensor, error: IndexError) -> Exception:
    """The error that names the first token that an embedding has not; ``error`` where it has them all.

    Looked for where it failed only: before, it would cost a pass over all tokens, and on a GPU a wait.
    """
    vocabulary = cast(Tensor, embedding.weight).shape[0]
    wrong = tokens[(tokens < 0) | (tokens >= vocabulary)]
    if not wrong.numel():
        return error
    return ValueError(
        f"{model}: tokens must be from 0 to {vocabulary - 1}, the model's vocabulary; got {int(wrong[0])}"
        f": encode with the model's own tokenizer, or make a model of a larger vocab_size"
    )


def check_prompt(prompt: Tensor, mask: Tensor | None, vocabulary: int) -> None:
    """Raise unless there is a token to go on from in every row, and all are of the vocabulary."""
    check_tokens("generate", prompt, name="prompt")
    if prompt.shape[1] < 1:
        raise ValueError(f"generate: prompt must be (B, T) with T >= 1; got {tuple(prompt.shape)}")
    if prompt.numel() and not 0 <= int(prompt.min()) <= int(prompt.max()) < vocabulary:
        raise ValueError(
            f"generate: the prompt must hold tokens from 0 to {vocabulary - 1}, the model's vocabulary; got "
            f"{int(prompt.min())} to {int(prompt.max())}: encode it with the model's tokenizer"
        )
    check_mask("generate", mask, prompt)
    if mask is not None and not bool(mask[:, -1].all()):
        raise ValueError(
            "generate: every row of the mask must end with True: pad prompts of unequal length on the left, "
            "and give each at least one token"
        )


def check_mask(operation: str, mask: Tensor | None, tokens: Tensor) -> None:
    """Raise TypeError or ValueError for a mask that is not of bool, or not of the shape of the tokens."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(
            f"{operation}: mask must be a bool tensor, True at real tokens; got "
            f"{getattr(mask, 'dtype', type(mask).__name__)}: cast with .bool()"
        )
    if mask.shape != tokens.shape:
        raise ValueError(
            f"{operation}: mask must be (B, T) = {tuple(tokens.shape)} as the tokens; got {tuple(mask.shape)}"
        )


def last_real(x: Tensor, mask: Tensor | None) -> Tensor:
    """The vector of each row's last real step, (B, D) of (B, T, D); of its first where none is real.

    Examples:
        >>> x = torch.arange(6.0).view(2, 3, 1)
        >>> last_real(x, torch.tensor([[True, True, False], [False, False, True]]))[:, 0]
        tensor([1., 5.])
    """
    if mask is None:
        return x[:, -1]
    places = torch.arange(x.shape[1], device=x.device)
    index = torch.where(mask, places, 0).amax(1)[:, None, None].expand(-1, -1, x.shape[2])
    return x.gather(1, index)[:, 0]
