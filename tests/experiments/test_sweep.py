"""Sweeps: every trial once, whatever happens on the way, and nothing written over."""

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from statemix.experiments import recipe, sweep
from statemix.experiments.sweep import (
    Launch,
    SweepFolder,
    SweepFolderError,
    Trial,
    grid,
    launchers,
    run_sweep,
)
from statemix.experiments.sweep.runner import run_group
from statemix.experiments.sweep.store import ATTEMPTS
from statemix.experiments.sweep.trials import check_models, groups
from statemix.files import LOCK, locked
from statemix.models import MIXERS, MixerConfig, ModelConfig, make_model
from statemix.training import (
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    ShardData,
    TaskData,
    from_json,
    train,
)
from statemix.training.signals import StopRequests

from ..training.small import small

AXES = {"model.mixer.block_size": [1, 2], "optimizer.learning_rate": [1e-3, 3e-3]}
INLINE = Launch(launcher="inline", devices=("cpu",))


def trials(**changes) -> list[Trial]:
    return grid(small(**changes), AXES, seeds=2)


def table(folder: SweepFolder) -> list[dict[str, str]]:
    return list(csv.DictReader((folder.path / "table.csv").read_text().splitlines()))


def told() -> tuple[list[str], object]:
    lines: list[str] = []
    return lines, lines.append


def test_seeds_that_are_given_twice_are_refused():
    with pytest.raises(
        ValueError, match="seeds are given twice, as values of seed and as 2 seeds: leave the"
    ):
        grid(small(), {"seed": [1, 2]}, seeds=2)
    assert [trial.config.seed for trial in grid(small(), {"seed": [4, 2]})] == [4, 2]


def test_a_script_that_starts_its_sweep_wherever_it_is_imported_is_told_why_its_trials_crash(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from statemix.experiments.sweep import Launch, SweepFolder, grid, run_sweep\n"
        "from statemix.training import RunConfig\n"
        "folder = SweepFolder.begin('out', grid(RunConfig(steps=1), {}), 'script')\n"
        "run_sweep(folder, Launch(launcher='local', devices=('cpu',)))\n"
    )
    ended = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert "put what the script does under if __name__ == '__main__':" in ended.stderr


def test_a_table_says_of_each_trial_what_training_it_alone_says(tmp_path):
    folder = SweepFolder.begin(tmp_path, trials(), "statemix sweep")
    assert run_sweep(folder, INLINE).pending == 0
    rows = table(folder)
    assert [(r["model"], r["seed"]) for r in rows] == [(t.model, str(t.config.seed)) for t in trials()]
    for row, trial in zip(rows, trials(), strict=True):
        alone = train(replace(trial.config, device="cpu"), progress=False)
        assert float(row["accuracy_at_8"]) == pytest.approx(alone.scores["accuracy_at_8"], abs=0.02)
        assert row["status"] == "finished" and row["steps"] == "12" and row["replicas"] == "4"
        assert float(row["learning_rate"]) == trial.config.optimizer.learning_rate
        assert from_json(json.loads(row["config"])) == trial.config
        assert "torch" in row["versions"] and row["device"] and float(row["seconds"]) > 0
        assert int(row["parameters"]) == sum(p.numel() for p in alone.model.parameters())
        states = [block.mixer.initial_state_for(1).numel() for block in alone.model.blocks]
        assert int(row["state_numbers"]) == sum(states)
        assert 0 <= float(row["validation_accuracy_at_8"]) <= 1


def test_parquet_says_the_same_as_csv(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = SweepFolder.begin(tmp_path, trials(steps=2), "statemix sweep")
    run_sweep(folder, INLINE)
    columns = parquet.read_table(folder.path / "table.parquet").to_pydict()
    for name in ("model", "status", "config"):
        assert columns[name] == [row[name] for row in table(folder)]
    assert columns["accuracy_at_8"] == [float(row["accuracy_at_8"]) for row in table(folder)]


def test_fields_of_one_name_have_columns_of_their_own(tmp_path):
    axes = {"model.mixer.name": ["bdlru", "gru"], "schedule.name": ["cosine", "constant"]}
    folder = SweepFolder.begin(tmp_path, grid(small(steps=2), axes), "statemix sweep")
    folder.write_table()
    assert [(row["mixer.name"], row["schedule.name"], row["model"]) for row in table(folder)] == [
        (mixer, schedule, f"mixer.name={mixer}, schedule.name={schedule}")
        for mixer in axes["model.mixer.name"] for schedule in axes["schedule.name"]
    ]  # fmt: skip


def test_what_was_varied_stands_beside_what_came_out_under_the_same_name(tmp_path):
    wild = OptimizerConfig(learning_rate=1e38)
    axes = {"steps": [3, 9], "device": ["cpu", "auto"]}
    made = grid(small(optimizer=wild, schedule=ScheduleConfig(name="constant"), log_every=3), axes)
    folder = SweepFolder.begin(tmp_path, made, "statemix sweep")
    folder.write_table()
    varied = [(row["varied_steps"], row["varied_device"], row["steps"]) for row in table(folder)]
    assert varied == [("3", "cpu", ""), ("3", "auto", ""), ("9", "cpu", ""), ("9", "auto", "")]
    run_sweep(folder, INLINE, lambda line: None)
    # All of them diverge within three steps.
    assert [row["varied_steps"] for row in table(folder)] == ["3", "3", "9", "9"]
    assert all(int(row["steps"]) < 3 and row["device"] not in ("cpu", "auto") for row in table(folder))


def test_numbers_that_no_column_of_parquet_holds_are_written_as_text(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    last = 2**64 - 1
    made = [
        Trial(model="a", config=small(steps=1, seed=last - 1), settings={"width": "narrow", "share": True}),
        Trial(model="b", config=small(steps=1, seed=last), settings={"width": 8, "share": 0.5}),
    ]
    folder = SweepFolder.begin(tmp_path, made, "statemix sweep")
    assert run_sweep(folder, INLINE, lambda line: None).pending == 0
    columns = parquet.read_table(folder.path / "table.parquet").to_pydict()
    assert columns["seed"] == [str(last - 1), str(last)]
    assert columns["width"] == ["narrow", "8"] and columns["share"] == ["True", "0.5"]
    assert columns["accuracy_at_8"] == [float(row["accuracy_at_8"]) for row in table(folder)]


def test_trials_that_can_be_trained_as_one_are_grouped_up_to_the_limit():
    found = groups(trials(), most=3)
    assert [len(group) for group in found] == [3, 1, 3, 1]
    for group in found:
        assert len({t.config.model.mixer.block_size for t in group}) == 1
    assert sorted(t.id for group in found for t in group) == sorted(t.id for t in trials())


def test_the_same_sweep_goes_on_and_repeats_nothing(tmp_path, monkeypatch):
    folder = SweepFolder.begin(tmp_path, trials(), "statemix sweep")
    stopped = run_sweep(folder, replace(INLINE, minutes_at_most=1e-9))
    assert stopped.pending == 2 and {row["status"] for row in table(folder)} == {"pending"}
    ran = []
    run_group = launchers.run_group
    monkeypatch.setattr(
        launchers, "run_group", lambda path, group, **o: ran.append(group) or run_group(path, group, **o)
    )
    run_sweep(SweepFolder.begin(tmp_path, trials(), "again"), INLINE)
    run_sweep(SweepFolder.begin(tmp_path, trials(), "again"), INLINE)
    assert ran == list(folder.groups)


def test_a_group_that_ran_out_of_time_goes_on_from_its_checkpoint(tmp_path):
    folder = SweepFolder.begin(tmp_path, trials(), "statemix sweep")
    (group, *_) = folder.groups
    assert sweep.runner.run_group(folder.path, group, device="cpu", time_limit=0.0) == "interrupted"
    assert sweep.runner.run_group(folder.path, group, device="cpu") == "finished"
    steps = (folder.run_folder(group) / "metrics.csv").read_text().splitlines()[1:]
    assert len(steps) == 4 * 12  # log_every = 1, and no step twice
    assert not (folder.run_folder(group) / "checkpoints").exists()


def test_a_sweep_of_a_version_with_fewer_fields_goes_on_and_repeats_nothing(tmp_path, monkeypatch):
    folder = SweepFolder.begin(tmp_path, trials(), "statemix sweep")
    first, second = folder.groups
    sweep.runner.run_group(folder.path, first, device="cpu")
    sweep.runner.run_group(folder.path, second, device="cpu", time_limit=0.0)
    written = json.loads((tmp_path / "sweep.json").read_text())
    for trial in written["trials"]:
        del trial["config"]["accumulate"]
        trial["id"] = trial["id"][::-1]  # named after another content
    names = {t.id: t.id[::-1] for t in folder.trials}
    written["groups"] = {g: [names[i] for i in members] for g, members in written["groups"].items()}
    (tmp_path / "sweep.json").write_text(json.dumps(written))
    for file in (tmp_path / "results").iterdir():
        file.rename(file.with_stem(file.stem[::-1]))
    replicas = tmp_path / "groups" / second / "replicas.json"
    configs = json.loads(replicas.read_text())
    replicas.write_text(json.dumps([{k: v for k, v in c.items() if k != "accumulate"} for c in configs]))
    again = SweepFolder.begin(tmp_path, trials(), "again")
    assert again.pending() == [second]
    assert run_sweep(again, INLINE, lambda line: None).pending == 0
    assert {row["attempts"] for row in table(again)} == {"1"}
    steps = (again.run_folder(second) / "metrics.csv").read_text().splitlines()[1:]
    assert len(steps) == 4 * 12


def test_a_folder_with_anything_else_is_refused(tmp_path):
    SweepFolder.begin(tmp_path / "one", trials(), "statemix sweep one")
    with pytest.raises(SweepFolderError, match="with 8 trials that are not asked for and without 8"):
        SweepFolder.begin(tmp_path / "one", trials(steps=5), "statemix sweep two")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(SweepFolderError, match="nothing is written over"):
        SweepFolder.begin(tmp_path / "other", trials(), "statemix sweep")
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"
    with pytest.raises(SweepFolderError, match="holds no sweep"):
        SweepFolder(tmp_path / "nowhere")


@pytest.mark.parametrize("left", ["a folder", "half a file", "the whole file"])
def test_a_sweep_that_was_killed_while_it_began_begins_again(tmp_path, left):
    some = trials()[:1]
    if left == "half a file":
        (tmp_path / ".sweep.json.writing").write_text("{")
    elif left == "the whole file":
        for name in ("groups", "results"):
            (SweepFolder.begin(tmp_path, some, "statemix sweep").path / name).rmdir()
    folder = SweepFolder.begin(tmp_path, some, "statemix sweep")
    assert run_sweep(folder, INLINE, lambda line: None).pending == 0


def test_what_cannot_be_read_of_a_sweep_is_run_again_or_named(tmp_path):
    folder = SweepFolder.begin(tmp_path, trials()[:1], "statemix sweep")
    assert run_sweep(folder, INLINE, lambda line: None).pending == 0
    (result,) = (tmp_path / "results").iterdir()
    for damaged in ("", "{}", "null"):
        result.write_text(damaged)
        assert run_sweep(folder, INLINE, lambda line: None).pending == 0
        assert [found["status"] for found in folder.results()] == ["finished"]
    for damaged, what in (
        ("{", "is damaged: Expecting"),
        ('{"format": 1}', "is damaged: no 'command'"),
        ('{"format": 1, "command": "", "trials": [0], "groups": {}}', "is damaged: "),
        ("null", "another version wrote it"),
        ("[]", "another version wrote it"),
    ):
        (tmp_path / "sweep.json").write_text(damaged)
        with pytest.raises(SweepFolderError, match=what):
            SweepFolder(tmp_path)


def test_a_process_that_is_killed_while_it_notes_a_crash_leaves_notes_that_can_be_read(tmp_path, monkeypatch):
    folder = SweepFolder.begin(tmp_path, trials()[:1], "statemix sweep")
    (group,) = folder.groups
    folder.failed(group, "the first")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.failed(group, "the second")
    assert SweepFolder(tmp_path).failures(group) == ["the first"]
    folder.failed(group, "the second")
    assert [result["error"] for result in SweepFolder(tmp_path).results()] == ["the second"]


def test_a_model_that_cannot_be_built_is_named_before_anything_runs(tmp_path):
    base = small(model=ModelConfig(d_model=8, mixer=MixerConfig(name="attention")))
    made = grid(base, {"model.mixer.num_heads": [2, 3]}, seeds=2)
    said = r"trial 'num_heads=3': it has a model that cannot be built: .*num_heads.* 3"
    with pytest.raises(ValueError, match=said):
        SweepFolder.begin(tmp_path / "sweep", made, "statemix sweep")
    assert not (tmp_path / "sweep").exists()
    wrong = replace(base, model=replace(base.model, mixer=MixerConfig(), vocab_size=7))
    with pytest.raises(ValueError, match=r"trial 'wrong'.*model\.vocab_size is 7, but the data has 2"):
        SweepFolder.begin(tmp_path / "sweep", [Trial(model="wrong", config=wrong)], "statemix sweep")


def test_a_pattern_may_stand_in_a_list(tmp_path):
    base = small(model=ModelConfig(d_model=8, num_layers=2, pattern=["bdlru", "attention"]), steps=1)
    folder = SweepFolder.begin(tmp_path, grid(base, {"model.pattern": [["gru"], ["gru", "hlru"]]}), "script")
    assert run_sweep(folder, INLINE, lambda line: None).pending == 0
    ran = [json.loads(row["config"])["model"]["pattern"] for row in table(folder)]
    assert ran == [["gru"], ["gru", "hlru"]]
    assert {row["status"] for row in table(folder)} == {"finished"}


def test_an_autoencoder_without_places_for_its_sequences_is_named_before_anything_runs(tmp_path):
    axes = {"data.task.length": [32, 64]}
    longer = grid(recipe("mad-compression"), axes)
    with pytest.raises(ValueError, match=r"trial 'length=64': .*max_length is 32, .* sequences of 64 tokens"):
        SweepFolder.begin(tmp_path / "refused", longer, "statemix sweep")
    with_places = grid(recipe("mad-compression"), {**axes, "model.max_length": [64]})
    assert len(SweepFolder.begin(tmp_path / "taken", with_places, "statemix sweep").groups) == 2


def test_a_large_grid_builds_each_of_its_models_once_and_no_weights(tmp_path, monkeypatch):
    built = []

    def build(config):
        built.append(model := make_model(config))
        return model

    monkeypatch.setattr(sweep.trials, "make_model", build)
    rates = [1e-4 * (i + 1) for i in range(20)]
    made = grid(small(), {**AXES, "optimizer.learning_rate": rates}, seeds=5)
    SweepFolder.begin(tmp_path, made, "statemix sweep")
    assert len(made) == 200 and len(built) == 2
    assert all(parameter.is_meta for model in built for parameter in model.parameters())


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_passes_the_check_of_a_sweep(mixer):
    model = ModelConfig(d_model=16, mixer=MixerConfig(name=mixer, initial_state="learned"))
    check_models([Trial(model=mixer, config=small(model=model))])


def test_a_crash_is_tried_once_more_and_then_reported(tmp_path, monkeypatch):
    attempts: dict[str, int] = {}
    run_group = launchers.run_group
    one, four = trials()[:1], trials()[4:]
    first, second = SweepFolder.begin(tmp_path, [*one, *four], "statemix sweep").groups

    def crashing(path, group, **options):
        attempts[group] = attempts.get(group, 0) + 1
        if group == first or attempts[group] == 1:
            raise RuntimeError("out of memory")
        return run_group(path, group, **options)

    monkeypatch.setattr(launchers, "run_group", crashing)
    folder = SweepFolder(tmp_path)
    lines, tell = told()
    assert run_sweep(folder, INLINE, tell).pending == 0
    assert attempts == {first: ATTEMPTS, second: 2}
    rows = {row["model"] + row["seed"]: row for row in table(folder)}
    assert len(rows) == 5
    for trial in folder.groups[first]:
        row = rows[trial.model + str(trial.config.seed)]
        assert row["status"] == "crashed" and "out of memory" in row["error"] and row["attempts"] == "2"
    for trial in folder.groups[second]:
        row = rows[trial.model + str(trial.config.seed)]
        assert row["status"] == "finished" and row["attempts"] == "2"
    assert sum("tried once more" in line for line in lines) == 2
    assert sum("seed 0 is given up" in line for line in lines) == 1


def test_crashed_trials_whose_results_are_removed_are_tried_again(tmp_path, monkeypatch):
    run_group, full = launchers.run_group, [True]

    def crashing(path, group, **options):
        if full:
            raise OSError("the disk is full")
        return run_group(path, group, **options)

    monkeypatch.setattr(launchers, "run_group", crashing)
    folder = SweepFolder.begin(tmp_path, trials()[:3], "statemix sweep")
    run_sweep(folder, INLINE, lambda line: None)
    full.clear()
    assert run_sweep(SweepFolder(tmp_path), INLINE, lambda line: None).pending == 0
    assert [row["status"] for row in table(folder)] == ["crashed"] * 3
    remove = 'grep -l \'"status": "crashed"\' results/*.json | xargs rm'
    subprocess.run(remove, shell=True, cwd=tmp_path, check=True)
    assert run_sweep(SweepFolder(tmp_path), INLINE, lambda line: None).pending == 0
    assert [row["status"] for row in table(folder)] == ["finished"] * 3


def test_of_trials_that_crash_as_one_only_the_guilty_is_reported(tmp_path, monkeypatch):
    run_group = launchers.run_group
    folder = SweepFolder.begin(tmp_path, trials(), "statemix sweep")
    guilty = folder.trials[3].id
    sizes = []

    def crashing(path, group, **options):
        members = SweepFolder(path).groups[group]  # as a process of its own finds them
        sizes.append(len(members))
        if guilty in [trial.id for trial in members]:
            if len(sizes) == 3:
                signal.raise_signal(signal.SIGTERM)
            raise RuntimeError("it is me")
        return run_group(path, group, **options)

    monkeypatch.setattr(launchers, "run_group", crashing)
    lines, tell = told()
    # Stopped where the group has become halves, which the same command finds again.
    assert run_sweep(folder, INLINE, tell).pending == 2
    assert run_sweep(SweepFolder.begin(tmp_path, trials(), "again"), INLINE, tell).pending == 0
    assert [row["status"] for row in table(folder)] == ["finished"] * 3 + ["crashed"] + ["finished"] * 4
    assert sizes == [4, 4, 4, 2, 2, 2, 1, 1, 1]
    rows = table(folder)
    assert rows[3]["error"].endswith("it is me") and rows[3]["attempts"] == "6" and rows[3]["replicas"] == "1"
    assert (rows[0]["attempts"], rows[2]["attempts"]) == ("3", "5")
    assert sum("trials are tried in halves" in line for line in lines) == 2


def test_a_diverged_trial_is_counted_and_its_group_finishes(tmp_path):
    wild = replace(
        small(), optimizer=OptimizerConfig(learning_rate=1e38), schedule=ScheduleConfig(name="constant")
    )
    both = [Trial(model="wild", config=wild), Trial(model="steady", config=small())]
    folder = SweepFolder.begin(tmp_path, both, "statemix sweep")
    lines, tell = told()
    run_sweep(folder, INLINE, tell)
    assert [row["status"] for row in table(folder)] == ["diverged", "finished"]
    assert "1 of 2 diverged" in lines[0]


def test_a_worker_that_is_killed_takes_only_its_group_with_it_once(tmp_path):
    folder = SweepFolder.begin(tmp_path, trials(steps=150), "statemix sweep")
    (group, *_) = folder.groups
    outcome = []
    sweeping = threading.Thread(
        target=lambda: outcome.append(run_sweep(folder, Launch(devices=("cpu",)), lambda line: None))
    )
    sweeping.start()
    while not (folder.run_folder(group) / "checkpoints").exists():
        assert sweeping.is_alive()
        time.sleep(0.02)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    sweeping.join()
    assert outcome[0].pending == 0
    assert {row["status"] for row in table(folder)} == {"finished"}
    assert [row["attempts"] for row in table(folder)] == ["2"] * 4 + ["1"] * 4
    assert "exit code -9" in folder.failures(group)[0]


def _sweep(path):
    run_sweep(SweepFolder(path), Launch(devices=("cpu",)))


def test_ctrl_c_that_ends_a_worker_while_it_starts_counts_as_no_crash(tmp_path):
    folder = SweepFolder.begin(tmp_path, trials(steps=100_000)[:1], "statemix sweep")

    def interrupt():
        # A terminal sends it to all processes, and one that starts may end before this one looks.
        while not (workers := multiprocessing.active_children()):
            time.sleep(0.001)
        os.kill(workers[0].pid, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    lines, tell = told()
    assert run_sweep(folder, Launch(launcher="local", devices=("cpu",)), tell=tell).pending == 1
    assert folder.failures(folder.pending()[0]) == []
    assert "stopped, to be continued" in lines[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_in_this_process_says_which_signal_stopped_it(tmp_path, monkeypatch, number):
    def stopped_in_training(path, group, **some):
        with StopRequests():
            signal.raise_signal(number)
        return "interrupted"

    monkeypatch.setattr(launchers, "run_group", stopped_in_training)
    folder = SweepFolder.begin(tmp_path, trials(), "statemix sweep")
    outcome = run_sweep(folder, INLINE, tell=lambda line: None)
    assert outcome.signal == number and outcome.pending == 2


def test_workers_of_a_sweep_that_is_killed_end_with_it(tmp_path):
    folder = SweepFolder.begin(tmp_path, trials(steps=2000), "statemix sweep")
    context = multiprocessing.get_context("spawn")
    sweeping = context.Process(target=_sweep, args=(tmp_path,))
    sweeping.start()
    (group, *_) = folder.groups
    while not (folder.run_folder(group) / "checkpoints").exists():
        assert sweeping.is_alive()
        time.sleep(0.02)
    with pytest.raises(SweepFolderError, match="another process runs this sweep now"):
        run_sweep(folder, INLINE)
    sweeping.kill()
    sweeping.join()
    # What a worker writes at every step stands still once it is gone.
    metrics = folder.run_folder(group) / "metrics.csv"
    deadline = time.monotonic() + 10
    size = -1
    while size != (size := metrics.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert folder.pending()
    assert len(metrics.read_text().splitlines()) < 4 * 2000
    with folder.alone():
        pass


# The debug executor itself leaves its log files open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_jobs_of_a_cluster_fill_the_same_table(tmp_path):
    pytest.importorskip("submitit")
    folder = SweepFolder.begin(tmp_path, trials(steps=2, device="cpu"), "statemix sweep")
    told: list[str] = []
    outcome = run_sweep(folder, Launch(launcher="slurm", slurm_cluster="debug"), told.append)
    assert "(debug)" in told[0]  # without SLURM on a machine jobs run elsewhere, which is said
    assert outcome.pending == 0
    assert {row["status"] for row in table(folder)} == {"finished"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_job_stops_by_itself_before_its_cluster_kills_it(tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit")
    allowed, limits = [], []
    update = submitit.AutoExecutor.update_parameters

    def updated(executor, **options):
        allowed.append(options["timeout_min"])
        return update(executor, **options)

    def stopped(path, group, *, time_limit=None):
        limits.append(time_limit)
        return "interrupted"

    monkeypatch.setattr(submitit.AutoExecutor, "update_parameters", updated)
    monkeypatch.setattr(launchers, "run_group", stopped)
    folder = SweepFolder.begin(tmp_path, trials(), "statemix sweep")
    launch = Launch(launcher="slurm", slurm_cluster="debug", minutes_at_most=3)
    assert run_sweep(folder, launch, lambda line: None).pending == 2
    assert set(limits) == {180} and allowed[0] > 3
    assert not any(map(folder.failures, folder.groups))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_jobs_of_a_cluster_where_they_save(tmp_path, number):
    pytest.importorskip("submitit")
    folder = SweepFolder.begin(
        tmp_path, trials(steps=20000, checkpoint_every=2, device="cpu"), "statemix sweep"
    )
    (group, *_) = folder.groups

    def stop():
        while not (folder.run_folder(group) / "checkpoints").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    stopping = threading.Thread(target=stop, daemon=True)
    stopping.start()
    lines, tell = told()
    outcome = run_sweep(folder, Launch(launcher="slurm", slurm_cluster="local"), tell)
    assert outcome.signal == number and outcome.pending == 2
    assert not any(map(folder.failures, folder.groups))
    assert "stopped, to be continued" in lines[-1]
    # Nobody is at a group any more.
    for name in folder.groups:
        if folder.run_folder(name).exists():
            with locked(folder.run_folder(name) / LOCK, AssertionError("a job still runs")):
                pass


def test_a_job_that_outlived_its_sweep_is_waited_for_and_counts_as_no_crash(tmp_path):
    folder = SweepFolder.begin(tmp_path, trials(steps=4), "statemix sweep")
    (group, *_) = folder.groups
    out = folder.run_folder(group)
    assert run_group(tmp_path, group, time_limit=1e-9) == "interrupted"
    with locked(out / LOCK, AssertionError()):  # as such a job does
        assert run_group(tmp_path, group, time_limit=0.7) == "interrupted"
        statuses: list[str] = []
        waiting = threading.Thread(target=lambda: statuses.append(run_group(tmp_path, group)))
        waiting.start()
        time.sleep(0.7)
        assert waiting.is_alive()
    waiting.join(60)
    assert statuses == ["finished"]
    before = [folder.result(trial) for trial in folder.groups[group]]
    assert run_group(tmp_path, group) == "finished"  # what that job did is not done again
    assert [folder.result(trial) for trial in folder.groups[group]] == before
    assert not folder.failures(group)


def test_a_signal_ends_the_wait_for_a_job_that_outlived_its_sweep(tmp_path):
    folder = SweepFolder.begin(tmp_path, trials(steps=4), "statemix sweep")
    (group, *_) = folder.groups
    assert run_group(tmp_path, group, time_limit=1e-9) == "interrupted"
    stopping = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    with locked(folder.run_folder(group) / LOCK, AssertionError()):  # as such a job does
        began = time.monotonic()
        stopping.start()
        outcome = run_sweep(folder, replace(INLINE, minutes_at_most=0.5))
    assert time.monotonic() - began < 15  # the limit is 30 s
    assert outcome.signal == signal.SIGINT and outcome.pending == 2
    assert not folder.failures(group)


class _Busy:
    """A Ray whose tasks wait half a second for a place, one after the other."""

    init = staticmethod(lambda **options: None)
    cluster_resources = staticmethod(dict)
    get = staticmethod(lambda handle: handle())
    wait = staticmethod(lambda handles, timeout: (handles[:1], handles[1:]))
    cancel = staticmethod(lambda handle: None)

    @staticmethod
    def remote(**options):
        def wrap(function):
            def submit(*arguments):
                def run():
                    time.sleep(0.5)
                    return function(*arguments)

                return run

            return SimpleNamespace(remote=submit)

        return wrap


def test_time_spent_waiting_for_a_place_is_not_had_twice(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", _Busy)
    limits = []
    monkeypatch.setattr(
        launchers, "run_group", lambda *a, time_limit, **o: limits.append(time_limit) or "interrupted"
    )
    folder = SweepFolder.begin(tmp_path, trials(), "statemix sweep")
    run_sweep(folder, Launch(launcher="ray", minutes_at_most=0.1), lambda line: None)
    first, second = limits
    assert first < 6 - 0.4 and second < first - 0.4


@pytest.mark.parametrize(("launcher", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_cluster_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, launcher, package):
    monkeypatch.setitem(sys.modules, package, None)
    folder = SweepFolder.begin(tmp_path, trials(), "statemix sweep")
    with pytest.raises(ModuleNotFoundError, match=rf"needs {package}.*statemix\[cluster\]"):
        run_sweep(folder, Launch(launcher=launcher))


@pytest.mark.parametrize("launcher", ["inline", "local"])
def test_a_device_that_is_not_there_fails_the_sweep_and_no_trial(tmp_path, launcher):
    folder = SweepFolder.begin(tmp_path, trials(), "statemix sweep")
    with pytest.raises(ValueError, match="device 'cuda:99': this machine has"):
        run_sweep(folder, Launch(launcher=launcher, devices=("cuda:99",)))
    configured = SweepFolder.begin(tmp_path / "configured", trials(device="gpu"), "statemix sweep")
    with pytest.raises(ValueError, match="device 'gpu': there is no such kind"):
        run_sweep(configured, Launch(launcher=launcher))
    assert not folder.results() and not any(map(folder.failures, folder.groups))


def test_a_grid_takes_ranges_of_numpy(tmp_path):
    axes = {"seed": [3, 4], "steps": [1, 2], "optimizer.learning_rate": [1e-3, 1e-2], "data.task.length": [8]}
    arrays = {path: np.array(values) for path, values in axes.items()}
    made = grid(small(), arrays)
    assert [trial.id for trial in made] == [trial.id for trial in grid(small(), axes)]
    assert SweepFolder.begin(tmp_path, made, "a script").trials == grid(small(), axes)


def test_the_name_of_a_grid_stands_before_its_settings():
    named = grid(small(), {"model.mixer.block_size": iter([1, 2])}, name="wide")
    assert [trial.model for trial in named] == ["wide, block_size=1", "wide, block_size=2"]
    assert [trial.model for trial in grid(small(), {}, name="wide")] == ["wide"]


def test_impossible_sweeps_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"model\.mixer\.block_size must have at least one value; got none"):
        grid(small(), {"model.mixer.block_size": []})
    for values, shown in ((3, "3"), ("hlru", "'hlru'")):
        with pytest.raises(
            TypeError, match=rf"values of seed must be a list; got {shown}: write \[{shown}\]"
        ):
            grid(small(), {"seed": values})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"no field 'model\.mixr'; nearest: model\.mixer"):
        grid(small(), {"model.mixr": [1]})
    with pytest.raises(ValueError, match=r"model\.mixer\.block-size and .*block_size are one field"):
        grid(small(), {"model.mixer.block-size": [1, 2], "model.mixer.block_size": [3]})
    with pytest.raises(ValueError, match="seeds must be at least 1"):
        grid(small(), {}, seeds=0)
    small_set = grid(small(data=TaskData(examples=16)), {"batch_size": [16, 17]})
    with pytest.raises(
        ValueError, match=r"trial 'batch_size=17': .* a batch of 17 does not fit .* of 16 exam"
    ):
        SweepFolder.begin(tmp_path, small_set, "statemix sweep")
    with pytest.raises(ValueError, match="no two the same"):
        SweepFolder.begin(tmp_path, trials() + trials(), "statemix sweep")
    with pytest.raises(ValueError, match="replicas must be at least 1; got 0"):
        SweepFolder.begin(tmp_path, trials(), "statemix sweep", most_replicas=0)
    shards = [Trial(model="lm", config=RunConfig(data=ShardData()))]
    with pytest.raises(ValueError, match="on shards is trained by itself, with statemix train"):
        SweepFolder.begin(tmp_path, shards, "statemix sweep")
    with pytest.raises(ValueError, match=r"launcher must be one of .*; got 'locall'; nearest: local"):
        Launch(launcher="locall")
    with pytest.raises(ValueError, match="minutes_at_most must be above 0; got nan"):
        Launch(minutes_at_most=float("nan"))


def test_a_grid_may_vary_a_whole_mixer(tmp_path):
    mixers = [MixerConfig(block_size=2, num_blocks=4), MixerConfig(name="gru")]
    varied = grid(small(steps=2, device="cpu"), {"model.mixer": mixers})
    folder = SweepFolder.begin(tmp_path, varied, "statemix sweep")
    assert run_sweep(folder, INLINE).pending == 0
    assert [row["mixer"] for row in table(folder)] == [repr(mixer) for mixer in mixers]
    again = SweepFolder.begin(tmp_path, varied, "statemix sweep")
    assert [trial.config.model.mixer for trial in again.trials] == mixers and not again.pending()
