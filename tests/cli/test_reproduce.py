"""``statemix reproduce`` as it is typed."""

import json
import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from statemix.cli import main
from statemix.cli import reproduce as command
from statemix.experiments.claims import CLAIMS


@pytest.fixture(params=[2])
def quick(request, monkeypatch):
    """The permutation claim with two steps a trial, or as many as a test says."""
    claim = CLAIMS["permutation-composition"]

    def trials(budget):
        return [
            replace(
                t,
                config=replace(
                    t.config,
                    steps=request.param,
                    batch_size=2,
                    data=replace(t.config.data, test_lengths=(8,)),
                ),
            )
            for t in claim.trials(budget)
        ]

    monkeypatch.setattr(command, "find_claim", lambda name: replace(CLAIMS[name], trials=trials))


def test_a_claim_gets_a_verdict_and_a_report(tmp_path, capsys, quick):
    arguments = ["reproduce", "permutation-composition", "--out", str(tmp_path), "--devices", "cpu"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "does not hold" in said and "claims.json" in said and "report.html" in said
    (verdict,) = json.loads((tmp_path / "claims.json").read_text())
    assert verdict["verdict"] == "does not hold" and len(verdict["values"]["BD-LRU m=n"]) == 3
    assert "permutation-composition" in (tmp_path / "report.html").read_text()


def test_time_that_is_over_is_said_and_goes_on(tmp_path, capsys, quick):
    arguments = ["reproduce", "permutation-composition", "--out", str(tmp_path), "--devices", "cpu"]
    assert main([*arguments, "--minutes-at-most", "1e-9"]) > 128
    assert "no verdict so far. The same command goes on" in " ".join(capsys.readouterr().out.split())
    assert main(arguments) == 0
    assert main([*arguments, "--minutes-at-most", "1e-9"]) > 128
    assert "verdicts so far: " in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("quick", [1_000_000], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_stops_it_is_its_exit_status(tmp_path, capsys, quick, number):
    arguments = ["reproduce", "permutation-composition", "--out", str(tmp_path), "--devices", "cpu"]

    def stop_once_it_trains():
        while not list(tmp_path.rglob("metrics.csv")):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop_once_it_trains).start()
    assert main(arguments) == 128 + number
    assert "no verdict so far. The same command goes on" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("minutes", ["0", "-1", "nan"])
def test_a_limit_that_leaves_no_time_is_refused(capsys, minutes):
    with pytest.raises(SystemExit, match="2"):
        main(["reproduce", "--minutes-at-most", minutes])
    assert "minutes_at_most must be above 0" in capsys.readouterr().err


def test_a_dry_run_of_the_full_protocol_lists_every_claim_with_its_cost(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["reproduce", "--budget", "paper", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in CLAIMS) and "in all" in said
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_claim_lists_the_nearest(capsys):
    assert main(["reproduce", "permutations"]) == 2
    assert "nearest: permutation-composition" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_named(tmp_path, capsys, quick):
    arguments = ["reproduce", "permutation-composition", "--out", str(tmp_path), "--devices", "gpu"]
    assert main(arguments) == 2
    assert "device 'gpu': there is no such kind" in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path, capsys, quick):
    (tmp_path / "report.html").write_text("of another program")
    arguments = ["reproduce", "permutation-composition", "--out", str(tmp_path), "--devices", "cpu"]
    assert main(arguments) == 1
    assert f"{tmp_path}: it holds something else" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_damaged_verdicts_are_named_and_stay(tmp_path, capsys, quick):
    (tmp_path / "claims.json").write_text("[{")
    arguments = ["reproduce", "permutation-composition", "--out", str(tmp_path), "--devices", "cpu"]
    assert main(arguments) == 1
    assert f"{tmp_path}: claims.json is damaged" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["claims.json"]


def test_a_folder_of_another_budget_is_refused(tmp_path, capsys, quick):
    arguments = ["reproduce", "permutation-composition", "--out", str(tmp_path), "--devices", "cpu"]
    assert main(arguments) == 0
    assert main([*arguments, "--budget", "hour"]) == 2
    assert "it holds another sweep" in capsys.readouterr().err
