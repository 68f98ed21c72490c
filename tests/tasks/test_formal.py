"""Formal languages, against solvers in plain Python that follow the definitions."""

import itertools

import numpy as np
import pytest

from statemix.tasks import IGNORED, make

LENGTHS = [1, 2, 3, 4, 5, 8, 17, 40]


def rows(batch):
    return zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True)


def lengths_of(name, **settings):
    shortest = make(name, **settings).minimum_length
    return [shortest + extra for extra in (0, 1, 2, 3, 4, 7, 16, 39)]


def test_even_pairs_counts_both_kinds_of_pairs():
    for length in LENGTHS:
        for inputs, targets in rows(make("even-pairs", length=length, asked="every").sample(30, seed=1)):
            for end in range(length):
                text = "".join(map(str, inputs[: end + 1]))
                pairs = sum(text[i : i + 2] in ("01", "10") for i in range(end))
                assert targets[end] == pairs % 2


@pytest.mark.parametrize("cycle", [2, 5, 11])
def test_cycle_navigation_walks_on_a_circle(cycle):
    for length in LENGTHS:
        task = make("cycle-navigation", length=length, cycle=cycle, asked="every")
        for inputs, targets in rows(task.sample(30, seed=1)):
            circle, here = list(range(cycle)), 0
            for token, answer in zip(inputs, targets, strict=True):
                here = {0: here - 1, 1: here, 2: here + 1}[token]
                here = {-1: cycle - 1, cycle: 0}.get(here, here)
                assert answer == circle[here]


@pytest.mark.parametrize("equals", [False, True])
@pytest.mark.parametrize("operators", ["+-*", "*", "-", "+*"])
@pytest.mark.parametrize("modulus", [2, 5, 12])
def test_modular_arithmetic_agrees_with_the_precedence_of_python(modulus, operators, equals):
    task = make("modular-arithmetic", modulus=modulus, operators=operators, equals=equals, asked="every")
    for length in lengths_of("modular-arithmetic", equals=equals):
        asked_last = make("modular-arithmetic", **vars(task) | {"length": length, "asked": "last"})
        batch = task.with_length(length).sample(20, seed=3)
        ends = asked_last.sample(20, seed=3).targets.tolist()
        for (inputs, targets), end in zip(rows(batch), ends, strict=True):
            words = [task.token_name(token) for token in inputs]
            blanks = (length - equals + 1) % 2
            assert words[:blanks] == ["_"] * blanks and "_" not in words[blanks:]
            assert ("=" in words) == (words[-1] == "=") == equals
            wanted = [IGNORED] * length
            for place, word in enumerate(words):
                if word.isdigit():
                    assert int(word) == inputs[place]
                    value = eval("".join(words[blanks : place + 1])) % modulus
                    wanted[place] = value
            if equals:
                wanted[-1] = value
            assert targets == wanted
            assert end == [IGNORED] * (length - 1) + wanted[-1:]


@pytest.mark.parametrize(("modulus", "multiply"), [(2, True), (5, True), (5, False), (12, True)])
def test_brackets_agree_with_python(modulus, multiply):
    task = make("modular-arithmetic-brackets", modulus=modulus, multiply=multiply)
    for length in [*range(1, 16), 40, 97]:
        operators = set()
        for inputs, targets in rows(task.with_length(length).sample(40, seed=2)):
            words = [task.token_name(token) for token in inputs]
            assert targets[:-1] == [IGNORED] * (length - 1)
            # Two-digit numbers are one token each, and no number has a leading zero.
            assert targets[-1] == eval("".join(words)) % modulus
            operators |= {word for word in words if word in "+-*"}
        if length >= 40:
            assert operators == set("+-*" if multiply else "+-")


def test_brackets_split_their_tokens_uniformly():
    """(a o b) of 11 tokens: a has 1 to 7 of them, each as likely."""
    task = make("modular-arithmetic-brackets", length=11)
    counts = np.zeros(8, dtype=int)
    for inputs, _ in rows(task.sample(3500, seed=4)):
        words, depth = [task.token_name(token) for token in inputs], 0
        for place, word in enumerate(words):
            depth += {"(": 1, ")": -1}.get(word, 0)
            if depth == 1 and word in "+-*" and place > 1 and words[place - 1] not in "(+-*":
                counts[place - 1] += 1
    assert counts[0] == 0 and counts.sum() == 3500
    # 500 of each: standard deviation 21.
    assert np.abs(counts[1:] - 500).max() < 105


SOLVERS = {
    "reverse-string": lambda text: list(reversed(text)),
    "duplicate-string": lambda text: text + text,
    "odds-first": lambda text: (
        [s for i, s in enumerate(text) if i % 2] + [s for i, s in enumerate(text) if not i % 2]
    ),
    "bucket-sort": lambda text: [s for symbol in range(10) for s in text if s == symbol],
}


@pytest.mark.parametrize("symbols", [2, 7])
@pytest.mark.parametrize("name", SOLVERS)
def test_string_tasks_read_to_the_end_and_then_write(name, symbols):
    for length in lengths_of(name):
        task = make(name, length=length, symbols=symbols)
        for inputs, targets in rows(task.sample(20, seed=1)):
            text = list(itertools.takewhile(lambda token: token != symbols, inputs))
            assert inputs == text + [symbols] * (length - len(text))
            answer = SOLVERS[name](text)
            spare = length - len(text) - len(answer)
            assert targets == [IGNORED] * len(text) + answer + [IGNORED] * spare
            assert 0 <= spare <= len(answer) // len(text), "a longer string would have fitted"


def test_stack_manipulation_leaves_what_a_list_leaves():
    emptied = 0
    for length in lengths_of("stack-manipulation"):
        for inputs, targets in rows(make("stack-manipulation", length=length).sample(60, seed=5)):
            read = inputs.index(5)
            assert inputs[read:] == [5] * (length - read) and length - read - (read + 1) in (0, 1)
            assert inputs[0] < 2 <= inputs[read - 1], "a stack of one or more, then an action or more"
            assert sorted(inputs[:read], key=lambda token: token >= 2) == inputs[:read]
            stack = []
            for token in inputs[:read]:
                if token == 2:
                    emptied += not stack
                    stack = stack[:-1]
                else:
                    stack.append({0: 0, 1: 1, 3: 0, 4: 1}[token])
            answer = [*reversed(stack), 2]
            assert targets == [IGNORED] * read + answer + [IGNORED] * (length - read - len(answer))
    assert emptied > 0, "no pop of an empty stack was drawn"


@pytest.mark.parametrize(
    ("name", "sign", "operation"),
    [("binary-addition", "+", int.__add__), ("binary-multiplication", "*", int.__mul__)],
)
def test_binary_arithmetic_is_that_of_integers(name, sign, operation):
    longest = 0
    for length in [*lengths_of(name), 120]:
        for inputs, targets in rows(make(name, length=length).sample(60, seed=6)):
            text = "".join(f"01{sign}>"[token] for token in inputs)
            expression = text.rstrip(">")
            numbers = expression.split(sign)
            first, second = (int(number[::-1], 2) for number in numbers)
            assert first > 0 and second > 0
            answer = [int(bit) for bit in reversed(f"{operation(first, second):b}")] + [2]
            read = len(expression)
            assert length - 2 * read in (0, 1)
            assert targets == [IGNORED] * read + answer + [IGNORED] * (length - read - len(answer))
            longest += len(answer) == read
    assert longest, "no result was as long as one can be"


def test_numbers_above_zero_are_uniform():
    """Two numbers of one bit and of one to three bits, 1 each or uniform over 1 .. 2^bits - 1."""
    task = make("binary-addition", length=10)
    counts = {}
    for inputs, _ in rows(task.sample(3000, seed=1)):
        first = "".join(map(str, inputs[:5])).partition("2")[0]
        counts[first] = counts.get(first, 0) + 1
    bits = {size: {n: c for n, c in counts.items() if len(n) == size} for size in (1, 2, 3)}
    assert [len(numbers) for numbers in bits.values()] == [1, 3, 7]
    for size, numbers in bits.items():
        expected = 1000 / (2**size - 1)
        # 1000 of each size: standard deviations 26, 17 and 12.
        assert max(abs(count - expected) for count in numbers.values()) < 6 * expected**0.5


def test_square_roots_are_the_largest_whole_numbers_whose_square_fits():
    for length in [*lengths_of("square-root"), 100, 151]:
        for inputs, targets in rows(make("square-root", length=length).sample(40, seed=8)):
            text = "".join("01>"[token] for token in inputs).rstrip(">")
            width = (len(text) + 1) // 2
            assert 0 <= length - len(text) - width < 2
            answer = targets[len(text) : len(text) + width]
            root = int("".join(map(str, answer)), 2)
            assert root * root <= int(text, 2) < (root + 1) * (root + 1)
            assert targets[: len(text)] + targets[len(text) + width :] == [IGNORED] * (length - width)


@pytest.mark.parametrize("modulus", [2, 5, 12])
def test_the_hidden_number_is_the_only_one_that_solves_the_equation(modulus):
    places = set()
    for length in [*range(3, 16), 40]:
        task = make("solve-equation", modulus=modulus, length=length)
        for inputs, targets in rows(task.sample(30, seed=9)):
            words = [task.token_name(token) for token in inputs]
            assert words[-2] == "=" and words.count("x") == 1
            places.add(words.index("x"))
            solutions = [
                number
                for number in range(modulus)
                if eval("".join(str(number) if word == "x" else word for word in words[:-2])) % modulus
                == int(words[-1])
            ]
            assert targets == [IGNORED] * (length - 1) + solutions
    assert len(places) > 15


def test_missing_duplicate_hides_one_symbol_of_either_half():
    halves = set()
    for length in lengths_of("missing-duplicate"):
        for inputs, targets in rows(make("missing-duplicate", length=length).sample(60, seed=7)):
            assert (inputs[-1] == 3) == (length % 2 == 1)
            text = [token for token in inputs if token != 3]
            assert text.count(2) == 1
            hidden = text.index(2)
            halves.add(hidden < len(text) // 2)
            completions = [
                bit
                for bit in (0, 1)
                if (full := [*text[:hidden], bit, *text[hidden + 1 :]]) == full[: len(full) // 2] * 2
            ]
            assert targets == [IGNORED] * (length - 1) + completions
    assert halves == {True, False}
