"""Training: the same config gives the same losses, stopped or not; what cannot be trained says so."""

import csv
import io
import math
import os
import shutil
import signal
import sys
import threading
from dataclasses import replace

import pytest
import torch

from statemix.models import MixerConfig, ModelConfig
from statemix.text import PrepareOptions, ShardError, prepare
from statemix.training import (
    CheckpointError,
    Observer,
    OptimizerConfig,
    RunFolderError,
    ShardData,
    TextData,
    load_run,
    read_config,
    read_result,
    train,
)
from statemix.training.metrics import CsvTable, is_finite
from statemix.training.progress import BarProgress, PlainProgress
from statemix.training.signals import StopRequests

from .small import At, numbers, small, terminate


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def assert_same_run(one, other):
    assert numbers(one.history) == numbers(other.history)
    assert one.scores == other.scores
    for (name, a), b in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_same_config_gives_the_same_losses():
    one, other = train(small(), progress=False), train(small(), progress=False)
    assert_same_run(one, other)
    assert numbers(train(small(seed=1), progress=False).history) != numbers(one.history)


def test_training_leaves_the_random_numbers_of_the_caller_alone():
    torch.manual_seed(3)
    wanted = torch.randn(4)
    torch.manual_seed(3)
    train(small(steps=2), progress=False)
    assert torch.equal(torch.randn(4), wanted)


def test_parity_is_learned_and_holds_at_twice_the_length():
    config = small(
        steps=150, batch_size=64, log_every=50, model=ModelConfig(
            d_model=32, embedding_std=1.0,
            mixer=MixerConfig(block_size=2, num_blocks=8, initial_state="learned"), mlp_ratio=1.0,
        ), optimizer=OptimizerConfig(learning_rate=1e-2),
    )  # fmt: skip
    result = train(config, progress=False)
    assert result.scores["accuracy_at_16"] > 0.99
    assert result.history[-1]["loss"] < 0.1 < result.history[0]["loss"]


@pytest.mark.parametrize("stop", [terminate, interrupt], ids=["SIGTERM", "Ctrl-C"])
@pytest.mark.parametrize("step", [1, 4, 7])
def test_a_run_that_was_asked_to_stop_goes_on_as_if_it_never_had(tmp_path, stop, step):
    config = small(log_every=1, evaluate_every=3)
    whole = train(config, out=tmp_path / "whole", progress=False)
    stopped = train(config, out=tmp_path / "run", observers=[At(step, stop)], progress=False)
    assert (stopped.status, stopped.step, stopped.scores) == ("interrupted", step, {})
    assert stopped.signal in (signal.SIGTERM, signal.SIGINT)
    resumed = train(config, out=tmp_path / "run", resume=True, progress=False)
    assert_same_run(resumed, whole)
    assert resumed.evaluations == whole.evaluations
    for name in ("metrics.csv", "evaluations.csv"):
        one, other = table(tmp_path / "run" / name), table(tmp_path / "whole" / name)
        assert numbers(one) == numbers(other)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_resumed_run_draws_the_noise_that_the_whole_one_drew(tmp_path, checkpointing):
    base = small(log_every=1)
    noisy = replace(base.model.mixer, gate_noise=1.0)
    config = replace(base, model=replace(base.model, mixer=noisy, gradient_checkpointing=checkpointing))
    whole = train(config, out=tmp_path / "whole", progress=False)
    assert numbers(train(base, progress=False).history) != numbers(whole.history)
    train(config, out=tmp_path / "run", observers=[At(5, terminate)], progress=False)
    assert_same_run(train(config, out=tmp_path / "run", resume=True, progress=False), whole)


def test_means_over_several_steps_survive_a_stop_between_them(tmp_path):
    config = small(log_every=5, evaluate_every=1)

    class Stop(Observer):
        def evaluated(self, row):
            if row["step"] == 7:
                terminate()

    whole = train(config, progress=False)
    assert train(config, out=tmp_path, observers=[Stop()], progress=False).step == 7
    resumed = train(config, out=tmp_path, resume=True, progress=False)
    assert numbers(resumed.history) == numbers(whole.history)
    assert [row["step"] for row in resumed.history] == [5, 10, 12]


def test_signals_act_as_before_when_training_is_over(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train(small(steps=1), out=tmp_path, progress=False)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.fixture
def interrupts():
    """Ctrl-C acts as in a terminal: a background job ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_a_signal_asks_all_that_wait_for_one_to_stop_and_a_second_acts_as_usual():
    with StopRequests() as outer, StopRequests() as inner:
        signal.raise_signal(signal.SIGINT)
        assert (outer.signal, inner.signal) == (signal.SIGINT, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_run_can_train_in_a_thread(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(train(small(), out=tmp_path, progress=False)))
    thread.start()
    thread.join()
    assert_same_run(found[0], train(small(), progress=False))


@pytest.mark.usefixtures("interrupts")
def test_without_a_folder_ctrl_c_ends_the_program():
    with pytest.raises(KeyboardInterrupt):
        train(small(), observers=[At(3, interrupt)], progress=False)


class Crash(RuntimeError):
    pass


def crash():
    raise Crash


@pytest.mark.parametrize("step", [2, 6])
def test_a_crash_loses_what_came_after_the_last_checkpoint_and_no_more(tmp_path, step):
    config = small()
    with pytest.raises(Crash):
        train(config, out=tmp_path, observers=[At(step, crash)], progress=False)
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("7,0.1")  # a line that was torn off
    resumed = train(config, out=tmp_path, resume=True, progress=False)
    assert_same_run(resumed, train(config, progress=False))
    assert [row["step"] for row in table(tmp_path / "metrics.csv")] == [str(n + 1) for n in range(12)]


def test_resuming_from_the_checkpoint_before_a_damaged_one_gives_the_same_run(tmp_path):
    config = small()
    whole = train(config, out=tmp_path / "whole", progress=False)
    train(config, out=tmp_path / "run", observers=[At(9, terminate)], progress=False)
    weights = tmp_path / "run" / "checkpoints" / "step-00000009" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match="step-00000009.*going on from step-00000008"):
        resumed = train(config, out=tmp_path / "run", resume=True, progress=False)
    assert_same_run(resumed, whole)


def test_a_finished_run_is_given_back_without_training(tmp_path):
    whole = train(small(), out=tmp_path, progress=False)
    again = train(small(), out=tmp_path, resume=True, observers=[At(12, crash)], progress=False)
    assert again.status == "finished"
    assert_same_run(again, whole)


def test_a_folder_holds_all_that_repeats_the_run(tmp_path):
    config = small(tensorboard=True)
    result = train(config, out=tmp_path, progress=False)
    assert read_config(str(tmp_path)) == config.resolved()
    assert read_result(str(tmp_path))["scores"] == result.scores
    assert '"torch"' in (tmp_path / "environment.json").read_text()
    rows = table(tmp_path / "metrics.csv")
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in result.history]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000008", "step-00000012"]
    model = load_run(tmp_path)
    assert not model.training
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


@pytest.mark.parametrize("left", [None, "", "{", "[]", '{"status": "finished"}'])
def test_a_run_whose_result_was_not_written_gives_it_again_and_scores_nothing_twice(tmp_path, left):
    first = train(small(), out=tmp_path, progress=False)
    (tmp_path / "result.json").unlink() if left is None else (tmp_path / "result.json").write_text(left)
    before = (tmp_path / "evaluations.csv").read_text()
    again = train(small(), out=tmp_path, resume=True, progress=False)
    assert (again.status, again.step, again.scores) == ("finished", 12, first.scores)
    assert read_result(tmp_path)["scores"] == first.scores
    assert (tmp_path / "evaluations.csv").read_text() == before


def test_tensorboard_holds_each_step_once_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = small(tensorboard=True)
    with pytest.raises(Crash):
        train(config, out=tmp_path, observers=[At(6, crash)], progress=False)
    result = train(config, out=tmp_path, resume=True, progress=False)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = events.Scalars("train/loss")
    assert [event.step for event in losses] == list(range(1, 13))
    assert [event.value for event in losses] == pytest.approx([row["loss"] for row in result.history])
    assert events.Scalars("test/accuracy_at_8")[0].value == pytest.approx(result.scores["accuracy_at_8"])


def test_a_loss_that_is_no_number_ends_the_run_and_is_counted(tmp_path):
    config = small(
        optimizer=OptimizerConfig(learning_rate=1e30, clip_norm=float("inf")), steps=40, checkpoint_every=1
    )
    result = train(config, out=tmp_path, progress=False)
    assert result.status == "diverged" and result.step < 40 and result.scores == {}
    assert read_result(tmp_path)["status"] == "diverged"
    assert (
        all(p.isfinite().all() for p in load_run(tmp_path).parameters() if result.step > 2)
        or result.step <= 2
    )


@pytest.mark.parametrize(
    ("loss", "norm", "finite"),
    [(1.0, 1.0, True), (math.nan, 1.0, False), (1.0, math.nan, False), (1.0, math.inf, False)],
)
def test_a_run_has_diverged_as_soon_as_loss_or_gradient_is_no_number(loss, norm, finite):
    assert is_finite({"loss": loss, "gradient_norm": norm}) is finite


def test_a_diverged_run_is_found_between_rows_before_it_is_saved(tmp_path):
    config = small(
        optimizer=OptimizerConfig(learning_rate=1e30, clip_norm=float("inf")), steps=40, log_every=40
    )
    result = train(config, out=tmp_path, progress=False)
    assert (result.status, result.step) == ("diverged", 4)
    assert not (tmp_path / "checkpoints").exists()


def test_an_occupied_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not lose")
    with pytest.raises(RunFolderError, match=rf"{tmp_path}: it is not empty.*resume it or choose another"):
        train(small(), out=tmp_path, observers=[At(1, crash)], progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("left", [".lock", ".probe", ".config.json.writing"])
def test_a_run_that_was_killed_before_it_began_is_no_run(tmp_path, left):
    (tmp_path / left).touch()
    assert train(small(steps=1), out=tmp_path, progress=False).status == "finished"


def test_a_folder_that_cannot_be_written_stops_the_run_before_it_starts(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=rf"{tmp_path}/file/run: it cannot be written"):
        train(small(), out=tmp_path / "file" / "run", observers=[At(1, crash)], progress=False)


def test_a_full_disk_stops_the_run_before_it_starts(tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(RunFolderError, match=rf"{tmp_path}/run: 1 MiB are free.*needs 16"):
        train(small(), out=tmp_path / "run", observers=[At(1, crash)], progress=False)


def test_nothing_to_resume_is_said(tmp_path):
    with pytest.raises(RunFolderError, match="there is no run to resume"):
        train(small(), out=tmp_path / "new", resume=True, progress=False)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(RunFolderError, match=r"holds no config\.json"):
        train(small(), out=tmp_path, resume=True, progress=False)


def test_a_run_of_another_config_is_not_resumed(tmp_path):
    train(small(), out=tmp_path, observers=[At(5, terminate)], progress=False)
    with pytest.raises(RunFolderError, match=r"another config .*batch_size: 8 and 9"):
        train(small(batch_size=9), out=tmp_path, resume=True, progress=False)


@pytest.mark.parametrize("kind", ["windows", "shards"])
def test_a_run_is_resumed_on_the_text_that_it_began_with(tmp_path, kind):
    def write(word):
        (tmp_path / "t.txt").write_text(f"{word} to be or not to be " * 99)
        if kind == "shards":
            shutil.rmtree(tmp_path / "shards", ignore_errors=True)
            prepare([str(tmp_path / "t.txt")], tmp_path / "shards", progress=False)

    path = str(tmp_path / ("shards" if kind == "shards" else "t.txt"))
    data = ShardData(path=path, length=16) if kind == "shards" else TextData(corpus=path, length=16)
    config = small(data=data)
    write("how")
    whole = train(config, out=tmp_path / "run", progress=False)
    (tmp_path / "run" / "result.json").unlink()
    write("why")
    with pytest.raises(RunFolderError, match=r"its text has changed \(SHA-256 [0-9a-f]{16} when it began"):
        train(config, out=tmp_path / "run", resume=True, progress=False)
    write("how")  # the same text again is the same text
    again = train(config, out=tmp_path / "run", resume=True, progress=False)
    assert again.scores == whole.scores


def test_shards_that_hold_nothing_out_are_refused_before_training(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "to be or not to be"}\n' * 9)
    options = PrepareOptions(validation_share=0.0)
    prepare([str(tmp_path / "t.jsonl")], tmp_path / "shards", options, progress=False)
    config = small(data=ShardData(path=str(tmp_path / "shards"), length=16))
    with pytest.raises(ShardError, match="no document fell into 'validation'"):
        train(config, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_model_are_refused(tmp_path):
    train(small(), out=tmp_path / "one", observers=[At(5, terminate)], progress=False)
    wide = small(model=ModelConfig(d_model=8))
    train(wide, out=tmp_path / "other", observers=[At(5, terminate)], progress=False)
    shutil.rmtree(tmp_path / "one" / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", tmp_path / "one" / "checkpoints")
    with pytest.raises(CheckpointError, match="of another model"):
        train(small(), out=tmp_path / "one", resume=True, progress=False)
    with pytest.raises(CheckpointError, match="of another model"):
        load_run(tmp_path / "one")


def test_text_is_learned_below_what_its_bytes_alone_tell(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {i % 10} of the song\n" for i in range(2000)))
    model = ModelConfig(d_model=32, mixer=MixerConfig(block_size=2))
    data = TextData(corpus=str(path), length=64, evaluation_bytes=2000)
    result = train(small(model=model, data=data, steps=150, log_every=50, batch_size=16), progress=False)
    assert result.scores["bits_per_byte"] < 1.5


def test_bfloat16_trains_with_weights_in_float32():
    result = train(small(precision="bfloat16", steps=3), progress=False)
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}
    exact = train(small(steps=3), progress=False)
    losses = [[row["loss"] for row in run.history] for run in (result, exact)]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)


def test_the_bar_shows_loss_accuracy_speed_and_time_left():
    from rich.console import Console

    screen = io.StringIO()
    bar = BarProgress(Console(file=screen, force_terminal=True, width=200))
    train(small(), observers=[bar], progress=False)
    shown = screen.getvalue()
    for words in ("small", "12/12", "loss 0.", "accuracy", "tokens/s", "0:00:0", "test: accuracy at 8"):
        assert words in shown, words


def test_plain_lines_tell_the_same(capsys):
    train(small(), observers=[PlainProgress(seconds_between=0)], progress=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 14
    assert lines[0].startswith("step 1/12  loss ") and "tokens/s" in lines[0] and "s left" in lines[0]
    assert lines[-2].startswith("step 12  test: accuracy at 8 ") and lines[-1].startswith(
        "finished after step 12"
    )


def test_a_table_is_cut_back_to_a_step(tmp_path):
    path = tmp_path / "t.csv"
    table_ = CsvTable(path, 0)
    for step in range(1, 6):
        table_.append({"step": step, "loss": 1 / (3 * step), "split": "test"})
    again = CsvTable(path, 3)
    assert again.earlier == [{"step": n, "loss": 1 / (3 * n), "split": "test"} for n in (1, 2, 3)]
    again.append({"step": 4, "loss": 0.5, "split": "test"})
    assert [row["loss"] for row in table(path)] == [repr(1 / 3), repr(1 / 6), repr(1 / 9), "0.5"]


def test_a_number_that_was_torn_off_is_not_taken_for_another(tmp_path):
    path = tmp_path / "scores.csv"
    whole = CsvTable(path, 0)
    for step in (1, 2):
        whole.append({"step": step, "loss": 0.25})
    path.write_bytes(path.read_bytes()[:-3])
    assert path.read_bytes().endswith(b"2,0.2")
    assert CsvTable(path, 2).earlier == [{"step": 1, "loss": 0.25}]


@pytest.mark.parametrize("left", ["", "step,lo"])
def test_a_table_whose_header_was_torn_off_gets_another(tmp_path, left):
    path = tmp_path / "scores.csv"
    path.write_text(left)
    again = CsvTable(path, 2)
    assert again.earlier == []
    again.append({"step": 3, "loss": 0.25})
    assert CsvTable(path, 3).earlier == [{"step": 3, "loss": 0.25}]


def test_a_missing_tensorboard_is_named_with_the_way_around_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r"tensorboard is not installed.*or set tensorboard=False"):
        train(small(steps=1, tensorboard=True), out=tmp_path / "run", progress=False)
