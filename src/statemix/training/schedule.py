"""What follows from the step alone, so that a resumed run needs no state for it: rates, and gate noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from statemix.ops.checks import check_choices, check_number


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate moves between its peak and the ends."""

    name: Literal["one-cycle", "cosine", "constant"] = "one-cycle"
    """one-cycle rises and falls along cosines; cosine rises along a line; constant does not fall."""

    warmup_share: float = 0.3
    """Share of the steps over which the rate rises."""

    start_share: float = 0.04
    """Rate of the first step over the peak."""

    end_share: float = 4e-6
    """Rate of the last step over the peak."""

    def __post_init__(self) -> None:
        check_choices("schedule", self)
        for field in ("warmup_share", "start_share", "end_share"):
            share = getattr(self, field)
            check_number("schedule", field, share, "a share in [0, 1]", lambda share: 0 <= share <= 1)


def rate_at(step: int, steps: int, config: ScheduleConfig) -> float:
    """The factor on the peak learning rate at ``step`` (from 0) of ``steps``.

    The defaults are those of PyTorch's OneCycleLR.

    Examples:
        >>> cosine = ScheduleConfig(name="cosine", warmup_share=0.1, start_share=0.0, end_share=0.0)
        >>> [round(rate_at(step, 101, cosine), 3) for step in (0, 5, 10, 55, 100)]
        [0.0, 0.5, 1.0, 0.5, 0.0]

    Source: Smith and Topin 2018, arXiv 1708.07120 (one cycle).
    """
    last = max(1, steps - 1)
    # OneCycleLR counts its warm-up in steps and reaches the peak one step before the share is over.
    warmup = config.warmup_share * steps - 1 if config.name == "one-cycle" else config.warmup_share * last
    if step < warmup:
        share = step / warmup
        rise = (1 - math.cos(math.pi * share)) / 2 if config.name == "one-cycle" else share
        return config.start_share + (1 - config.start_share) * rise
    if config.name == "constant" or last <= warmup:
        return 1.0
    share = (step - max(warmup, 0)) / (last - max(warmup, 0))
    return config.end_share + (1 - config.end_share) * (1 + math.cos(math.pi * share)) / 2


def share_at(step: int, steps: int, rise: tuple[float, float]) -> float:
    """What rises along a line from 0 to 1 between two shares of the steps, at ``step`` (from 0) of ``steps``.

    Examples:
        >>> [round(share_at(step, 101, (0.4, 0.6)), 3) for step in (0, 40, 45, 60, 100)]
        [0.0, 0.0, 0.25, 1.0, 1.0]
        >>> share_at(0, 101, (0.0, 0.0))
        1.0
    """
    first, last = (share * max(1, steps - 1) for share in rise)
    if step >= last:
        return 1.0
    return 0.0 if step <= first else (step - first) / (last - first)
