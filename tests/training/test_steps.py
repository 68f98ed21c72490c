"""The one way through the steps, told by what is trained: what is done after which step, and how it ends."""

import time

import pytest

from statemix.training import loop, replica_group, train, train_replicas
from statemix.training.steps import take_steps

from .small import small


class Told:
    """Says what it was asked to do; losses may be no numbers from one step on, a signal come in another."""

    def __init__(self, step=0, diverges=None, stops=None):
        self.step, self.diverges, self.stops, self.said = step, diverges, stops, []

    def update(self):
        self.step += 1

    def log(self):
        self.said.append(f"log {self.step}")
        return self.diverges is None or self.step < self.diverges

    def evaluate(self, split):
        self.said.append(f"{split} {self.step}")

    def sharpen(self):
        self.said.append(f"sharpen {self.step}")

    def must_stop(self):
        return self.step == self.stops

    def save(self):
        self.said.append(f"save {self.step}")
        return self.diverges is None or self.step < self.diverges


CONFIG = small(steps=7, log_every=3, evaluate_every=2, checkpoint_every=4, sharpen_gates=(2.0,))


@pytest.mark.parametrize(
    ("trained", "status", "said"),
    [
        (Told(), "finished", "validation 2, log 3, validation 4, save 4, log 6, validation 6, "
         "log 7, sharpen 7, save 7"),
        (Told(step=5), "finished", "log 6, validation 6, log 7, sharpen 7, save 7"),
        (Told(step=7), "finished", ""),
        (Told(stops=1), "interrupted", "save 1"),
        (Told(step=6, stops=7), "finished", "log 7, sharpen 7, save 7"),
        (Told(diverges=3), "diverged", "validation 2, log 3"),
        (Told(step=3, diverges=4), "diverged", "validation 4, save 4"),
    ],
)  # fmt: skip
def test_each_thing_is_done_after_its_steps_and_all_but_validation_after_the_last(trained, status, said):
    assert take_steps(trained, CONFIG) == status
    assert ", ".join(trained.said) == said


def test_writing_a_checkpoint_is_no_time_of_training(tmp_path, monkeypatch):
    for module in (loop, replica_group):
        monkeypatch.setattr(module, "save_checkpoint", lambda *_: time.sleep(0.5))
    config = small(steps=2, checkpoint_every=1)
    (replica,) = train_replicas([config], out=tmp_path / "group", progress=False)
    assert train(config, out=tmp_path / "run", progress=False).seconds < 0.5 and replica.seconds < 0.5
