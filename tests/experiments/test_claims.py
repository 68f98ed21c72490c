"""Claims: intervals against tables, verdicts against numbers that leave no doubt, plans that can be built."""

import datetime
import json
import math
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from statemix.experiments import claims, reproduce
from statemix.experiments.claims import BUDGETS, CLAIMS, Stopped, find_claim, verdict_of
from statemix.experiments.claims.claim import TrainedClaim, at_least, at_most, exceeds, values_of
from statemix.experiments.claims.statistics import difference_interval, mean_interval, t_quantile
from statemix.experiments.sweep import Launch, SweepFolder, SweepFolderError, Trial
from statemix.experiments.sweep import store as sweep_store
from statemix.models import make_model
from statemix.models.sizing import count_mixer_parameters
from statemix.training import RunFolderError

from ..training.small import small

INLINE = Launch(launcher="inline", devices=("cpu",))


def quiet(line: str) -> None:
    pass


@pytest.mark.parametrize(
    ("share", "freedom", "expected"),
    # From a printed table of the t distribution.
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.3027),
        (0.975, 4, 2.7764),
        (0.95, 10, 1.8125),
        (0.995, 30, 2.7500),
        (0.5, 3, 0.0),
    ],
)
def test_quantiles_are_those_of_the_table(share, freedom, expected):
    assert t_quantile(share, freedom) == pytest.approx(expected, abs=6e-4)
    assert t_quantile(1 - share, freedom) == pytest.approx(-expected, abs=6e-4)


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(400, 4, generator=generator, dtype=torch.float64)
    wide = 3 + 2 * torch.randn(400, 4, generator=generator, dtype=torch.float64)
    means = [mean_interval(row.tolist()) for row in draws]
    differences = [difference_interval(b.tolist(), a.tolist()) for a, b in zip(draws, wide, strict=True)]
    # 400 intervals of 95 %: 380 in the mean, with a standard deviation of 4.4.
    assert 362 <= sum(low <= 0 <= high for low, high in means) <= 396
    assert 362 <= sum(low <= 3 <= high for low, high in differences) <= 396


def test_intervals_need_two_values():
    assert mean_interval([1.0]) is None and difference_interval([1.0, 2.0], [1.0]) is None
    assert difference_interval([1.0, 1.0], [0.5, 0.5]) == (0.5, 0.5)


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_number_that_is_none_leaves_a_verdict_undecided(lost):
    values = {"a": [0.9, 0.91, 0.92], "lost": [0.1, lost, 0.2]}
    assert mean_interval(values["lost"]) is None
    answers = [exceeds(values, "a", "lost"), at_least(values, "lost", 0.1), at_most(values, "lost", 0.9)]
    assert [(found.interval, found.answer) for found in answers] == [(None, "undecided")] * 3


def test_inequalities_hold_are_refuted_or_stay_open():
    values = {"a": [0.9, 0.91, 0.92], "b": [0.5, 0.51, 0.52], "c": [0.2, 0.9, 0.6], "one": [0.9]}
    assert exceeds(values, "a", "b").answer == "holds"
    assert exceeds(values, "b", "a").answer == "does not hold"
    assert exceeds(values, "c", "b").answer == "undecided"
    assert exceeds(values, "a", "b", by=0.5).answer == "does not hold"
    assert exceeds(values, "b", "a", by=-0.5).answer == "holds"
    assert exceeds(values, "a", "a").answer == "undecided"
    assert (
        at_least(values, "a", 0.8).answer == "holds" and at_least(values, "b", 0.8).answer == "does not hold"
    )
    assert at_most(values, "b", 0.8).answer == "holds" and at_most(values, "a", 0.8).answer == "does not hold"
    assert at_least(values, "one", 0.1).answer == at_least(values, "nobody", 0.1).answer == "undecided"


def test_a_verdict_is_as_weak_as_its_weakest_inequality():
    values = {"a": [0.9, 0.91, 0.92], "b": [0.5, 0.51, 0.52], "c": [0.2, 0.9, 0.6]}
    holds, refuted, opened = (exceeds(values, *pair) for pair in (("a", "b"), ("b", "a"), ("c", "b")))
    assert verdict_of([holds, holds]) == "holds"
    assert verdict_of([holds, opened]) == "undecided"
    assert verdict_of([opened, refuted, holds]) == "does not hold"
    assert verdict_of([]) == "undecided"


def result(model, seed, score, *, case="", rate=0.1, validation=None, status="finished"):
    scores = {} if status != "finished" else {"accuracy_at_8": score}
    return {
        "settings": {"model": model, "case": case, "rate": rate},
        "seed": seed,
        "status": status,
        "scores": scores,
        "validation": {"accuracy_at_8": score if validation is None else validation} if scores else {},
    }


def test_a_setting_is_chosen_by_validation_and_never_by_its_test_score():
    results = [result("a", s, 0.9, rate=0.1, validation=0.2) for s in (0, 1)]
    results += [result("a", s, 0.4, rate=0.2, validation=0.3) for s in (0, 1)]
    assert values_of(results) == {"a": [0.4, 0.4]}


def test_numbers_are_means_over_cases_and_a_diverged_run_counts_nothing_right():
    results = [result("a", 0, 1.0, case="x"), result("a", 1, 0.5, case="x")]
    results += [result("a", 0, 0.5, case="y"), result("a", 1, 0.0, case="y", status="diverged")]
    assert values_of(results) == {"a": [0.75, 0.25]}


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_run_whose_scores_are_no_numbers_counts_as_one_that_diverged(lost, tmp_path, monkeypatch):
    results = [result("a", 0, 0.5), result("a", 1, lost), result("a", 2, lost, status="crashed")]
    results += [result("a", seed, 0.4, rate=0.2, validation=0.2) for seed in range(3)]
    assert values_of(results) == {"a": [0.5, 0.0]}
    assert values_of(results[::-1]) == {"a": [0.5, 0.0]}
    monkeypatch.setattr(claims.claim, "SweepFolder", lambda folder: SimpleNamespace(results=lambda: results))
    told = find_claim("synthetic-parity").failures(tmp_path)
    assert told == {"diverged": ["a"], "crashed": ["a"]}


def test_a_crashed_run_leaves_its_seed_out():
    results = [result("a", 0, 1.0), result("a", 1, 0.0, status="crashed"), result("a", 2, 0.5)]
    assert values_of(results) == {"a": [1.0, 0.5]}


def test_a_crash_does_not_count_against_the_setting_that_it_came_to():
    better = [result("a", 0, 0.9, rate=0.1), result("a", 1, 0.0, rate=0.1, status="crashed")]
    worse = [result("a", s, 0.7, rate=0.2) for s in (0, 1)]
    assert values_of([*better, *worse]) == {"a": [0.9]}
    alone = [result("a", s, 0.0, status="crashed") for s in (0, 1)]
    assert values_of(alone) == {"a": []}


def test_bits_count_as_the_share_of_a_byte_that_is_saved():
    found = result("a", 0, 0.0) | {"scores": {"bits_per_byte": 2.0}}
    assert values_of([found, found | {"seed": 1}]) == {"a": [0.75, 0.75]}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", CLAIMS)
def test_every_plan_can_be_built_and_judged(name, budget):
    claim = CLAIMS[name]
    plan = claim.plan(budget)
    assert len(plan) >= 3 and all(row["trials"] >= 3 for row in plan)
    if isinstance(claim, TrainedClaim):
        trials = claim.trials(budget)
        assert len({trial.id for trial in trials}) == len(trials)
        configs = {repr(t.config.model): t.config for t in trials}.values()
        for config in configs:
            with torch.device("meta"):
                make_model(config.resolved().model)
    # Numbers that cannot be told apart decide for nobody, and no inequality names a model that is not there.
    values = {row["model"]: [0.5, 0.6, 0.4] for row in plan}
    comparisons = claim.judge(values)
    assert comparisons and all(c.interval is not None for c in comparisons)


def test_equal_parameters_are_equal():
    for claim in ("compression-efficiency", "structure-over-width"):
        for budget in BUDGETS:
            sizes: dict[str, dict[str, int]] = {}
            for trial in CLAIMS[claim].trials(budget):
                found = sizes.setdefault(trial.settings["case"], {})
                if trial.settings["model"] not in found:
                    found[trial.settings["model"]] = count_mixer_parameters(trial.config.resolved().model)
            for case, found in sizes.items():
                compared = [n for m, n in found.items() if "equal states" not in m and "4 x" not in m]
                assert max(compared) <= 1.15 * min(compared), (claim, budget, case, found)


def tiny(**changes) -> TrainedClaim:
    """Two models of which one is told that it is right."""

    def trials(budget):
        return [
            Trial(model=model, config=small(seed=seed, steps=steps), settings={"model": model, "case": ""})
            for model, steps in (("long", 60), ("short", 1))
            for seed in range(3)
        ]

    made = {
        "name": "permutation-composition",
        "statement": "More steps teach more.",
        "metric": "share of right answers",
        "reason": "Because.",
        "judge": lambda values: [exceeds(values, "long", "short", by=-1.1)],
        "trials": trials,
    }
    return TrainedClaim(**{**made, **changes})


def test_a_claim_is_run_judged_and_written_down_once(tmp_path):
    found = reproduce.reproduce([tiny()], "minutes", tmp_path, launch=INLINE, tell=quiet)
    written = json.loads((tmp_path / "claims.json").read_text())
    assert written == json.loads(json.dumps(found))
    (verdict,) = written
    assert verdict["verdict"] == "holds" and verdict["budget"] == "minutes"
    assert verdict["models"] == ["long", "short"]
    for model in verdict["models"]:
        assert len(verdict["values"][model]) == 3
        low, high = verdict["intervals"][model]
        assert low <= sum(verdict["values"][model]) / 3 <= high
    assert verdict["command"] == "statemix reproduce permutation-composition --budget minutes"
    assert verdict["device"] and verdict["date"] and verdict["versions"] and verdict["commit"]
    size = sum(p.numel() for p in make_model(small().resolved().model).parameters())
    assert f"Parameters of whole models: long {size:,}; short {size:,}." in verdict["notes"]
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("results/*.json")}
    reproduce.reproduce([tiny()], "minutes", tmp_path, launch=INLINE, tell=quiet)
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("results/*.json")}


def test_verdicts_of_other_claims_stay(tmp_path):
    others = [{**_verdict("structure-over-width"), "verdict": "undecided"}]
    reproduce.write_verdicts(tmp_path, others)
    reproduce.write_verdicts(tmp_path, [_verdict("permutation-composition")])
    assert [v["claim"] for v in reproduce.read_verdicts(tmp_path)] == [
        "structure-over-width", "permutation-composition",
    ]  # fmt: skip


def test_the_page_of_a_claim_whose_runs_all_crashed_says_that_nothing_is_known(tmp_path):
    verdict = {**_verdict("permutation-composition"), "device": None, "values": {"a": [], "b": []}}
    page = reproduce.report_of([{**verdict, "intervals": {"a": None, "b": None}}]).html()
    assert "device unknown; statemix 0" in page and "None" not in page


def test_a_collection_keeps_the_verdicts_of_every_budget_apart(tmp_path):
    name = "permutation-composition"
    hour = {**_verdict(name), "budget": "hour", "values": {"a": [0.9, 0.8], "b": [0.1]}}
    reproduce.write_verdicts(tmp_path, [hour, _verdict("structure-over-width"), _verdict(name)])
    later = {**_verdict(name), "verdict": "holds"}
    reproduce.write_verdicts(tmp_path, [later])
    kept = {(v["claim"], v["budget"]): v for v in reproduce.read_verdicts(tmp_path)}
    assert len(kept) == 3 and kept[name, "hour"]["values"] == hour["values"]
    assert kept[name, "minutes"]["verdict"] == "holds"
    page = (tmp_path / "report.html").read_text()
    titles = (f"{name}, hour", f"{name}, minutes", "structure-over-width")
    assert all(f"<h2>{title}</h2>" in page for title in titles)


def test_claims_that_end_at_one_moment_keep_each_others_verdicts(tmp_path, monkeypatch):
    read = reproduce.read_verdicts

    def slowly(out):
        found = read(out)
        time.sleep(0.1)  # in which the other writes, if it can
        return found

    monkeypatch.setattr(reproduce, "read_verdicts", slowly)
    threads = [
        threading.Thread(target=reproduce.write_verdicts, args=(tmp_path, [_verdict(name)]))
        for name in CLAIMS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {verdict["claim"] for verdict in read(tmp_path)} == set(CLAIMS)


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("null", "is damaged: "),
        ('["holds"]', "is damaged: "),
        (
            '[{"claim": "permutation-composition", "device": "cpu"}]',
            "is damaged: a verdict has no 'versions'",
        ),
    ],
)
def test_verdicts_that_are_none_are_named_before_anything_runs(tmp_path, written, what):
    (tmp_path / "claims.json").write_text(written)
    with pytest.raises(RunFolderError, match=what):
        reproduce.reproduce([tiny()], "minutes", tmp_path, launch=INLINE, tell=quiet)
    assert [file.name for file in tmp_path.iterdir()] == ["claims.json"]
    assert (tmp_path / "claims.json").read_text() == written


def test_a_verdict_of_a_claim_that_is_not_known_is_named(tmp_path):
    (tmp_path / "claims.json").write_text(json.dumps([{**_verdict("permutation-composition"), "claim": "b"}]))
    with pytest.raises(RunFolderError, match=r"is damaged: no claim 'b'; nearest: "):
        reproduce.read_verdicts(tmp_path)


def _verdict(name):
    values = {"a": [0.5, 0.6], "b": [0.7]}
    claim = tiny(name=name, judge=lambda v: [exceeds(v, "a", "b")])
    facts = {"device": "a processor", "versions": "statemix 0", "date": "2026-01-31", "commit": "abc"}
    return reproduce.judged(
        claim, values, "minutes", "statemix", {"diverged": ["a"]}, facts, {"a": [1200, 3000]}
    )


def test_the_report_shows_every_number_and_what_decided(tmp_path):
    reproduce.write_verdicts(tmp_path, [_verdict("permutation-composition")])
    page = (tmp_path / "report.html").read_text()
    for expected in ("undecided", "More steps teach more.", "a: 0.5", "a: 0.6", "b: 0.7", "a above b",
                     "no interval", "Runs that diverged: a 1.", "a 1,200 and 3,000.", "statemix"):  # fmt: skip
        assert expected in page


def test_time_that_is_over_stops_a_claim_that_can_go_on(tmp_path):
    with pytest.raises(Stopped):
        reproduce.reproduce(
            [tiny()], "minutes", tmp_path, launch=replace(INLINE, minutes_at_most=1e-9), tell=quiet
        )
    assert not (tmp_path / "claims.json").exists()
    assert SweepFolder(tmp_path / "runs" / "permutation-composition").pending()
    assert reproduce.reproduce([tiny()], "minutes", tmp_path, launch=INLINE, tell=quiet)


def test_measurements_are_made_once(tmp_path, monkeypatch):
    module = claims.throughput_over_order
    monkeypatch.setattr(module, "ORDERS", (1, 3))
    monkeypatch.setattr(module, "milliseconds", lambda run, *_, **__: run() is None or 1.0)
    claim = find_claim("throughput-over-order")
    values = claim.collect(tmp_path, "minutes", INLINE, "", quiet)
    assert set(values) == {f"{f} m={m}" for f in ("BD-LRU", "H-LRU") for m in module.ORDERS[1:]}
    assert all(len(v) == 3 and all(math.isfinite(x) for x in v) for v in values.values())
    monkeypatch.setattr(module, "milliseconds", None)
    assert claim.collect(tmp_path, "minutes", INLINE, "", quiet) == values
    with pytest.raises(SweepFolderError, match="measurements of the budget 'minutes'"):
        claim.collect(tmp_path, "hour", INLINE, "", quiet)
    for damaged in ("{", "[]", "null", '{"budget": "minutes"}'):
        (tmp_path / "measurements.json").write_text(damaged)
        with pytest.raises(SweepFolderError, match=r"measurements\.json is damaged; move it away"):
            claim.collect(tmp_path, "minutes", INLINE, "", quiet)


def test_a_verdict_names_what_made_the_numbers_and_not_who_judged_them_last(tmp_path, monkeypatch):
    module = claims.throughput_over_order
    monkeypatch.setattr(module, "ORDERS", (1, 2))
    monkeypatch.setattr(module, "milliseconds", lambda run, *_, **__: run() is None or 1.0)
    measured = replace(find_claim("throughput-over-order"), judge=lambda values: [])
    made = reproduce.reproduce([tiny(), measured], "minutes", tmp_path, launch=INLINE, tell=quiet)
    assert [v["date"] for v in made] == [datetime.datetime.now(datetime.UTC).date().isoformat()] * 2
    # Another machine, another day, another version.
    for module in (claims.claim, sweep_store):
        monkeypatch.setattr(module, "commit", lambda: "later")
        monkeypatch.setattr(module, "versions", lambda: "newer")
    monkeypatch.setattr(claims.claim, "device_name", lambda device: "another")
    assert reproduce.reproduce([tiny(), measured], "minutes", tmp_path, launch=INLINE, tell=quiet) == made


def test_runs_of_two_versions_are_both_named(tmp_path):
    reproduce.reproduce([tiny()], "minutes", tmp_path, launch=INLINE, tell=quiet)
    file = sorted((tmp_path / "runs").rglob("results/*.json"))[-1]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"commit": "later", "device": "another"}))
    (verdict,) = reproduce.reproduce([tiny()], "minutes", tmp_path, launch=INLINE, tell=quiet)
    assert "; " in verdict["device"] and "another" in verdict["device"] and "later" in verdict["commit"]


def test_an_unknown_claim_lists_the_nearest():
    with pytest.raises(ValueError, match="no claim 'compression'; nearest: compression-efficiency"):
        find_claim("compression")
