"""The MAD tasks, against readers that walk through the sequences token by token."""

import itertools

import numpy as np
import pytest
import torch

from statemix.tasks import IGNORED, make

SEEDS = range(3)


def rows(batch):
    return zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True)


def read_pairs(task, inputs, lead=0):
    """(place of the key, key, value or None) of every pair that is not noise."""
    for place in range(lead, len(inputs), 2):
        key = inputs[place]
        if key < task.num_keys:
            yield place, key, inputs[place + 1] if place + 1 < len(inputs) else None


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("length", [3, 4, 31, 32, 128])
@pytest.mark.parametrize("name", ["in-context-recall", "noisy-recall"])
def test_a_repeated_key_asks_for_its_value(name, length, seed):
    task = make(name, length=length)
    for inputs, targets in rows(task.sample(40, seed)):
        known, wanted = {}, [IGNORED] * length
        for place, key, value in read_pairs(task, inputs):
            if key in known:
                wanted[place] = known[key]
                assert value in (None, known[key])
            elif value is not None:
                known[key] = value
        assert targets == wanted
        assert all(task.num_keys <= value < task.num_ordinary for value in known.values())
        last = length - 1 if length % 2 else length - 2
        assert targets[last] != IGNORED, "the last key did not come before"


@pytest.mark.parametrize("length", [4, 5, 31, 32, 128])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_single_query_asks_once_after_its_prefix(length, noise):
    task = make(
        "in-context-recall",
        length=length,
        multi_query=False,
        vocabulary=21,
        noise_vocabulary=4 if noise else 0,
        noise=noise,
    )
    for inputs, targets in rows(task.sample(60, seed=1)):
        assert inputs[-2] == 20 and inputs.count(20) == 1
        known = {}
        for _, key, value in read_pairs(task, inputs[:-2], lead=length % 2):
            assert known.setdefault(key, value) == value
        assert targets[:-1] == [IGNORED] * (length - 1)
        assert targets[-1] == known[inputs[-1]]


def test_noise_comes_as_often_as_asked_and_no_more():
    for noise in (0.2, 0.4, 0.8):
        inputs = make("noisy-recall", noise=noise).sample(400, seed=1).inputs[:, :126]
        is_noise = (inputs >= 16).double()
        # 63 pairs of 400 rows, one pair of each kept free: standard deviation below 0.004.
        assert abs(float(is_noise.mean()) - noise * 62 / 63) < 0.015
        assert torch.equal(is_noise[:, ::2], is_noise[:, 1::2])
        assert set(inputs[inputs >= 16].tolist()) == set(range(16, 32))


def test_values_are_drawn_anew_for_every_sequence_and_evenly():
    inputs, _ = make("in-context-recall").sample(2000, seed=3)
    keys, values = inputs[:, 0], inputs[:, 1] - 8
    counts = np.bincount(keys * 8 + values, minlength=64)
    # 2000 draws of 64 cells: 31 a cell, standard deviation 5.5.
    assert counts.min() > 8 and counts.max() < 60


def test_the_published_training_asks_for_every_next_token_and_its_tests_do_not():
    for name in ("in-context-recall", "noisy-recall", "fuzzy-recall"):
        asked, everything = make(name, full_keys="never") if name == "fuzzy-recall" else make(name), None
        everything = make(name, **({"full_keys": "never"} if name == "fuzzy-recall" else {}), train_on="next")
        inputs, targets = everything.sample(20, seed=4)
        plain = asked.sample(20, seed=4)
        assert torch.equal(inputs, plain.inputs)
        assert torch.equal(targets[:, :-1], inputs[:, 1:])
        assert torch.equal(targets[:, -1], plain.targets[:, -1])
        for split in ("validation", "test"):
            for one, other in zip(
                everything.sample(20, 4, split=split), asked.sample(20, 4, split=split), strict=True
            ):
                assert torch.equal(one, other)


def read_motifs(task, tokens):
    """(start, key, value) of every pair; a value ends where its kind of token ends."""
    kinds = ["key" if t < task.num_keys else "value" if t < task.num_ordinary else "other" for t in tokens]
    start = 0
    runs = []
    for kind, group in itertools.groupby(kinds):
        size = len(list(group))
        runs.append((kind, start, tuple(tokens[start : start + size])))
        start += size
    for (kind, place, key), (next_kind, _, value) in itertools.pairwise(runs):
        if kind == "key":
            assert next_kind == "value"
            yield place, key, value


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"vocabulary": 32, "length": 127},
        {"key_size": 1, "value_size": 1, "vocabulary": 9, "length": 20},
        {"key_size": 2, "value_size": 1, "vocabulary": 8, "length": 64},
        {"key_size": 1, "value_size": 3, "vocabulary": 12, "length": 64},
        {"multi_query": False, "length": 50, "key_size": 2},
        {"noise": 0.3, "vocabulary": 20, "noise_vocabulary": 4, "key_size": 1},
        {"noise": 0.3, "vocabulary": 20, "noise_vocabulary": 4, "multi_query": False, "length": 12},
    ],
    ids=str,
)
def test_a_repeated_motif_asks_for_each_token_of_its_value(settings, split):
    task = make("fuzzy-recall", **settings)
    pad = task.num_ordinary + task.noise_vocabulary
    repeats = 0
    for inputs, targets in rows(task.sample(60, seed=2, split=split)):
        assert targets[-1] != IGNORED, "the last token of the last value is asked for"
        tokens = [*inputs, targets[-1]]
        padding = len(list(itertools.takewhile(lambda token: token == pad, tokens)))
        assert pad not in tokens[padding:]
        if task.multi_query:
            assert padding <= task.key_size + task.value_size + task.key_size + task.value_size
        else:
            assert tokens.count(task.vocabulary - 1) == 1
        known, wanted, pairs = {}, [IGNORED] * len(tokens), list(read_motifs(task, tokens))
        for number, (place, key, value) in enumerate(pairs):
            assert len(key) == task.key_size if split == "test" else len(key) <= task.key_size
            assert len(value) <= task.value_size
            assert len(set(key)) == len(key) and len(set(value)) == len(value)
            is_last = number == len(pairs) - 1
            assert known.setdefault(key, value) == value
            is_known = any(other == key for _, other, _ in pairs[:number])
            assert is_known or not is_last
            if is_known and (task.multi_query or is_last):
                repeats += 1
                wanted[place + len(key) : place + len(key) + len(value)] = value
        assert targets == wanted[1:]
        if not task.multi_query:
            assert tokens[pairs[-1][0] - 1] == task.vocabulary - 1
    assert repeats >= 60


def test_motifs_of_each_size_are_uniform():
    """Keys of two of three tokens: 3 + 6 motifs, each size half of the time."""
    task = make("fuzzy-recall", vocabulary=7, key_size=2, value_size=1, length=60)
    seen = {}
    for inputs, targets in rows(task.sample(400, seed=1)):
        # The query is another draw; what was cut off for want of room favours short keys at the end.
        for _, key, _ in list(read_motifs(task, [*inputs, targets[-1]]))[:8]:
            seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 9
    for key, count in seen.items():
        share = {1: 1 / 6, 2: 1 / 12}[len(key)]
        # 3200 draws: standard deviation of a share at most 0.0066.
        assert abs(count / 3200 - share) < 0.035


@pytest.mark.parametrize(
    "settings", [{}, {"length": 40}, {"num_copied": 3, "length": 7}, {"selective": False}]
)
def test_copying_asks_for_the_tokens_in_order(settings):
    task = make("selective-copying", **settings)
    blank, sign, count = task.vocabulary - 2, task.vocabulary - 1, task.num_copied
    for inputs, targets in rows(task.sample(60, seed=3)):
        context = inputs[: inputs.index(sign)]
        content = [token for token in context if token != blank]
        assert len(content) == count
        assert inputs[len(context) + 1 :] == [blank] * count
        assert targets == [IGNORED] * (len(context) + 1) + content
        if task.selective:
            assert context[-1] != blank
        else:
            assert context[:count] == content


def test_blanks_fall_before_each_token_equally_often():
    task = make("selective-copying", num_copied=4, length=49)
    inputs, _ = task.sample(500, seed=1)
    places = [[t for t, token in enumerate(row[:44]) if token != 14] for row in inputs.tolist()]
    gaps = np.diff(np.array(places), axis=1, prepend=-1) - 1
    # 40 blanks over 4 gaps: 10 a gap with variance 7.5, the mean of 500 within 0.13.
    assert np.abs(gaps.mean(0) - 10).max() < 0.6
    assert np.abs(gaps.var(0) - 7.5).max() < 2.5


def test_compression_asks_for_every_token_at_its_own_place():
    for inputs, targets in rows(make("compression").sample(50, seed=1)):
        assert inputs[-1] == 15 and 15 not in inputs[:-1]
        assert targets == [*inputs[:-1], IGNORED]
    for inputs, targets in rows(make("compression", ask_sign=True).sample(5, seed=1)):
        assert targets == inputs
    noisy = make("compression", vocabulary=20, noise_vocabulary=4, noise=0.3)
    batch = noisy.sample(300, seed=1)
    for inputs, targets in rows(batch):
        assert targets == [*(t if t < 15 else IGNORED for t in inputs[:-1]), IGNORED]
    noise = (batch.inputs[:, :-1] >= 15).double().mean()
    assert abs(float(noise) - 0.3 * 30 / 31) < 0.03


@pytest.mark.parametrize(
    "settings", [{}, {"length": 9}, {"vocabulary": 40, "noise_vocabulary": 5, "noise": 0.4}]
)
def test_one_dictionary_holds_for_every_split_seed_and_length(settings):
    task = make("memorization", **settings)
    sign, known, noise = task.vocabulary - 1, {}, 0
    for seed, split, length in itertools.product((0, 1), ("train", "validation", "test"), (task.length, 12)):
        for inputs, targets in rows(task.with_length(length).sample(60, seed, split=split)):
            wanted = [IGNORED] * length
            for place, token in enumerate(inputs):
                if token == sign:
                    key = inputs[place - 1]
                    wanted[place] = targets[place]
                    assert key < task.num_keys
                    assert known.setdefault(key, targets[place]) == targets[place]
                noise += task.num_ordinary <= token < sign
            assert targets == wanted
    assert sorted(known) == list(range(task.num_keys)), "every key comes up"
    assert len(set(known.values())) == len(known), "no two keys share a value"
    assert all(task.num_keys <= value < task.num_ordinary for value in known.values())
    assert (noise > 0) == (task.noise > 0)
    assert task.dictionary().tolist() == [known[key] for key in sorted(known)]


def test_the_dictionary_follows_its_own_seed():
    one, other = (make("memorization", dictionary_seed=seed) for seed in (0, 1))
    assert (one.dictionary() != other.dictionary()).mean() > 0.9
    assert torch.equal(one.sample(4).inputs, other.sample(4).inputs)
