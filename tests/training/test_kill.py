"""SIGKILL leaves no time to say goodbye: a real process is killed and resumed."""

import subprocess
import sys
import time

import torch

from statemix.training import train

from .small import numbers, small

PROGRAM = """
import sys, torch
torch.set_num_threads({threads})
from statemix.training import train
from tests.training.small import small
train(small(steps=4000), out=sys.argv[1], progress=False)
"""


def test_a_run_that_was_killed_goes_on_as_if_it_never_had(tmp_path):
    folder = tmp_path / "run"
    program = PROGRAM.format(threads=torch.get_num_threads())
    process = subprocess.Popen([sys.executable, "-c", program, str(folder)])
    try:
        deadline = time.monotonic() + 60
        while not list(folder.glob("checkpoints/step-*3")) and not list(folder.glob("checkpoints/step-*6")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
    assert process.wait() == -9
    done = len((folder / "metrics.csv").read_text().splitlines()) - 1
    assert 4 <= done < 4000

    config = small(steps=4000)

    class Enough(Exception):
        pass

    from statemix.training import Observer

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
