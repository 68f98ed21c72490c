"""The factor on the gates of a trained model that validation data call for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from statemix.nn.sharpening import can_be_sharpened, gate_parameters


@dataclass(frozen=True)
class Sharpened:
    """A factor that was tried, and what the model scored with it."""

    factor: float
    scores: dict[str, float]

    @property
    def split(self) -> str:
        """What rows of scores call it."""
        return f"validation, gates x {self.factor:g}"


def sharpen_by_validation(
    model: nn.Module, factors: Sequence[float], validate: Callable[[], dict[str, float]]
) -> tuple[int, list[Sharpened]]:
    """Multiply the gate logits by what scores best, 1 among them; the earlier of equals is taken.

    Args:
        model: its gates change in place.
        factors: what is tried besides 1.
        validate: scores of the model as it stands, by name.

    Returns:
        The place of what was taken among all that was tried, of which the first is 1; and all of it, nothing
        where the model has no gates that a factor would make sharper.
    """
    if not can_be_sharpened(model):
        return 0, []
    gates = gate_parameters(model)
    trained = {name: gate.detach().clone() for name, gate in gates.items()}

    def multiply(factor: float) -> None:
        with torch.no_grad():
            for name, gate in gates.items():
                gate.copy_(trained[name] * factor)

    tried = []
    for factor in (1.0, *factors):
        multiply(factor)
        tried.append(Sharpened(factor, validate()))
    values = [worth(one.scores) for one in tried]
    best = values.index(max(values))
    multiply(tried[best].factor)
    return best, tried


def worth(scores: Mapping[str, float]) -> float:
    """One number for scores, the higher the better: the mean accuracy, or bits per byte below zero.

    Examples:
        >>> worth({"accuracy_at_32": 1.0, "accuracy_at_128": 0.5}), worth({"bits_per_byte": 2.0})
        (0.75, -2.0)
    """
    if "bits_per_byte" in scores:
        return -scores["bits_per_byte"]
    return sum(scores.values()) / len(scores)
