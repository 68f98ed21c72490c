"""From step to step: update, log, validate, sharpen, save and stop, for a run and for a group of replicas."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from .config import RunConfig

Status = Literal["finished", "interrupted", "diverged"]


class Trained(Protocol):
    """What is trained step by step. Processes that train together all do the same."""

    @property
    def step(self) -> int:
        """Updates made."""
        ...

    def update(self) -> None:
        """One step on the next batch."""

    def log(self) -> bool:
        """Tell of the means since the last row; False where nothing is left to train."""
        ...

    def evaluate(self, split: str) -> Any:
        """Tell of the scores on a split."""

    def sharpen(self) -> None:
        """Make gates as sharp as validation data call for."""

    def must_stop(self) -> bool:
        """Whether a signal came, or time is over."""
        ...

    def save(self) -> bool:
        """Write a checkpoint, if anything is written; False where nothing is left to train."""
        ...


def take_steps(trained: Trained, config: RunConfig) -> Status:
    """Go on to the last step, until it must stop, or until losses are no numbers; how it ended."""
    while trained.step < config.steps:
        trained.update()
        step, last = trained.step, trained.step == config.steps
        if (last or step % config.log_every == 0) and not trained.log():
            return "diverged"
        if config.evaluate_every and step % config.evaluate_every == 0 and not last:
            trained.evaluate("validation")
        if last and config.sharpen_gates:
            trained.sharpen()
        stops = trained.must_stop()
        if (last or stops or step % config.checkpoint_every == 0) and not trained.save():
            return "diverged"
        if stops and not last:
            return "interrupted"
    return "finished"
