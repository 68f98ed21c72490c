"""SIGKILL leaves no time to say goodbye: a real process is killed and resumed."""

import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from statemix.files import locked
from statemix.training import Observer, RunFolderError, load_run, train, train_replicas
from statemix.training.folder import prepared_folder
from tests.processes import wait_until

from .small import numbers, small

PROGRAM = """
import sys, torch
torch.set_num_threads({threads})
from statemix.training import train
from tests.training.small import small
train(small(steps={steps}), out=sys.argv[1], progress=False)
"""


def start(folder, steps=4000):
    """A process that trains, once it has a checkpoint."""
    program = PROGRAM.format(threads=torch.get_num_threads(), steps=steps)
    process = subprocess.Popen([sys.executable, "-c", program, str(folder)])
    wait_until(lambda: any(folder.glob("checkpoints/step-*")), process)
    return process


def test_one_process_at_a_time_trains_a_run_and_any_may_read_it(tmp_path):
    folder = tmp_path / "run"
    process = start(folder, steps=100_000)
    config = small(steps=100_000)
    try:
        said = f"{folder}: another process trains this run now; wait for it, or stop it"
        with pytest.raises(RunFolderError, match=re.escape(said)):
            train(config, out=folder, resume=True, progress=False)
        with pytest.raises(RunFolderError, match="it is not empty"):
            train(config, out=folder, progress=False)
        assert load_run(folder) is not None
        assert process.poll() is None
    finally:
        process.kill()
    assert process.wait() == -9
    with prepared_folder(folder, config.resolved(), resume=True, weight_bytes=0):
        pass


def test_replicas_are_trained_by_one_process_at_a_time(tmp_path):
    def again(**_):
        with pytest.raises(RunFolderError, match="another process trains this run now"):
            train_replicas(configs, out=tmp_path, resume=True, progress=False)

    configs = [small(steps=2, seed=seed) for seed in range(2)]
    watching = Watching(again)
    train_replicas(configs, out=tmp_path, observers=[watching], progress=False)
    assert watching.heard == 2
    assert train_replicas(configs, out=tmp_path, resume=True, progress=False)[0].step == 2


class Watching(Observer):
    def __init__(self, act):
        self.act, self.heard = act, 0

    def logged(self, row):
        self.heard += 1
        self.act()


FORKING = """
import os, sys, time
from pathlib import Path
from statemix.files import locked
with locked(Path(sys.argv[1]), RuntimeError()):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


def test_a_lock_goes_with_its_process_though_one_that_it_forked_lives_on(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", FORKING, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    try:
        with pytest.raises(KeyError), locked(tmp_path / "lock", KeyError()):
            pass
        process.kill()
        process.wait()
        os.kill(child, 0)  # is there
        with locked(tmp_path / "lock", KeyError()):
            pass
    finally:
        process.stdout.close()
        os.kill(child, signal.SIGKILL)


def test_a_run_that_was_killed_goes_on_as_if_it_never_had(tmp_path):
    folder = tmp_path / "run"
    program = PROGRAM.format(threads=torch.get_num_threads(), steps=4000)
    process = subprocess.Popen([sys.executable, "-c", program, str(folder)])
    try:
        wait_until(lambda: any(folder.glob("checkpoints/step-*[36]")), process)
    finally:
        process.kill()
    assert process.wait() == -9
    done = len((folder / "metrics.csv").read_text().splitlines()) - 1
    assert 4 <= done < 4000

    config = small(steps=4000)

    class Enough(Exception):
        pass

    class Until(Observer):
        def __init__(self):
            self.rows = []

        def logged(self, row):
            self.rows.append(row)
            if row["step"] >= done + 20:
                raise Enough

    def rows(**options):
        until = Until()
        try:
            train(config, observers=[until], progress=False, **options)
        except Enough:
            return until.rows
        raise AssertionError("the run ended before it was watched long enough")

    resumed, whole = rows(out=folder, resume=True), rows()
    first = resumed[0]["step"]
    assert 4 < first <= done + 1
    assert numbers(resumed) == numbers(whole[first - 1 :])
