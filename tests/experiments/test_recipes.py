"""Every recipe that is shipped runs."""

import csv
import json
from dataclasses import replace

import pytest
import torch

from statemix.experiments import RECIPES, recipe, reproduce
from statemix.training import TaskData, from_json, to_json, train


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_and_can_be_written_down(name):
    config = recipe(name)
    assert config.name == name and RECIPES[name].__doc__
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    data = config.data
    if isinstance(data, TaskData):
        data = replace(data, test_lengths=(8,), test_examples=4)
    else:
        data = replace(data, evaluation_bytes=256)
    result = train(replace(config, data=data, steps=2, batch_size=2), progress=False)
    assert result.status == "finished" and result.scores


def test_an_unknown_recipe_lists_the_nearest():
    with pytest.raises(ValueError, match="no recipe 's3-compositions'; nearest: s3-composition"):
        recipe("s3-compositions")


def test_permutations_of_three_are_composed_far_beyond_the_trained_length():
    """The headline, on a quarter of the batch so that it takes seconds."""
    config = recipe("s3-composition")
    data = replace(config.data, test_lengths=(128,), test_examples=64)
    result = train(replace(config, data=data, batch_size=32, steps=250), progress=False)
    assert result.scores["accuracy_at_128"] > 0.95


def test_a_table_has_a_row_for_every_variant_and_seed(tmp_path, monkeypatch, capsys):
    def tiny():
        variants = reproduce.s3_variants()
        data = TaskData(test_lengths=(8,), test_examples=4)
        chosen = ("BD-LRU m=3", "LSTM")
        return {name: replace(variants[name], data=data, steps=2, batch_size=2) for name in chosen}

    monkeypatch.setitem(reproduce.TABLES, "s3-composition", tiny)
    out = tmp_path / "table.csv"
    assert reproduce.main(["s3-composition", "--seeds", "2", "--out", str(out)]) == 0
    conditions = out.with_suffix(".txt").read_text()
    assert "--seeds 2" in conditions and torch.__version__ in conditions
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [(row["model"], row["seed"]) for row in rows] == [
        ("BD-LRU m=3", "0"), ("BD-LRU m=3", "1"), ("LSTM", "0"), ("LSTM", "1"),
    ]  # fmt: skip
    assert all(0 <= float(row["accuracy_at_8"]) <= 1 and row["steps"] == "2" for row in rows)
    assert reproduce.main(["s3-compositon", "--out", str(out)]) == 2
    assert "nearest: s3-composition" in capsys.readouterr().err


def test_the_variants_hold_equal_states():
    for config in reproduce.s3_variants().values():
        assert config.model.mixer.num_blocks * config.model.mixer.block_size == 48
