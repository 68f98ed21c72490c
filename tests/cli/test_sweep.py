"""``statemix sweep`` as it is typed."""

import csv
import json

import pytest

from statemix.cli import main

TINY = [
    "--steps", "2", "--batch-size", "2", "--data.test-lengths", "8", "--data.test-examples", "4",
    "--launch.launcher", "inline",
]  # fmt: skip


def test_a_grid_becomes_a_table_and_the_same_command_repeats_nothing(tmp_path, capsys):
    command = ["sweep", "s3-composition", "--grid", "model.mixer.block-size=2,3", "--grid"]
    command += ["optimizer.learning_rate=1e-3,3e-3", "--seeds", "2", "--out", str(tmp_path / "out"), *TINY]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert "8 of 8 trials are done" in first and "accuracy at 8" in first
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines()))
    assert len(rows) == 8 and {(r["block_size"], r["learning_rate"]) for r in rows} == {
        ("2", "0.001"), ("2", "0.003"), ("3", "0.001"), ("3", "0.003"),
    }  # fmt: skip
    assert main(command) == 0
    assert "accuracy at 8" not in capsys.readouterr().out


def test_variants_are_compared_at_equal_states(tmp_path):
    out = tmp_path / "out"
    assert (
        main(["sweep", "s3-composition", "--variants", "mixers", "--seeds", "1", "--out", str(out), *TINY])
        == 0
    )
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert [row["model"] for row in rows] == [
        "BD-LRU m=3", "BD-LRU m=2", "BD-LRU m=1", "BD-LRU m=3, zero initial state", "H-LRU m=3", "LSTM", "GRU",
        "attention",
    ]  # fmt: skip
    assert {row["status"] for row in rows} == {"finished"}


def test_a_dry_run_lists_the_trials_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    command = ["sweep", "parity", "--grid", "data.task.length=8,16", "--seeds", "2", "--out", str(out)]
    assert main([*command, "--dry-run"]) == 0
    assert "length=16, seed 1\n4 trials" in capsys.readouterr().out and not out.exists()


def test_parquet_has_numbers_where_numbers_were_varied(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out"
    grids = ["--grid", "model.mixer.block-size=2,16", "--grid", "optimizer.learning-rate=1e-3"]
    assert main(["sweep", "parity", *grids, "--seeds", "1", "--out", str(out), *TINY]) == 0
    table = parquet.read_table(out / "table.parquet")
    assert [table[name].to_pylist() for name in ("block_size", "learning_rate")] == [[2, 16], [1e-3, 1e-3]]
    assert table["model"].to_pylist()[0] == "block-size=2, learning-rate=1e-3"


def test_what_is_on_or_off_can_be_varied(tmp_path):
    out = tmp_path / "out"
    grids = ["--grid", "model.mixer.selective=True,False", "--grid", "model.mixer.convolution=True,None"]
    assert main(["sweep", "parity", *grids, "--seeds", "1", "--out", str(out), *TINY]) == 0
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    ran = [json.loads(row["config"])["model"]["mixer"] for row in rows]
    assert [(mixer["selective"], mixer["convolution"]) for mixer in ran] == [
        (True, True), (True, None), (False, True), (False, None),
    ]  # fmt: skip


def test_a_colon_parts_the_values_of_fields_that_have_several_and_no_others(tmp_path):
    out = tmp_path / "out"
    grids = ["--grid", "data.test-lengths=8:16,4", "--grid", "name=a:b"]
    assert main(["sweep", "parity", *TINY, *grids, "--seeds", "1", "--out", str(out)]) == 0
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    ran = [json.loads(row["config"]) for row in rows]
    assert [config["data"]["test_lengths"] for config in ran] == [[8, 16], [4]]
    assert {config["name"] for config in ran} == {"a:b"}


def test_tasks_of_mad_are_tested_at_the_length_that_is_varied(tmp_path):
    sizes = (
        "--model.d-model 8 --model.mixer.num-blocks 4 --data.test-examples 4 --data.examples 8 --batch-size 4"
    )
    axis = ["--grid", "data.task.length=16,64", "--seeds", "1", "--steps", "1"]
    where = ["--launch.launcher", "inline", "--device", "cpu", "--out", str(tmp_path)]
    assert main(["sweep", "mad-in-context-recall", *axis, *where, *sizes.split()]) == 0
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [bool(row["accuracy_at_16"]) for row in rows] == [True, False]
    assert [bool(row["accuracy_at_64"]) for row in rows] == [False, True]


def test_time_that_is_over_leaves_a_command_to_go_on_with(tmp_path, capsys):
    command = ["sweep", "parity", "--seeds", "1", "--out", str(tmp_path / "out"), *TINY]
    assert main([*command, "--launch.minutes-at-most", "1e-9"]) > 128
    assert "to go on:\n  statemix sweep parity" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["s3-compositon"], "nearest: s3-composition"),
        (["parity", "--grid", "model.mixer.block-sise=1"], "nearest: model.mixer.block_size"),
        (["parity", "--grid", "model.mixer.block-size"], "must be a field and its values"),
        (["parity", "--variants", "mixer"], "nearest: mixers"),
        (["parity", "--dry-run", "--seeds", "0"], "seeds must be at least 1; got 0"),
        (["parity", "--dry-run", "--grid", "steps=1,1"], "no two the same; got 'steps=1' with seed 0 twice"),
        (["parity", "--grid", "steps=1,2", "--grid", "steps=3"], "--grid has steps twice"),
        (["parity", "--dry-run", "--grid", "seed=0,1"], "as values of seed and as 3 seeds: leave the values"),
        (["lm-10m", "--dry-run"], "on shards is trained by itself"),
        (
            ["parity", "--dry-run", "--model.mixer.name", "attention", "--grid", "model.mixer.num-heads=2,3"],
            "trial 'num-heads=3': it has a model that cannot be built",
        ),
    ],
)
def test_wrong_flags_are_named(capsys, arguments, message):
    assert main(["sweep", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_occupied_folder_is_refused(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["sweep", "parity", "--out", str(tmp_path), *TINY]) == 2
    assert "nothing is written over" in capsys.readouterr().err
