"""Cross entropy of a linear head, in pieces: the logits of a large vocabulary never stand in memory whole."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from statemix.kernels.precision import state_dtype, wide
from statemix.nn.plain import is_plain
from statemix.shapes import Boundaries, Mask, Tokens

from .fusion import runs_triton

IGNORE_INDEX = -100

# How many logits are made at once. Pieces must be tall enough for fast products: a vocabulary of 32,000
# leaves 4,096 tokens on a GPU, and 256 MiB of logits in bfloat16.
_LOGITS_AT_ONCE = {"cuda": 2**27, "cpu": 2**23}
_PIECE_MULTIPLE = 128


class CrossEntropy(NamedTuple):
    """What a head made of its targets; gradients flow through ``total``.

    total: () sum of -log p(target), float32 (float64 for float64). right: () int64, how many targets got
    the largest logit. asked: () int64, targets that were not ignored.
    """

    total: Tensor
    right: Tensor
    asked: Tensor

    @property
    def mean(self) -> Tensor:
        """The mean over the targets that were asked, in nats; 0 where none was."""
        return self.total / self.asked.clamp(min=1)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = IGNORE_INDEX,
    piece: int | None = None,
) -> CrossEntropy:
    """Cross entropy of ``hidden @ weight.T`` without ever holding all of these logits.

    Where they are more than fit one piece, each piece's gradient is taken as soon as its logits are
    there, and the logits are dropped: three matrix products in all, as many as the plain way needs, and
    memory for one piece. Logits have the dtype of ``hidden``, or autocast's; their softmax and all sums
    are float32. A vocabulary so small that one piece holds everything takes the plain way.

    Args:
        hidden: (..., D).
        weight: (V, D), the head's, or the embedding's where they are tied.
        targets: (...) int64 in [0, V), or ``ignore_index`` where nothing is asked.
        piece: tokens at once. Default: as many as make a quarter of a GiB of bfloat16 logits on a GPU.

    Returns:
        :class:`CrossEntropy`. Differentiable once where pieces are made.

    Raises:
        ValueError, TypeError: shapes or dtypes that do not fit; on a CPU a target that is none of the V.

    Examples:
        >>> hidden, weight = torch.randn(6, 8), torch.randn(50, 8)
        >>> targets = torch.tensor([3, 1, -100, 4, 1, 49])
        >>> whole = linear_cross_entropy(hidden, weight, targets)
        >>> pieces = linear_cross_entropy(hidden, weight, targets, piece=2)
        >>> torch.allclose(whole.mean, pieces.mean), int(pieces.asked)
        (True, 5)
    """
    _check(hidden, weight, targets, piece)
    rows, wanted = hidden.flatten(0, -2), targets.flatten()
    piece = piece or _piece(weight.shape[0], hidden.device)
    try:
        if rows.shape[0] <= piece:
            total, right = _plain(rows, weight, wanted, ignore_index)
        else:
            # Autograd tells a function what could have a gradient, not what will.
            if not torch.is_grad_enabled():
                rows, weight = rows.detach(), weight.detach()
            found = _InPieces.apply(rows, weight, wanted, ignore_index, piece, _dtype(hidden))
            total, right = cast("tuple[Tensor, Tensor]", found)
    except (IndexError, RuntimeError):
        _name_unknown(wanted, weight.shape[0], ignore_index)
        raise
    return CrossEntropy(total, right, (wanted != ignore_index).sum())


def next_token_loss(
    model: nn.Module,
    tokens: Tokens,
    targets: Tokens,
    *,
    cu_seqlens: Boundaries | None = None,
    mask: Mask | None = None,
) -> CrossEntropy:
    """What a :class:`LanguageModel` makes of ``targets`` (B, T) after ``tokens`` (B, T), by pieces.

    Options as the model's own: ``cu_seqlens`` for documents packed in a batch of 1, ``mask`` for padding. A
    head that is more than its weight (an adapter, a hook) is called, and makes all logits at once.

    Examples:
        >>> from statemix.models import LanguageModel, ModelConfig
        >>> model = LanguageModel(ModelConfig(vocab_size=11, d_model=16))
        >>> tokens = torch.randint(11, (2, 8))
        >>> loss = next_token_loss(model, tokens[:, :-1], tokens[:, 1:])
        >>> loss.mean.backward()
        >>> int(loss.asked)
        14
    """
    hidden = model(tokens, return_hidden=True, cu_seqlens=cu_seqlens, mask=mask)
    head = cast("nn.Module | None", model.head)
    weight = cast(Tensor, model.head_weight) if head is None else readable_weight(head, hidden)
    if weight is not None:
        return linear_cross_entropy(hidden, weight, targets)
    logits = cast(nn.Module, head)(hidden)
    total, right = _of_logits(logits.flatten(0, -2), targets.flatten(), IGNORE_INDEX)
    return CrossEntropy(total, right, (targets != IGNORE_INDEX).sum())


def readable_weight(head: nn.Module, hidden: Tensor) -> Tensor | None:
    """The weight of a head that is nothing but it, beside what it reads; None where it has to be called.

    Heads that were wrapped or hooked (adapters, quantization, sharding, offloading) are more than a weight.
    """
    if not is_plain(head):
        return None
    weight = cast(Tensor, head.weight)
    # Replicas of DataParallel hold plain tensors; a sharded weight is of another class.
    whole = head.bias is None and type(weight) in (Tensor, nn.Parameter) and weight.device == hidden.device
    return weight if whole else None


def _piece(vocabulary: int, device: torch.device) -> int:
    tokens = _LOGITS_AT_ONCE.get(device.type, _LOGITS_AT_ONCE["cpu"]) // vocabulary
    return max(_PIECE_MULTIPLE, tokens // _PIECE_MULTIPLE * _PIECE_MULTIPLE)


def _dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def _plain(rows: Tensor, weight: Tensor, wanted: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    return _of_logits(F.linear(rows, weight), wanted, ignore_index)


def _of_logits(logits: Tensor, wanted: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    total = F.cross_entropy(wide(logits), wanted, ignore_index=ignore_index, reduction="sum")
    return total, (logits.detach().argmax(-1) == wanted).sum()


class _InPieces(torch.autograd.Function):
    """The loss in the forward pass, and both gradients with it where they will be wanted."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        wanted: Tensor,
        ignore_index: int,
        piece: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        sums_dtype = state_dtype(dtype)
        head = weight.to(dtype)
        total = torch.zeros((), dtype=sums_dtype, device=rows.device)
        right = torch.zeros((), dtype=torch.int64, device=rows.device)
        wants_rows, wants_weight = ctx.needs_input_grad[:2]
        row_gradients: list[Tensor] = []
        weight_gradient = torch.zeros(
            weight.shape if wants_weight else (0,), dtype=sums_dtype, device=rows.device
        )
        rows_of = _fused_rows if _fuses(rows, dtype) else _rows
        with torch.autocast(rows.device.type, enabled=False):
            for some, some_wanted in zip(rows.split(piece), wanted.split(piece), strict=True):
                some = some.to(dtype)
                loss, hits, gradient = rows_of(
                    some @ head.T, some_wanted, ignore_index, sums_dtype, wants_rows or wants_weight
                )
                total = total + loss
                right = right + hits
                if wants_rows and gradient is not None:
                    row_gradients.append((gradient @ head).to(rows.dtype))
                if wants_weight and gradient is not None:
                    weight_gradient.add_(_product(gradient.T, some, sums_dtype))
        ctx.wants_rows, ctx.wants_weight, ctx.weight_dtype = wants_rows, wants_weight, weight.dtype
        ctx.save_for_backward(
            torch.cat(row_gradients) if wants_rows and row_gradients else None, weight_gradient
        )
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, total_gradient: Tensor, _: Any) -> tuple[Any, ...]:
        row_gradient, weight_gradient = ctx.saved_tensors
        of_rows = row_gradient * total_gradient if ctx.wants_rows else None
        of_weight = (weight_gradient * total_gradient).to(ctx.weight_dtype) if ctx.wants_weight else None
        return of_rows, of_weight, None, None, None, None


def _rows(
    logits: Tensor, wanted: Tensor, ignore_index: int, dtype: torch.dtype, wants_gradient: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Loss and right answers of a piece, and the gradient of its logits, summed and taken in ``dtype``."""
    right = (logits.argmax(-1) == wanted).sum()
    asked = wanted != ignore_index
    place = torch.where(asked, wanted, 0)[:, None]
    log_p = logits.log_softmax(-1, dtype=dtype)
    loss = -torch.where(asked, log_p.gather(1, place)[:, 0], 0.0).sum()
    if not wants_gradient:
        return loss, right, None
    # softmax minus one at the target; rows that are not asked get no gradient, whatever they hold.
    error = log_p.exp_().scatter_add_(1, place, log_p.new_full(place.shape, -1.0)).to(logits.dtype)
    return loss, right, error.masked_fill_(~asked[:, None], 0.0)


def _fused_rows(
    logits: Tensor, wanted: Tensor, ignore_index: int, dtype: torch.dtype, wants_gradient: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same in one kernel, the gradient in the place of the logits."""
    from statemix.kernels.triton.cross_entropy import cross_entropy_

    losses, right = cross_entropy_(logits, wanted, ignore_index, gradient=wants_gradient)
    return losses.sum(), right.sum(), logits if wants_gradient else None


def _fuses(rows: Tensor, dtype: torch.dtype) -> bool:
    return dtype != torch.float64 and runs_triton(rows)


def _product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """left @ right in ``dtype``; a GPU sums half precision in float32 and need not round in between."""
    if left.is_cuda and left.dtype != dtype and not torch.compiler.is_compiling():
        return torch.mm(left, right, out_dtype=dtype)
    return (left @ right).to(dtype)


def _name_unknown(wanted: Tensor, vocabulary: int, ignore_index: int) -> None:
    """Raise ValueError for a target that is none; looked for behind a failure alone, and on a CPU."""
    if wanted.device.type != "cpu":
        return
    wrong = wanted[(wanted != ignore_index) & ((wanted < 0) | (wanted >= vocabulary))]
    if wrong.numel():
        raise ValueError(
            f"linear_cross_entropy: targets must be from 0 to {vocabulary - 1}, the rows of weight, or "
            f"{ignore_index} where nothing is asked; got {int(wrong[0])}: the model needs a larger "
            f"vocabulary, or the text the model's own tokenizer"
        ) from None


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, piece: int | None) -> None:
    name = "linear_cross_entropy"
    if hidden.dim() < 1 or weight.dim() != 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{name}: hidden must be (..., D) and weight (V, D); got {tuple(hidden.shape)} and "
            f"{tuple(weight.shape)}"
        )
    if targets.shape != hidden.shape[:-1]:
        raise ValueError(
            f"{name}: targets must be {tuple(hidden.shape[:-1])}, one for each row of hidden; got "
            f"{tuple(targets.shape)}"
        )
    if targets.dtype != torch.int64:
        raise TypeError(f"{name}: targets must be torch.int64; got {targets.dtype}: cast with .long()")
    if piece is not None and piece < 1:
        raise ValueError(f"{name}: piece must be at least 1 token; got {piece}")
