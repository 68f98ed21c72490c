"""Groups and their words, against arrangements of real things moved one by one."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemix.tasks import Permutation, group, make

GROUPS = ["S2", "S3", "S4", "S5", "A3", "A4", "A5", "Z2", "Z7", "Z60"]
ORDERS = {"S2": 2, "S3": 6, "S4": 24, "S5": 120, "A3": 3, "A4": 12, "A5": 60, "Z2": 2, "Z7": 7, "Z60": 60}


def permutations_of(name: str) -> list[tuple[int, ...]]:
    """Elements as image tuples, numbered as documented; even ones by the sign of their matrix."""
    size = int(name[1:])
    found = sorted(itertools.permutations(range(size)))
    if name[0] == "A":
        found = [p for p in found if round(np.linalg.det(np.eye(size)[list(p)])) == 1]
    return found


def products(name: str, word: list[int]) -> list[int]:
    """The product after each letter, by moving things about."""
    if name[0] == "Z":
        return [sum(word[: t + 1]) % int(name[1:]) for t in range(len(word))]
    elements = permutations_of(name)
    where = {thing: thing for thing in range(int(name[1:]))}
    answers = []
    for letter in word:
        where = {thing: elements[letter][place] for thing, place in where.items()}
        answers.append(elements.index(tuple(where[thing] for thing in sorted(where))))
    return answers


@pytest.mark.parametrize("name", GROUPS)
def test_targets_are_the_products_so_far(name):
    inputs, targets = Permutation(group=name, length=20).sample(8, seed=3)
    for word, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert answers == products(name, word)


@pytest.mark.parametrize("name", ["S2", "S4", "A5", "Z7"])
def test_generators_give_the_products_of_the_elements_they_stand_for(name):
    task = Permutation(group=name, length=30, tokens="generators")
    inputs, targets = task.sample(8, seed=5)
    letters = group(name).generators[inputs.numpy()]
    assert [products(name, word) for word in letters.tolist()] == targets.tolist()
    assert inputs.max() == task.vocab_size - 1


@pytest.mark.parametrize("name", GROUPS)
def test_generators_reach_the_whole_group(name):
    table = group(name)
    reached = {0}
    while True:
        more = reached | {int(table.product[g, x]) for g in table.generators for x in reached}
        if more == reached:
            break
        reached = more
    assert len(reached) == table.order == ORDERS[name]


@given(name=st.sampled_from(GROUPS), data=st.data())
def test_a_table_is_a_group(name, data):
    table = group(name)
    a, b, c = (data.draw(st.integers(0, table.order - 1)) for _ in range(3))
    product = table.product
    assert product[product[a, b], c] == product[a, product[b, c]]
    assert product[0, a] == product[a, 0] == a
    assert sorted(product[a]) == sorted(product[:, a]) == list(range(table.order))


def test_elements_come_in_equally_often():
    inputs, targets = Permutation(group="S3", length=100).sample(600, seed=1)
    for tokens in (inputs, targets):
        counts = np.bincount(tokens.flatten().numpy(), minlength=6)
        # 60,000 draws of probability 1/6: standard deviation 91.
        assert np.abs(counts - 10_000).max() < 500


@pytest.mark.parametrize("name", ["Q8", "S", "S1", "A2", "Z1", "s3", ""])
def test_an_unknown_group_lists_the_nearest(name):
    with pytest.raises(ValueError, match=r"no group .*nearest: .*S3|no group .*nearest: .*[SAZ]\d"):
        group(name)


def test_a_group_too_large_for_a_table_is_refused():
    with pytest.raises(
        ValueError, match="S21 has more than 2432902008176640000 elements; the largest allowed"
    ):
        group("S21")
    with pytest.raises(ValueError, match="S9 has 362880 elements; the largest allowed has 1000"):
        Permutation(group="S9")


@pytest.mark.parametrize("name", ["A5", "S5", "S4"])
@pytest.mark.parametrize("count", [2, 4, 8, 12, 23])
def test_drawn_generators_reach_the_whole_group_and_stay(name, count):
    task = make("word-problem", group=name, num_generators=count, length=20)
    letters = task.alphabet()
    assert len(set(letters.tolist())) == count == task.vocab_size and 0 not in letters
    elements = permutations_of(name)
    reached, newest = {elements[0]}, {elements[0]}
    while newest:
        moved = {tuple(elements[g][x] for x in p) for g in letters for p in newest}
        newest = moved - reached
        reached |= newest
    assert len(reached) == ORDERS[name]
    assert (make("word-problem", group=name, num_generators=count).alphabet() == letters).all()
    inputs, targets = task.sample(3, seed=1)
    assert [products(name, word) for word in letters[inputs.numpy()].tolist()] == targets.tolist()


def test_another_seed_draws_other_generators():
    drawn = {tuple(make("word-problem", generator_seed=seed).alphabet().tolist()) for seed in range(10)}
    assert len(drawn) > 5


@pytest.mark.parametrize("length", [1, 2, 3, 31, 32, 33, 200])
def test_products_are_right_at_any_length(length):
    inputs, targets = Permutation(group="A5", length=length).sample(2, seed=length)
    for word, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert answers == products("A5", word)


def test_elements_are_written_as_what_they_do():
    task = Permutation(group="S3")
    assert [task.token_name(i) for i in range(6)] == ["012", "021", "102", "120", "201", "210"]
    assert Permutation(group="Z12").answer_name(11) == "11"


def test_an_immense_group_is_refused_at_once():
    with pytest.raises(ValueError, match="the largest allowed has 1000"):
        group("S100000000")
