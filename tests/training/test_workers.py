"""Several processes of one run, as torchrun starts them: what they draw, and what is said when one of them ends."""

import subprocess
import sys

import pytest
import torch

from statemix.models import make_model
from statemix.training import open_source, train
from statemix.training.batches import batches_of_step
from statemix.training.optimizer import make_optimizer
from statemix.training.run import Run
from statemix.training.workers import Workers
from tests.processes import wait_until

from .small import small, start_workers


class Pretended(Workers):
    """A worker whose others are not there, so that each can be looked at by itself."""

    def wrapped(self, module, device):
        return module

    def sum(self, value):
        return value


def losses(rank, steps, *, first=0, **options):
    """Losses of steps on the same batches, whichever worker reads them."""
    config = small(log_every=1).resolved()
    model = make_model(config.model)
    for block in model.blocks:
        for name, value in options.items():
            setattr(block.mixer, name, value)
    run = Run(config, model, make_optimizer(model, config.optimizer), torch.device("cpu"), Pretended(rank, 3))
    run.optimizer.step = lambda: None  # weights stay, so that steps are told apart by what they draw alone
    run.step, found = first, []
    source = open_source(config.data)
    for _ in range(steps):
        run.update(batches_of_step(source, config, 0, 0, 1))
        found.append(float(run.sums[0]))
        run.sums.zero_()
    return found


@pytest.mark.parametrize("noise", [{"gate_noise": 1.0}, {"block_dropout": 0.5}])
def test_workers_draw_other_noise_which_follows_from_the_step(noise):
    found = []
    for rank in range(3):
        torch.manual_seed(0)
        found.append(losses(rank, 4, **noise))
    assert len({loss for some in found for loss in some}) == 12
    for rank in (1, 2):  # as a run does that is resumed there, where all have the random state of the first
        torch.manual_seed(0)
        again = losses(rank, 2, first=2, **noise)
        assert again == found[rank][2:]
    torch.manual_seed(0)
    plain = losses(0, 2)
    torch.manual_seed(0)
    assert losses(1, 2) == plain


LONG = ["train", "parity", "--device", "cpu", "--no-tensorboard", "--batch-size", "4", "--steps", "100000"]


def test_a_worker_whose_others_ended_says_that_and_no_more(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("not a run")
    processes = start_workers(["-m", "statemix", *LONG, "--out", str(tmp_path / "run")], 2)
    (_, first), (_, second) = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    assert "it is not empty" in first
    assert second.startswith("statemix train: worker 1 (of 0 to 1) stops, since another one ended")
    assert "Traceback" not in first + second


def test_the_run_of_a_killed_worker_goes_on_from_its_checkpoint(tmp_path):
    out = tmp_path / "run"
    processes = start_workers(
        ["-m", "statemix", *LONG, "--out", str(out), "--checkpoint-every", "5", "--data.test-examples", "8"],
        2,
    )
    wait_until((out / "checkpoints" / "step-00000010").is_dir, processes[0], seconds=120)
    processes[1].kill()
    _, said = processes[0].communicate(timeout=60)
    processes[1].communicate()
    assert processes[0].returncode == 1
    assert "statemix train: worker 0 (of 0 to 1) stops" in said and "Traceback" not in said
    from statemix.training import read_config

    class Stop(Exception):
        pass

    class Once:
        def started(self, config, step):
            raise Stop(step)

        logged = evaluated = close = lambda self, *row: None

    with pytest.raises(Stop) as stopped:
        train(read_config(out), out=out, resume=True, observers=[Once()], progress=False)
    assert stopped.value.args[0] >= 10


def test_the_command_line_is_a_module_too():
    found = subprocess.run([sys.executable, "-m", "statemix", "--version"], capture_output=True, text=True)
    assert found.returncode == 0 and found.stdout.startswith("statemix ")
