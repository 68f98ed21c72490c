"""The one table from the name of a task to what generates it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from statemix.names import nearest, unknown_name

from .binary_addition import BinaryAddition
from .binary_multiplication import BinaryMultiplication
from .bucket_sort import BucketSort
from .compression import Compression
from .copying import SelectiveCopying
from .counting import Counting
from .cycle_navigation import CycleNavigation
from .duplicate_string import DuplicateString
from .even_pairs import EvenPairs
from .fuzzy_recall import FuzzyRecall
from .memorization import Memorization
from .missing_duplicate import MissingDuplicate
from .modular_arithmetic import ModularArithmetic
from .modular_arithmetic_brackets import ModularArithmeticBrackets
from .odds_first import OddsFirst
from .permutation import Permutation
from .recall import InContextRecall
from .reverse_string import ReverseString
from .solve_equation import SolveEquation
from .square_root import SquareRoot
from .stack_manipulation import StackManipulation
from .task import Task

MAD = "Poli et al. 2024, arXiv 2403.17844"
WORDS = "Merrill et al. 2024, arXiv 2404.08819"
CHOMSKY = "Deletang et al. 2023, arXiv 2207.02098"

_VOCABULARIES = (32, 64, 128)
_LENGTHS = (256, 512, 1024)
_FEWER = (6400, 3200, 1600, 800)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A name in the catalog: a class, and the settings in which it differs from the class's defaults."""

    kind: type[Task]
    """What generates it."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the name stands for."""

    asks: str
    """What is asked, in a line."""

    source: str
    """Who asked it first."""

    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """What makes it harder: values of a setting besides the default, one changed at a time."""

    examples: int | None = None
    """Size of the source's training set; None where every batch is new."""

    fewer_examples: tuple[int, ...] = ()
    """Sizes of smaller training sets, an axis of difficulty that training has and not the task."""

    small: Mapping[str, Any] = field(default_factory=dict)
    """Settings under which a sample fits on a line."""


CATALOG: dict[str, Entry] = {
    "in-context-recall": Entry(
        kind=InContextRecall,
        asks="the value that came with a key, when the key comes again",
        source=MAD,
        axes={"vocabulary": _VOCABULARIES, "length": _LENGTHS},
        examples=12_800,
        fewer_examples=_FEWER,
        small={"vocabulary": 6, "length": 16},
    ),
    "fuzzy-recall": Entry(
        kind=FuzzyRecall,
        asks="the same where keys and values are motifs of 1 to 3 tokens",
        source=MAD,
        axes={"vocabulary": _VOCABULARIES, "length": _LENGTHS, "key_size": (1, 2), "value_size": (1, 2)},
        examples=12_800,
        fewer_examples=_FEWER,
        small={"vocabulary": 7, "length": 16, "key_size": 2, "value_size": 2},
    ),
    "noisy-recall": Entry(
        kind=InContextRecall,
        settings={"vocabulary": 32, "noise_vocabulary": 16, "noise": 0.2},
        asks="the same with pairs of noise tokens in between",
        source=MAD,
        axes={"vocabulary": (48, 80, 144), "length": _LENGTHS, "noise": (0.4, 0.6, 0.8)},
        examples=12_800,
        fewer_examples=_FEWER,
        small={"vocabulary": 8, "noise_vocabulary": 2, "length": 16, "noise": 0.4},
    ),
    "selective-copying": Entry(
        kind=SelectiveCopying,
        asks="the tokens that lay among blanks, in order",
        source=MAD,
        axes={"vocabulary": _VOCABULARIES, "length": (512, 1024), "num_copied": (32, 64, 96)},
        examples=12_800,
        fewer_examples=_FEWER,
        small={"length": 16, "num_copied": 4},
    ),
    "compression": Entry(
        kind=Compression,
        asks="every token, from one vector at the end (an autoencoder)",
        source=MAD,
        axes={"vocabulary": _VOCABULARIES, "length": (64, 128, 256)},
        examples=12_800,
        fewer_examples=_FEWER,
        small={"length": 12},
    ),
    "memorization": Entry(
        kind=Memorization,
        asks="the value of a key in a fixed dictionary that is never shown",
        source=MAD,
        axes={"vocabulary": (512, 1024, 2048, 4096, 8192)},
        examples=256,
        small={"vocabulary": 13, "length": 12},
    ),
    "permutation": Entry(
        kind=Permutation,
        asks="the product so far of elements of a group",
        source=WORDS,
        axes={"group": ("S2", "S4", "S5", "A4", "A5", "Z60")},
        small={"length": 12},
    ),
    "word-problem": Entry(
        kind=Permutation,
        settings={"group": "A5", "tokens": "generators", "num_generators": 4, "length": 40},
        asks="the same where only a few elements, which generate the group, come in",
        source=WORDS,
        axes={"group": ("S3", "S4", "S5"), "num_generators": (2, 8, 12, 32)},
        small={"length": 12},
    ),
    "counting": Entry(
        kind=Counting,
        asks="the sum so far of numbers, modulo another",
        source=CHOMSKY,
        axes={"modulus": (3, 5, 7), "symbols": (3, 5)},
        small={"length": 16},
    ),
    "parity": Entry(
        kind=Counting,
        settings={"modulus": 2, "symbols": 2, "length": 40, "asked": "last"},
        asks="whether the ones are odd in number",
        source=CHOMSKY,
        small={"length": 16},
    ),
    "even-pairs": Entry(
        kind=EvenPairs,
        asks="whether the pairs 01 and 10 are odd in number",
        source=CHOMSKY,
        small={"length": 16},
    ),
    "cycle-navigation": Entry(
        kind=CycleNavigation,
        asks="the place on a circle after steps to either side",
        source=CHOMSKY,
        axes={"cycle": (3, 7, 11)},
        small={"length": 16},
    ),
    "modular-arithmetic": Entry(
        kind=ModularArithmetic,
        asks="the value of an expression in + - *, modulo 5",
        source=CHOMSKY,
        axes={"modulus": (2, 3, 7, 11), "operators": ("+", "+-", "+*")},
        small={"length": 15},
    ),
    "modular-arithmetic-brackets": Entry(
        kind=ModularArithmeticBrackets,
        asks="the value of an expression with brackets, modulo 5",
        source=CHOMSKY,
        axes={"modulus": (2, 3, 7, 11), "multiply": (False,)},
        small={"length": 15},
    ),
    "solve-equation": Entry(
        kind=SolveEquation,
        asks="the number that is hidden in an equation with brackets, modulo 5",
        source=CHOMSKY,
        axes={"modulus": (2, 3, 7, 11)},
        small={"length": 15},
    ),
    "reverse-string": Entry(
        kind=ReverseString,
        asks="a string, backwards",
        source=CHOMSKY,
        axes={"symbols": (3, 5, 10)},
        small={"length": 16},
    ),
    "stack-manipulation": Entry(
        kind=StackManipulation,
        asks="what is on a stack after pops and pushes, top first",
        source=CHOMSKY,
        small={"length": 13},
    ),
    "duplicate-string": Entry(
        kind=DuplicateString,
        asks="a string, twice",
        source=CHOMSKY,
        axes={"symbols": (3, 5, 10)},
        small={"length": 15},
    ),
    "missing-duplicate": Entry(
        kind=MissingDuplicate,
        asks="the hidden symbol of a string that comes twice",
        source=CHOMSKY,
        small={"length": 16},
    ),
    "odds-first": Entry(
        kind=OddsFirst,
        asks="the symbols of a string at odd places, then the others",
        source=CHOMSKY,
        axes={"symbols": (3, 5, 10)},
        small={"length": 16},
    ),
    "bucket-sort": Entry(
        kind=BucketSort,
        asks="the symbols of a string in rising order",
        source=CHOMSKY,
        axes={"symbols": (2, 10, 20)},
        small={"length": 16},
    ),
    "binary-addition": Entry(
        kind=BinaryAddition,
        asks="the sum of two binary numbers, lowest bit first",
        source=CHOMSKY,
        small={"length": 16},
    ),
    "binary-multiplication": Entry(
        kind=BinaryMultiplication,
        asks="the product of two binary numbers, lowest bit first",
        source=CHOMSKY,
        small={"length": 16},
    ),
    "square-root": Entry(
        kind=SquareRoot,
        asks="the root of a binary number, rounded down, highest bit first",
        source=CHOMSKY,
        small={"length": 16},
    ),
}

SPELLINGS = {"memorisation": "memorization"}
"""Other spellings of names."""

TASKS: dict[str, type[Task]] = {name: entry.kind for name, entry in CATALOG.items() if not entry.settings}
"""The name of every class of tasks; other names are settings of these.

A task of your own gets its name here, ``TASKS["largest-so-far"] = LargestSoFar``, and is then trained, saved
and found again like any other.
"""


def entry(name: str) -> Entry:
    """What the catalog says about a name.

    Raises:
        ValueError: an unknown name; the nearest are listed.

    Examples:
        >>> entry("noisy-recall").axes["noise"]
        (0.4, 0.6, 0.8)
    """
    known = SPELLINGS.get(name, name)
    if known not in CATALOG:
        raise unknown_name("task", name, CATALOG)
    return CATALOG[known]


def make(name: str, **settings: Any) -> Task:
    """The task of that name. Settings are the fields of its class.

    Raises:
        ValueError: an unknown name (the nearest are listed) or a setting out of range.
        TypeError: a setting that the task does not have (the nearest are listed).

    Examples:
        >>> task = make("permutation", group="S3", length=32)
        >>> task.vocab_size, task.sample(64, seed=0).inputs.shape
        (6, torch.Size([64, 32]))
        >>> make("parity") == make("counting", modulus=2, length=40, asked="last")
        True
    """
    kind, given = (TASKS[name], {}) if name in TASKS else _of_catalog(name)
    known = [setting.name for setting in fields(kind)]
    for setting in settings:
        if setting not in known:
            near = nearest(setting, known) or known
            raise TypeError(
                f"task {name!r} has no setting {setting!r}; nearest: {', '.join(near)}; "
                f"all: {', '.join(known)}"
            )
    return kind(**{**given, **settings})


def _of_catalog(name: str) -> tuple[type[Task], Mapping[str, Any]]:
    found = entry(name)
    return found.kind, found.settings


def name_of(task: Task) -> str:
    """The name of the task's class: with its fields, :func:`make` gives the same task again.

    Raises:
        ValueError: a class of your own that has no name in :data:`TASKS` yet.

    Examples:
        >>> name_of(Counting(modulus=3)), name_of(make("noisy-recall"))
        ('counting', 'in-context-recall')
    """
    for name, kind in TASKS.items():
        if kind is type(task):
            return name
    kind = type(task).__name__
    raise ValueError(
        f"{kind} has no name by which a run is saved and found again: give it one, with "
        f"statemix.tasks.TASKS['my-task'] = {kind}"
    )
