"""The catalogue, counting, and streams of batches."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statemix.tasks import IGNORED, SPLITS, TASKS, Counting, make, name_of, stream


@given(
    modulus=st.integers(2, 7), symbols=st.integers(2, 5), length=st.integers(1, 40), seed=st.integers(0, 99)
)
def test_counting_asks_for_the_sum_so_far(modulus, symbols, length, seed):
    task = make("counting", modulus=modulus, symbols=symbols, length=length)
    inputs, targets = task.sample(3, seed)
    assert inputs.shape == targets.shape == (3, length)
    assert inputs.dtype == targets.dtype == torch.int64
    assert int(inputs.max()) < task.vocab_size == symbols
    assert task.output_size == modulus
    for numbers, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
        total = 0
        for number, answer in zip(numbers, answers, strict=True):
            total = (total + number) % modulus
            assert answer == total


def test_parity_asked_at_the_end_is_asked_nowhere_else():
    inputs, targets = make("counting", length=9, asked="last").sample(50, seed=2)
    assert (targets[:, :-1] == IGNORED).all()
    assert (targets[:, -1] == inputs.sum(1) % 2).all()


@pytest.mark.parametrize("name", TASKS)
def test_every_task_keeps_its_promises(name):
    task = make(name, length=17)
    assert name_of(task) == name
    first, again = task.sample(5, 7, step=3), task.with_length(17).sample(5, 7, step=3)
    assert (first.inputs == again.inputs).all() and (first.targets == again.targets).all()
    assert first.inputs.shape == first.targets.shape == (5, 17)
    assert int(first.inputs.min()) >= 0 and int(first.inputs.max()) < task.vocab_size
    for other in (
        task.sample(5, 8, step=3),
        task.sample(5, 7, step=4),
        task.sample(5, 7, step=3, split="test"),
    ):
        assert (first.inputs != other.inputs).any()
    with pytest.raises(ValueError, match="length must be at least 1; got 0"):
        make(name, length=0)


def test_an_unknown_task_lists_the_nearest():
    with pytest.raises(ValueError, match="no task 'permutations'; nearest: permutation"):
        make("permutations")


@pytest.mark.parametrize("field", ["modulus", "symbols"])
def test_counting_refuses_what_cannot_count(field):
    with pytest.raises(ValueError, match=f"{field} must be at least 2; got 1"):
        Counting(**{field: 1})


def test_no_two_streams_share_a_number():
    """64-bit numbers: two of 48 x 500 drawn independently coincide once in 6e10 tries."""
    names = [(seed, split, step) for seed in (0, 1) for split in SPLITS for step in range(8)]
    drawn = np.concatenate([stream(*name).bit_generator.random_raw(500) for name in names])
    assert len(np.unique(drawn)) == len(drawn)


def test_a_stream_refuses_what_has_no_name():
    with pytest.raises(ValueError, match="split must be one of"):
        stream(0, "training")
    with pytest.raises(ValueError, match="at least 0; got 0 and -1"):
        stream(0, "train", -1)
