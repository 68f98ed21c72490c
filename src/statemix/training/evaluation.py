"""What a model is worth on data it was not trained on: accuracy at several lengths, bits per byte."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.models import LanguageModel
from statemix.models.modes import evaluating
from statemix.models.states import grows
from statemix.tasks import IGNORED, Task
from statemix.text import parallel_rows

from .data import Source, TaskData, TaskSource
from .shard_data import ShardSource
from .text_scores import score_text

EVALUATION_SEED = 0
"""Every run is tested on the same examples, whatever its own seed."""

_TOKENS_AT_ONCE = {"cuda": 2**18}
_TEXT_ROWS = 16
_LENGTHS_IN_BIN = 32


@torch.no_grad()
def evaluate(model: LanguageModel, source: Source, split: str = "test") -> dict[str, float]:
    """Scores by name: ``accuracy_at_<length>``, ``accuracy_<first>_to_<last>``; ``bits_per_byte`` for a text.

    Args:
        model: it is read in evaluation mode, and left in the mode that it came in.
        source: what :func:`open_source` opened.
        split: "validation" or "test"; for a text both are the held-out files.

    Examples:
        >>> from statemix.models import ModelConfig
        >>> from statemix.tasks import make
        >>> from statemix.training import open_source
        >>> data = TaskData(task=make("parity"), test_lengths=(16, 64), test_examples=8)
        >>> evaluate(LanguageModel(ModelConfig(vocab_size=2, d_model=8)), open_source(data)).keys()
        dict_keys(['accuracy_at_16', 'accuracy_at_64'])
    """
    with evaluating(model):
        if isinstance(source, TaskSource):
            config = source.config
            scores = {
                f"accuracy_at_{length}": task_accuracy(
                    model, config.task.with_length(length), config.test_examples, split
                )
                for length in config.tested_lengths
            }
            for first, last in config.test_bins:
                scores[f"accuracy_{first}_to_{last}"] = _bin_accuracy(model, config, (first, last), split)
            return scores
        if isinstance(source, ShardSource):
            return text_scores(model, source)
        held_out = parallel_rows(source.corpus.held_out, _TEXT_ROWS, source.config.evaluation_bytes)
        return {"bits_per_byte": bits_per_token(model, *held_out, window=source.config.length)}


def text_scores(model: nn.Module, source: ShardSource) -> dict[str, float]:
    """bits_per_byte and the perplexity of a token on held-out documents, in rows of the trained length."""
    config = source.config
    scores = score_text(
        model, source.shards.split("validation"), length=config.length, tokens=config.evaluation_tokens
    )
    return {"bits_per_byte": scores.bits_per_byte, "perplexity": scores.total.perplexity}


def _bin_accuracy(model: nn.Module, config: TaskData, ends: tuple[int, int], split: str) -> float:
    """The mean over lengths that lie evenly between two ends, both among them."""
    first, last = ends
    count = min(last - first + 1, _LENGTHS_IN_BIN)
    lengths = sorted({round(first + (last - first) * i / max(count - 1, 1)) for i in range(count)})
    examples = -(-config.test_examples // len(lengths))
    shares = [task_accuracy(model, config.task.with_length(n), examples, split) for n in lengths]
    return sum(shares) / len(shares)


@torch.no_grad()
def task_accuracy(model: nn.Module, task: Task, examples: int, split: str = "test") -> float:
    """Share of right answers among all that are asked in ``examples`` sequences.

    Raises:
        ValueError: nothing is asked in them.

    Examples:
        >>> from statemix.models import ModelConfig
        >>> from statemix.tasks import make
        >>> model = LanguageModel(ModelConfig(vocab_size=2, d_model=8))
        >>> 0.3 < task_accuracy(model, make("counting", length=64), 64) < 0.7
        True
    """
    device = next(model.parameters()).device
    inputs, targets = task.sample(examples, EVALUATION_SEED, split=split)
    right = asked = 0
    rows = max(1, _TOKENS_AT_ONCE.get(device.type, 2**15) // task.length)
    for some_inputs, some_targets in zip(inputs.split(rows), targets.split(rows), strict=True):
        answers = model(some_inputs.to(device)).argmax(-1).cpu()
        is_asked = some_targets != IGNORED
        right += int((answers == some_targets)[is_asked].sum())
        asked += int(is_asked.sum())
    if not asked:
        raise ValueError(
            f"{type(task).__name__}: nothing is asked in {examples} sequences of length {task.length}, so "
            f"that no share of right answers can be told: test longer or more of them"
        )
    return right / asked


@torch.no_grad()
def bits_per_token(model: LanguageModel, inputs: Tensor, targets: Tensor, *, window: int) -> float:
    """Mean code length of ``targets`` in bits, read in windows with the state carried from one to the next.

    A mixer whose state grows with the text starts each window afresh.

    Shapes: inputs, targets (B, T).

    Args:
        model: it is read as it is: in evaluation mode, unless a training mode is what is asked about.
        inputs, targets: tokens, and those that follow them.
        window: tokens of a row that are read at once; the memory that is needed grows with it.

    Examples:
        >>> from statemix.models import ModelConfig
        >>> model = LanguageModel(ModelConfig(vocab_size=256, d_model=8)).eval()
        >>> text = torch.randint(256, (2, 101))
        >>> 7.5 < bits_per_token(model, text[:, :-1], text[:, 1:], window=32) < 8.5
        True
    """
    device = next(model.parameters()).device
    carried = not any(grows(block.mixer) for block in model.blocks)
    states = None
    nats = torch.zeros((), dtype=torch.float64, device=device)
    for some_inputs, some_targets in zip(inputs.split(window, 1), targets.split(window, 1), strict=True):
        logits, states = model(some_inputs.to(device), states, return_states=True)
        states = states if carried else None
        wanted = some_targets.flatten().to(device)
        nats += F.cross_entropy(logits.flatten(0, 1).float(), wanted, reduction="sum").double()
    return float(nats) / targets.numel() / math.log(2)
