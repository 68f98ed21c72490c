"""Fixed training sets, lengths that are drawn, and test lengths in bins."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from statemix.models import MixerConfig, ModelConfig
from statemix.tasks import IGNORED, Counting, Permutation, make
from statemix.training import (
    RunConfig,
    TaskData,
    evaluate,
    from_json,
    open_source,
    task_accuracy,
    to_json,
    train,
)

from .small import At, numbers, small, terminate


def batches(data: TaskData, count: int, *, batch_size: int = 4, seed: int = 0) -> list[torch.Tensor]:
    source = open_source(data)
    return [source.batch(i, batch_size=batch_size, seed=seed, steps=count).inputs for i in range(count)]


def rows(tensors: list[torch.Tensor]) -> list[tuple[int, ...]]:
    return sorted(tuple(row) for tensor in tensors for row in tensor.tolist())


def test_an_epoch_reads_every_example_once_and_the_next_one_shuffles_anew():
    data = TaskData(task=Permutation(length=9), examples=12)
    first, second = (batches(data, 6)[part] for part in (slice(0, 3), slice(3, 6)))
    assert rows(first) == rows(second) == rows([data.task.sample(12).inputs])
    assert not torch.equal(torch.cat(first), torch.cat(second))


def test_what_does_not_fill_a_batch_is_another_batch_of_another_epoch():
    data = TaskData(task=Permutation(length=9), examples=11)
    for epoch in range(3):
        seen = rows(batches(data, 6)[2 * epoch : 2 * epoch + 2])
        assert len(set(seen)) == 8 and set(seen) <= set(rows([data.task.sample(11).inputs]))


def test_a_training_set_belongs_to_a_seed_and_a_batch_to_a_step():
    data = TaskData(task=Permutation(length=9), examples=12)
    assert rows(batches(data, 3)) != rows(batches(data, 3, seed=1))
    alone = open_source(data).batch(4, batch_size=4, seed=0, steps=6).inputs
    assert torch.equal(alone, batches(data, 6)[4])


def test_no_test_or_validation_example_is_trained_on():
    data = TaskData(task=Permutation(length=24), examples=64)
    trained = set(rows(batches(data, 8, batch_size=8)))
    for split in ("validation", "test"):
        assert not trained & set(rows([data.task.sample(256, split=split).inputs]))


def test_a_training_set_smaller_than_a_batch_is_refused():
    with pytest.raises(ValueError, match="a batch of 8 does not fit a training set of 5"):
        batches(TaskData(examples=5), 1, batch_size=8)


def test_lengths_are_drawn_between_both_ends_whatever_the_seed():
    data = TaskData(task=Counting(length=9), min_length=3)
    lengths = [batch.shape[1] for batch in batches(data, 200)]
    assert set(lengths) == set(range(3, 10))
    # Uniform over 7: of 200, each comes 28.6 times with a standard deviation of 5.
    assert all(10 <= lengths.count(length) <= 50 for length in range(3, 10))
    assert [batch.shape[1] for batch in batches(data, 200, seed=5)] == lengths


def test_drawn_lengths_follow_the_curriculum():
    data = TaskData(task=Counting(length=20), start_length=4, min_length=3, growing_share=0.5)
    lengths = [batch.shape[1] for batch in batches(data, 400)]
    assert set(lengths[:10]) <= {3, 4} and max(lengths[200:]) == 20 and min(lengths) == 3
    assert all(length <= 4 + 16 * step / 200 for step, length in enumerate(lengths[:200]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_length": 33}, "min_length must lie between 1 and 32"),
        ({"min_length": 5, "start_length": 4}, "min_length must lie between 1 and 4"),
        ({"test_bins": ((5, 4),)}, r"test_bins must be a tuple of pairs .*; got \(\(5, 4\),\)"),
        ({"test_bins": ((5,),)}, r"test_bins must be a tuple of pairs .*; got \(\(5,\),\)"),
        ({"test_bins": (5, 6)}, r"test_bins must be a tuple of pairs .* \(\(41, 256\),\); got \(5, 6\)"),
        ({"test_bins": (("a", 6),)}, "test_bins must be an integer of at least 1; got 'a'"),
        ({"test_lengths": (8.5,)}, r"test_lengths must be an integer of at least 1; got 8\.5"),
        ({"test_examples": "a"}, "test_examples must be an integer of at least 1; got 'a'"),
        ({"start_length": "a"}, "start_length must be an integer of at least 1; got 'a'"),
        ({"growing_share": "a"}, r"growing_share must be in \(0, 1\]; got 'a'"),
        ({"labels": "evry"}, "labels must be one of .*; got 'evry'; nearest: every"),
        ({"examples": 0}, "examples must be an integer of at least 1; got 0"),
        ({"examples": 8, "min_length": 4}, "has one length"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TaskData(**settings)


def test_bins_survive_json():
    config = small(data=TaskData(test_bins=((3, 40), (41, 256))))
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_numbers_of_numpy_are_written_as_numbers():
    share, length = np.float32(0.25), np.int64(16)
    task = make("noisy-recall", length=length, noise=share, multi_query=True)
    mixer = MixerConfig(block_size=np.int64(2), selective=np.bool_(True))
    data = TaskData(task=task, test_lengths=(length, 32), test_examples=np.int64(4))
    config = RunConfig(model=ModelConfig(d_model=8, mixer=mixer), data=data)
    plain = replace(
        config,
        model=ModelConfig(d_model=8, mixer=MixerConfig(block_size=2)),
        data=TaskData(
            task=make("noisy-recall", length=16, noise=0.25), test_lengths=(16, 32), test_examples=4
        ),
    )
    assert json.dumps(to_json(config)) == json.dumps(to_json(plain))


def test_a_bin_is_the_mean_over_its_lengths():
    result = train(small(steps=30), progress=False)
    data = replace(result.config.data, test_lengths=(), test_bins=((4, 7),), test_examples=64)
    found = evaluate(result.model, open_source(data))["accuracy_4_to_7"]
    lengths = [task_accuracy(result.model, data.task.with_length(n), 16) for n in (4, 5, 6, 7)]
    assert found == pytest.approx(sum(lengths) / 4)


def test_a_run_on_a_training_set_goes_on_as_if_it_never_stopped(tmp_path):
    config = small(data=replace(small().data, examples=20))
    whole = train(config, progress=False)
    train(config, out=tmp_path / "run", observers=[At(5, terminate)], progress=False)
    resumed = train(config, out=tmp_path / "run", resume=True, progress=False)
    assert numbers(resumed.history) == numbers(whole.history)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test_lengths": 8}, r"data: test_lengths must be a tuple of integers; got 8: write \(8,\)"),
        (
            {"task": "permutation"},
            r"data: task must be a Task; got 'permutation': write statemix\.tasks\.make\(",
        ),
    ],
)
def test_settings_of_another_kind_come_with_what_to_write(settings, message):
    with pytest.raises(TypeError, match=message):
        TaskData(**settings)


def test_labels_at_every_step_are_for_training_alone():
    task = make("cycle-navigation", length=9)
    data = TaskData(task=task, labels="every", test_lengths=(9,))
    batch = open_source(data).batch(3, batch_size=5, seed=0, steps=9)
    assert bool((batch.targets == (batch.inputs - 1).cumsum(1) % 5).all())
    assert bool((task.sample(5, split="test").targets[:, :-1] == IGNORED).all())
    assert data.task == task
    with pytest.raises(ValueError, match="has no answer at every step"):
        TaskData(task=make("in-context-recall"), labels="every")


def test_without_test_lengths_tests_have_the_trained_one_unless_they_have_ranges():
    task = make("counting", length=12)
    assert TaskData(task=task, test_lengths=()).tested_lengths == (12,)
    assert TaskData(task=task, test_lengths=(), test_bins=((2, 4),)).tested_lengths == ()
    assert TaskData(task=task, test_lengths=(3, 40)).tested_lengths == (3, 40)


def test_lengths_that_a_task_does_not_have_are_refused_before_training():
    task = make("stack-manipulation", length=20)
    shortest = task.minimum_length
    for settings in (
        {"min_length": shortest - 1},
        {"test_lengths": (shortest - 1, 40)},
        {"test_bins": ((1, 40),)},
    ):
        with pytest.raises(ValueError, match=f"no sequences shorter than {shortest}; got length"):
            TaskData(task=task, **{"test_lengths": (40,), **settings})


def test_a_task_of_one_vector_asks_for_an_autoencoder():
    data = TaskData(task=make("compression", length=8), test_lengths=(8,))
    with pytest.raises(
        ValueError, match=r"Compression is read back from one vector.*architecture to autoencoder"
    ):
        RunConfig(data=data)
    assert RunConfig(data=data, model=ModelConfig(architecture="autoencoder")).data is data
