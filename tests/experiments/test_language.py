"""Language models are compared at equal parameters, and the table says what was not run."""

import csv
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from statemix.experiments.language import LANGUAGE_MIXERS, SIZES, language_run
from statemix.models.sizing import count_parameters
from statemix.text import prepare

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "language_models.py"


def parameters(config, vocabulary=256):
    return count_parameters(replace(config.model, vocab_size=vocabulary))


@pytest.mark.parametrize("size", SIZES)
def test_every_mixer_has_the_parameters_of_attention(size):
    wanted = parameters(language_run(size, "attention"))
    for mixer in LANGUAGE_MIXERS:
        # Layers with heads come in steps of a head; the smallest model has few of them.
        nearest = 0.1 if size == "lm" else 0.03
        assert parameters(language_run(size, mixer)) == pytest.approx(wanted, rel=nearest), mixer


def test_sizes_are_what_their_names_say():
    assert parameters(language_run("lm-10m")) == pytest.approx(10.8e6, rel=0.03)
    assert parameters(language_run("lm-40m")) == pytest.approx(39.6e6, rel=0.03)
    assert parameters(language_run("lm-134m"), 32_000) == pytest.approx(134e6, rel=0.01)
    for size, chosen in SIZES.items():
        run = language_run(size)
        assert run.steps * run.batch_size * run.data.length == pytest.approx(chosen.tokens, rel=0.01)


def test_a_mixed_stack_has_the_layers_of_its_name_each_at_its_own_size():
    mixed, blocks, attention = (
        language_run("lm-10m", mixer).model for mixer in ("bdlru-2+attention", "bdlru-2", "attention")
    )
    found = mixed.mixers()
    assert [m.name for m in found] == ["bdlru", "bdlru", "attention"] * 2
    assert found[0] == blocks.mixers()[0] and found[2].num_heads == attention.mixers()[0].num_heads
    assert found[2].rotary and found[0].block_size == 2


def test_unknown_names_list_the_nearest():
    with pytest.raises(ValueError, match="no mixer 'bdlru-3'; nearest: bdlru-"):
        language_run("lm", "bdlru-3")
    with pytest.raises(ValueError, match="no size 'lm-11m'; nearest: lm-1"):
        language_run("lm-11m")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The benchmark over some mixers of the smallest size; the rows of its table by mixer."""
    (tmp_path / "song.txt").write_text("la la la, " * 300)
    prepare([str(tmp_path / "song.txt")], tmp_path / "shards", progress=False)
    spec = importlib.util.spec_from_file_location("language_models", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = tmp_path / "table.csv"
    small = ["--tokens", "256", "--length", "16", "--batch-tokens", "64", "--device", "cpu"]

    def run(*mixers, options=()):
        arguments = ["--data", str(tmp_path / "shards"), "--out", str(out), "--size", "lm", *small]
        monkeypatch.setattr(sys, "argv", ["language_models.py", *arguments, *options, "--mixers", *mixers])
        assert module.main() == 0
        with open(out, newline="") as file:
            return {row["mixer"]: row for row in csv.DictReader(file)}

    return run


def test_the_table_grows_cell_by_cell_and_says_what_was_not_run(run, tmp_path, capsys):
    rows = run("hlru-2")
    assert rows.keys() == LANGUAGE_MIXERS.keys()
    assert {m for m, row in rows.items() if row["status"] != "not run"} == {"hlru-2"}
    assert rows["hlru-2"]["tokens"] == "256" and 0 < float(rows["hlru-2"]["bits_per_byte"]) < 9
    capsys.readouterr()
    again = run("hlru-2", "lstm")
    assert again["hlru-2"] == rows["hlru-2"] and "already there" in capsys.readouterr().out
    assert again["lstm"]["status"] == "finished" and again["attention"]["status"] == "not run"
    curves = (tmp_path / "table_curves.csv").read_text()
    assert "lm-hlru-2-0,4,256," in curves and "lm-lstm-0,4,256," in curves
    assert '"lm-lstm-0"' in (tmp_path / "table_configs.json").read_text()


def test_a_cell_that_was_interrupted_and_goes_on_has_its_curve_once(run, tmp_path):
    run("hlru-2", "lstm")
    before = (tmp_path / "table_curves.csv").read_text()
    table = tmp_path / "table.csv"
    table.write_text(table.read_text().replace("hlru-2,0,finished", "hlru-2,0,interrupted"))
    assert run("hlru-2")["hlru-2"]["status"] == "finished"
    after = (tmp_path / "table_curves.csv").read_text()
    assert after.count("lm-hlru-2-0,4,256,") == before.count("lm-hlru-2-0,4,256,") == 1
    assert after.count("lm-lstm-0") == before.count("lm-lstm-0")


def test_every_mixer_is_tuned_over_the_same_rates_and_none_twice(run, tmp_path, capsys):
    options = ("--rates", "1e-6", "1e-2", "--tuning-tokens", "640")
    rows = run("hlru-2", "lstm", options=options)
    with open(tmp_path / "table_tuning.csv", newline="") as file:
        tried = list(csv.DictReader(file))
    for mixer in ("hlru-2", "lstm"):
        losses = {float(r["learning_rate"]): float(r["loss"]) for r in tried if r["mixer"] == mixer}
        # A rate of a millionth learns nothing in ten steps.
        assert losses.keys() == {1e-6, 1e-2} and losses[1e-2] < losses[1e-6]
        assert float(rows[mixer]["learning_rate"]) == 1e-2
    capsys.readouterr()
    run("hlru-2", "bdlru-1", options=options)
    assert "'mixer': 'hlru-2', 'learning_rate': 1e-06" not in capsys.readouterr().out
    assert len((tmp_path / "table_tuning.csv").read_text().splitlines()) == 7
