"""``statemix train``, as it is typed."""

import re
import signal
import subprocess
import sys

import pytest

from statemix.cli import main
from statemix.experiments import RECIPES
from statemix.training import read_config, read_result
from tests.processes import wait_until

SMALL = [
    "--steps", "4", "--batch-size", "4", "--data.test-lengths", "8", "--data.test-examples", "4",
    "--no-tensorboard",
]  # fmt: skip


def test_flags_reach_the_run(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["train", "s3-composition", "--out", str(out), *SMALL, "--model.mixer.block-size", "2"]
    assert main([*arguments, "--data.task.group", "S4", "--seed", "5"]) == 0
    config = read_config(out)
    assert config.model.mixer.block_size == 2 and config.model.mixer.num_blocks == 16
    assert config.data.task.group == "S4" and config.model.vocab_size == 24
    assert config.seed == 5 and config.data.test_lengths == (8,)
    assert read_result(out)["status"] == "finished"
    shown = capsys.readouterr().out
    assert re.search(r"step 4/4  loss \d", shown) and f"in {out}" in shown


def test_the_folder_is_named_after_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "parity", *SMALL, "--name", "mine"]) == 0
    assert read_result(tmp_path / "runs" / "mine")["step"] == 4


@pytest.mark.parametrize("ask", [[], ["--help"]])
def test_recipes_are_listed(ask, capsys):
    assert main(["train", *ask]) == (0 if ask else 2)
    shown = capsys.readouterr().out
    assert all(name in shown for name in RECIPES)


def test_every_flag_explains_itself(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "text-bytes", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for flag in (
        "--model.mixer.block-size",
        "--data.corpus",
        "--optimizer.learning-rate",
        "--resume",
        "--seed",
    ):
        assert flag in shown


def test_an_unknown_recipe_lists_the_nearest(capsys):
    assert main(["train", "s3-compostion"]) == 2
    assert "nearest: s3-composition" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.mixer.name", "bdlur"], "nearest: bdlru"),
        (["--model.mixer.block-sizes", "3"], "--model.mixer.block-size"),
        (["--steps", "0"], "steps must be at least 1; got 0"),
        (["--data.task.group", "S33"], "the largest allowed"),
    ],
)
def test_a_wrong_flag_is_explained(flags, message, tmp_path, capsys):
    try:
        code = main(["train", "s3-composition", "--out", str(tmp_path / "run"), *flags])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    shown = capsys.readouterr()
    assert message in " ".join((shown.err + shown.out).replace("│", " ").split())
    assert not (tmp_path / "run").exists()


def test_an_occupied_folder_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("")
    assert main(["train", "parity", "--out", str(tmp_path), *SMALL]) == 1
    assert f"run folder {tmp_path}: it is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "there is no such kind"),
        ("cuda:99", "this machine has"),
        ("meta", "this machine has none; give auto, cpu"),
        ("hpu", "this machine has none; give auto, cpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device, message, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "parity", "--out", str(out), *SMALL, "--device", device]) == 2
    assert f"device '{device}': {message}" in capsys.readouterr().err and not out.exists()


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "parity", "--out", str(out), *SMALL, "--model.vocab-size", "9"]) == 2
    assert "vocab_size is 9, but the data has 2" in capsys.readouterr().err and not out.exists()


def test_a_diverged_run_says_so(tmp_path, capsys):
    flags = ["--optimizer.learning-rate", "1e30", "--optimizer.clip-norm", "inf", "--log-every", "1"]
    assert main(["train", "parity", "--out", str(tmp_path), *SMALL, *flags]) == 3
    assert "diverged at step" in capsys.readouterr().err
    assert read_result(tmp_path)["status"] == "diverged"


def test_a_run_that_is_terminated_says_how_to_go_on(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-c", "import sys; from statemix.cli import main; sys.exit(main())"]
    flags = [*SMALL, "--steps", "100000", "--log-every", "1"]
    process = subprocess.Popen(
        [*command, "train", "parity", "--out", str(out), *flags], stdout=subprocess.PIPE, text=True
    )
    wait_until((out / "metrics.csv").exists, process)
    process.terminate()
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"statemix train --resume {out}" in shown and "SIGTERM" in shown
    stopped = read_result(out)["step"]
    assert stopped >= 1 and read_result(out)["status"] == "interrupted"


def test_what_cannot_be_resumed_is_said(tmp_path, capsys):
    assert main(["train", "--resume", str(tmp_path)]) == 1
    assert "it holds no config.json" in capsys.readouterr().err
    assert main(["train", "--resume"]) == 2
    assert main(["train", "--resume", str(tmp_path), "--steps", "9"]) == 2
    assert "no further flags" in capsys.readouterr().err


def test_a_finished_run_can_be_asked_again(tmp_path, capsys):
    arguments = ["train", "parity", "--out", str(tmp_path), *SMALL]
    assert main(arguments) == 0
    first = capsys.readouterr().out.splitlines()[-1]
    assert main(["train", "--resume", str(tmp_path)]) == 0
    assert main([*arguments, "--resume"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == first


def test_a_language_model_is_trained_on_prepared_text_with_any_mixer(tmp_path, capsys):
    (tmp_path / "song.txt").write_text("la la la, " * 300)
    assert main(["text", "prepare", str(tmp_path / "song.txt"), "--out", str(tmp_path / "shards")]) == 0
    out = tmp_path / "run"
    flags = [
        "--data.path",
        str(tmp_path / "shards"),
        "--data.length",
        "16",
        "--steps",
        "3",
        "--batch-size",
        "2",
    ]
    assert (
        main(["train", "lm/hlru-2", "--out", str(out), *flags, "--accumulate", "2", "--no-tensorboard"]) == 0
    )
    config = read_config(out)
    assert config.model.mixer.name == "hlru" and config.data.length == 16 and config.accumulate == 2
    assert {"bits_per_byte", "perplexity"} == set(read_result(out)["scores"])
    assert main(["train", "lm/hlru-3", "--out", str(out)]) == 2
    assert "no mixer 'hlru-3'; nearest: hlru-" in capsys.readouterr().err
    assert main(["train", "lm", "--out", str(tmp_path / "no"), "--data.path", str(tmp_path)]) == 1
    assert "statemix text prepare SOURCE --out" in capsys.readouterr().err


def test_of_several_workers_the_first_one_speaks(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "parity", "--out", str(tmp_path), *SMALL]) == 0
    assert f"in {tmp_path}" not in capsys.readouterr().out
