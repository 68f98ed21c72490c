"""Replicas trained as one are what they are alone; one that diverges is alone with that."""

import json
import math
import time
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch

from statemix.models import MIXERS, MixerConfig, ModelConfig, make_model
from statemix.tasks import IGNORED, TASKS, Counting, Permutation
from statemix.training import (
    OptimizerConfig,
    RunFolderError,
    ScheduleConfig,
    TaskData,
    open_source,
    replica_group,
    train,
    train_replicas,
)
from statemix.training.replica_batches import stacked_batches
from statemix.training.stacked import StackedModels

from .small import At, numbers, small, terminate

GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)


def unlike(**changes):
    """Three runs with nothing in common but their model, data and steps."""
    return [
        small(seed=seed, optimizer=optimizer, schedule=ScheduleConfig(name=schedule), **changes)
        for seed, optimizer, schedule in (
            (0, OptimizerConfig(learning_rate=3e-3, weight_decay=0.1, clip_norm=0.1), "one-cycle"),
            (1, OptimizerConfig(learning_rate=1e-3, weight_decay=0.0, betas=(0.8, 0.95), eps=1e-6), "cosine"),
            (2, OptimizerConfig(learning_rate=1e-2, weight_decay=0.5, clip_norm=math.inf), "constant"),
        )
    ]


def assert_alike(group, alone, rel=2e-4):
    for one, other in zip(group, alone, strict=True):
        assert (one.config, one.status, one.step) == (other.config, other.status, other.step)
        assert [row["step"] for row in one.history] == [row["step"] for row in other.history]
        for row, wanted in zip(numbers(one.history), numbers(other.history), strict=True):
            assert row == pytest.approx(wanted, rel=rel, abs=1e-6)
        for name, weight in other.model.state_dict().items():
            torch.testing.assert_close(one.model.state_dict()[name], weight, rtol=rel, atol=1e-5)
        assert one.scores == pytest.approx(other.scores, abs=0.02)


@pytest.mark.parametrize(
    "mixer",
    [
        MixerConfig(block_size=2, num_blocks=4, initial_state="learned"),
        MixerConfig(name="hlru", block_size=3, num_blocks=4),
        MixerConfig(name="lstm", block_size=1, num_blocks=8),
        MixerConfig(name="attention", num_heads=2),
    ],
    ids=lambda mixer: mixer.name,
)
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_a_group_is_what_its_runs_are_alone(mixer):
    configs = [replace(c, model=replace(c.model, mixer=mixer, num_layers=2)) for c in unlike()]
    assert_alike(train_replicas(configs, progress=False), [train(c, progress=False) for c in configs])


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_every_mixer_can_be_mapped_over_replicas(name, bfloat16):
    config = small().resolved()
    mixer = replace(config.model.mixer.named(name), num_blocks=None)
    config = replace(config, model=replace(config.model, mixer=mixer))
    models = [make_model(config.model) for _ in range(2)]
    stack = StackedModels(models, [config] * 2, bfloat16=bfloat16)
    assert stack.vectorized
    tokens = torch.randint(2, (2, 3, 9))
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        alone = torch.stack([model(some) for model, some in zip(models, tokens, strict=True)])
    tolerance = 2e-2 if bfloat16 else 1e-5
    torch.testing.assert_close(stack(tokens).float(), alone.float(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.filterwarnings("ignore")  # compilers warn of their own affairs
def test_a_compiled_group_is_what_its_runs_are_alone(device, monkeypatch):
    if device == "cpu":  # the program that is compiled, without half a minute of compiling it to C++
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    configs = [replace(c, device=device, precision="float32") for c in unlike()]
    capture = True if device == "cuda" else None
    group = train_replicas([replace(c, compile=True) for c in configs], capture=capture, progress=False)
    # Of another size, which is compiled anew.
    train_replicas([replace(c, compile=True) for c in configs[:2]], progress=False)
    alone = [train(c, progress=False) for c in configs]
    assert_alike([replace(one, config=replace(one.config, compile=False)) for one in group], alone)


def test_projections_in_bfloat16_are_those_of_each_run():
    configs = unlike(precision="bfloat16", steps=4)
    group, alone = train_replicas(configs, progress=False), [train(c, progress=False) for c in configs]
    for one, other in zip(group, alone, strict=True):
        losses = [[row["loss"] for row in result.history] for result in (one, other)]
        assert losses[0] == pytest.approx(losses[1], rel=5e-3)
        assert {p.dtype for p in one.model.parameters()} == {torch.float32}


def test_lengths_that_grow_and_are_drawn_and_training_sets_are_those_of_each_run():
    for data in (
        TaskData(task=Permutation(length=9), start_length=3, min_length=2, test_lengths=(9,)),
        TaskData(task=Permutation(length=9), examples=20, test_lengths=(9,)),
    ):
        configs = unlike(data=replace(data, test_examples=16))
        assert_alike(train_replicas(configs, progress=False), [train(c, progress=False) for c in configs])


def test_batches_of_workers_are_those_of_the_process_itself():
    configs = unlike(data=TaskData(task=Permutation(length=30), min_length=3), batch_size=500)
    cpu = torch.device("cpu")
    for first in (0, 7):
        ours = list(stacked_batches(configs, first, cpu, workers=0))
        theirs = list(stacked_batches(configs, first, cpu, workers=2))
        assert len(ours) == len(theirs) == configs[0].steps - first
        for one, other in zip(ours, theirs, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_replica_that_diverges_is_frozen_and_told_and_the_others_do_not_notice():
    steady = unlike()
    # So large a step that logits overflow.
    wild = small(
        seed=5, optimizer=OptimizerConfig(learning_rate=1e38), schedule=ScheduleConfig(name="constant")
    )
    found = train_replicas([steady[0], wild, *steady[1:]], progress=False)
    assert found[1].status == "diverged" and found[1].scores == {} and found[1].step < 12
    assert all(row["step"] <= found[1].step for row in found[1].history)
    assert all(bool(p.isfinite().all()) for p in found[1].model.parameters())
    without = train_replicas(steady, progress=False)
    for one, other in zip([found[0], *found[2:]], without, strict=True):
        assert numbers(one.history) == numbers(other.history) and one.scores == other.scores


def test_a_group_of_which_all_diverge_stops():
    wild = small(optimizer=OptimizerConfig(learning_rate=1e38), schedule=ScheduleConfig(name="constant"))
    found = train_replicas([wild, replace(wild, seed=1)], progress=False)
    assert [r.status for r in found] == ["diverged"] * 2 and max(r.step for r in found) < 12


@dataclass(frozen=True, kw_only=True)
class Seldom(Counting):
    """Counting that asks nothing at all in some batches of training."""

    def generate(self, batch, length, random):
        inputs, targets = super().generate(batch, length, random)
        asks = batch != 8 or random.random() < 0.5
        return inputs, targets if asks else np.full_like(targets, IGNORED)


def test_a_batch_in_which_nothing_is_asked_changes_as_much_in_a_group_as_alone(monkeypatch):
    monkeypatch.setitem(TASKS, "seldom", Seldom)
    runs = unlike(data=TaskData(task=Seldom(length=8), test_lengths=(8,), test_examples=32))
    batches = [
        open_source(run.data).batch(step, batch_size=8, seed=run.seed, steps=12)
        for run in runs for step in range(12)
    ]  # fmt: skip
    assert 0 < sum(bool((batch.targets == IGNORED).all()) for batch in batches) < len(batches)
    assert_alike(train_replicas(runs, progress=False), [train(run, progress=False) for run in runs])


def noisy() -> ModelConfig:
    base = small().model
    return replace(base, mixer=replace(base.mixer, gate_noise=1.0))


@pytest.mark.parametrize("noise", [False, True], ids=["quiet", "noisy"])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_group_goes_on_as_if_it_never_stopped(tmp_path, device, noise):
    configs = unlike(device=device, evaluate_every=6, **({"model": noisy()} if noise else {}))
    whole = train_replicas(configs, out=tmp_path / "whole", progress=False)
    stopped = train_replicas(configs, out=tmp_path / "run", observers=[At(5, terminate)], progress=False)
    assert {r.status for r in stopped} == {"interrupted"} and {r.step for r in stopped} == {5}
    resumed = train_replicas(configs, out=tmp_path / "run", resume=True, progress=False)
    again = train_replicas(configs, out=tmp_path / "run", resume=True, progress=False)
    for found in (resumed, again):
        for one, other in zip(found, whole, strict=True):
            assert numbers(one.history) == numbers(other.history)
            assert (one.evaluations, one.scores) == (other.evaluations, other.scores)
    results = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [r["scores"] for r in results] == [r.scores for r in whole]


def test_replicas_draw_their_own_noise():
    one = small(model=noisy())
    found = train_replicas([one, one], progress=False)
    assert numbers(found[0].history) != numbers(found[1].history)


def test_time_that_is_over_stops_a_group_which_can_go_on(tmp_path):
    configs = unlike()
    stopped = train_replicas(configs, out=tmp_path, time_limit=0.0, progress=False)
    assert {(r.status, r.step) for r in stopped} == {("interrupted", 1)}
    resumed = train_replicas(configs, out=tmp_path, resume=True, progress=False)
    assert_alike(resumed, train_replicas(configs, progress=False), rel=1e-7)


def test_what_saves_memory_alone_changes_nothing():
    base = small().model
    saving = replace(base, gradient_checkpointing=True, mixer=replace(base.mixer, recompute_gates=True))
    configs = unlike(model=saving)
    assert_alike(train_replicas(configs, progress=False), [train(c, progress=False) for c in configs])


def test_a_limit_counts_the_time_of_evaluations(tmp_path, monkeypatch):
    monkeypatch.setattr(replica_group, "evaluate", lambda *_: time.sleep(0.2) or {"accuracy_at_8": 0.5})
    stopped = train_replicas(unlike(evaluate_every=1), out=tmp_path, time_limit=0.5, progress=False)
    assert {(r.status, r.step) for r in stopped} == {("interrupted", 1)}
    assert max(r.seconds for r in stopped) < 0.5  # which the time of training leaves out


def test_a_row_counts_the_time_in_which_a_device_is_waited_for(monkeypatch):
    take = StackedModels.take_sums
    monkeypatch.setattr(StackedModels, "take_sums", lambda stack: time.sleep(0.2) or take(stack))
    results = train_replicas(unlike(steps=2, log_every=1), progress=False)
    for result in results:
        first, last = (row["seconds"] for row in result.history)
        assert first >= 0.2 and last >= first + 0.2 and result.seconds == last


def test_a_group_whose_lengths_are_lists_goes_on_as_a_run_does(tmp_path):
    def runs():
        return [small(seed=s, data=TaskData(test_lengths=[8, 16], test_examples=8)) for s in (0, 1)]

    before = train_replicas(runs(), out=tmp_path / "group", progress=False)
    after = train_replicas(runs(), out=tmp_path / "group", resume=True, progress=False)
    assert [result.scores for result in after] == [result.scores for result in before]


def test_an_occupied_folder_and_another_group_are_refused(tmp_path):
    configs = unlike(steps=2)
    train_replicas(configs, out=tmp_path, progress=False)
    with pytest.raises(RunFolderError, match="no run is written over"):
        train_replicas(configs, out=tmp_path, progress=False)
    with pytest.raises(RunFolderError, match="it holds other replicas"):
        train_replicas(configs[:2], out=tmp_path, resume=True, progress=False)


def test_a_group_that_was_killed_while_its_folder_was_made_goes_on(tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    configs = unlike(steps=2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(replica_group, "write_json", killed)
        train_replicas(configs, out=tmp_path, progress=False)
    assert (tmp_path / "config.json").is_file() and not (tmp_path / replica_group.REPLICAS).exists()
    resumed = train_replicas(configs, out=tmp_path, resume=True, progress=False)
    assert_alike(resumed, train_replicas(configs, progress=False), rel=1e-7)
    with pytest.raises(RunFolderError, match="it holds other replicas"):
        train_replicas(configs[:2], out=tmp_path, resume=True, progress=False)


def test_configs_that_cannot_be_one_group_are_named():
    with pytest.raises(ValueError, match="got steps: 12 and 13: train them in groups"):
        train_replicas([small(), small(steps=13)])
    with pytest.raises(ValueError, match="at least one run"):
        train_replicas([])


def test_a_cpu_captures_nothing():
    with pytest.raises(ValueError, match="capture needs a CUDA device"):
        train_replicas([small(device="cpu")], capture=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_step_is_the_step():
    configs = unlike(device="cuda", precision="float32", steps=30)
    captured, eager = (train_replicas(configs, capture=c, progress=False) for c in (True, False))
    for one, other in zip(captured, eager, strict=True):
        assert numbers(one.history) == numbers(other.history) and one.scores == other.scores
    assert_alike(captured, [train(c, progress=False) for c in configs], rel=5e-3)
