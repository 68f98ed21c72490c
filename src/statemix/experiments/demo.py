"""The demo: four small models that track permutations, a language model, and what was found in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from statemix.analysis import (
    contrast_left,
    record_inputs,
    running_products,
    state_bound,
    summarize,
    transition_spectra,
)
from statemix.analysis.report.language import LanguageFindings
from statemix.analysis.report.state_tracking import LearnedBlocks, Tracker
from statemix.files import is_occupied
from statemix.models import LanguageModel, MixerConfig
from statemix.tasks import Permutation
from statemix.text import baselines, open_corpus
from statemix.training import (
    Observer,
    RunConfig,
    TaskData,
    TextData,
    TrainResult,
    train,
)
from statemix.training.folder import check_own

from .recipes import s3_composition, text_bytes

RUNS = "runs"
"""The folder of the runs, beside the report."""

LENGTH = 32
TEST_LENGTHS = (32, 128, 512)
STATE_SIZE = 48
PROMPT = "def "
TEMPERATURE = 0.7

KINDS = ((7, "identity"), (6, "swaps"), (5, "3-cycles"))
"""The colour and the name of each kind of element of S3."""

ELEMENTS = ("123", "132", "213", "231", "312", "321")
"""Where each element of S3 sends 1, 2 and 3, in the order of the task's tokens."""

_KIND_OF_ELEMENT = ("identity", "swaps", "swaps", "3-cycles", "3-cycles", "swaps")
_MOVE_OF_KIND = {"identity": "stay", "swaps": "swap", "3-cycles": "turn"}
_LAYER = "blocks.0.mixer"


class Interrupted(Exception):
    """A signal asked for the end of the demo; what was done is kept. ``signal`` is its number."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"interrupted by signal {signal}")
        self.signal = signal


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model of the comparison."""

    name: str
    """what people read"""
    series: int
    """its colour in every figure"""
    config: RunConfig
    """how it is trained"""
    note: str
    """what to expect of it and why, as half a sentence"""
    expected: tuple[int, float, float] | None = None
    """(length, least, largest share of right answers) that are expected"""


def contenders(seed: int = 0, *, quick: bool = False) -> list[Contender]:
    """The four models that learn to compose the permutations of three things.

    All have one layer between an embedding and a linear readout, the same number of state numbers and
    the same training. ``quick`` trains them for a moment only, to see that everything runs.

    Examples:
        >>> [contender.name for contender in contenders()]
        ['BD-LRU, m = 3', 'BD-LRU, m = 1', 'H-LRU, m = 3', 'LSTM']
    """
    choices = (
        (
            "BD-LRU, m = 3",
            MixerConfig(name="bdlru", block_size=3, initial_state="learned"),
            "a block of three can hold a permutation of three things and apply the next one",
            (TEST_LENGTHS[-1], 0.99, 1.0),
        ),
        (
            "BD-LRU, m = 1",
            MixerConfig(name="bdlru", block_size=1, initial_state="learned"),
            "states that are kept apart can fade, and cannot be permuted",
            (LENGTH, 0.0, 0.5),
        ),
        (
            "H-LRU, m = 3",
            MixerConfig(name="hlru", block_size=3, initial_state="learned"),
            "its window shifts at every step, so it cannot hold still on one move and permute on another",
            (LENGTH, 0.0, 0.5),
        ),
        (
            "LSTM",
            MixerConfig(name="lstm", block_size=1),
            "not being linear it can make any transition, but it has to go through time step by step",
            None,
        ),
    )
    base = replace(
        s3_composition(),
        data=TaskData(
            task=Permutation(group="S3", length=LENGTH),
            test_lengths=TEST_LENGTHS,
            test_examples=64 if quick else 512,
        ),
        steps=10 if quick else 500,
        seed=seed,
        device="cpu",
        log_every=5,
        tensorboard=False,
    )
    made = []
    for series, (name, mixer, note, expected) in enumerate(choices, 1):
        mixer = replace(mixer, num_blocks=STATE_SIZE // mixer.block_size)
        # An MLP before the readout would forgive states that are a little wrong, and at length 512 they
        # are no longer a little wrong.
        model = replace(base.model, d_model=128, mlp="none", mixer=mixer)
        config = replace(base, name=_folder_name(name), model=model)
        made.append(Contender(name=name, series=series, config=config, note=note, expected=expected))
    return made


def language_run(seed: int = 0, *, quick: bool = False) -> RunConfig:
    """The byte-level language model on the source of Python's standard library.

    Examples:
        >>> language_run().data.corpus
        'stdlib'
    """
    base = text_bytes()
    return replace(
        base,
        name="language",
        data=replace(cast(TextData, base.data), evaluation_bytes=8192 if quick else 2**24),
        steps=6 if quick else base.steps,
        batch_size=4 if quick else base.batch_size,
        seed=seed,
        device="cpu",
        log_every=1 if quick else 5,
        checkpoint_every=100,
        tensorboard=False,
    )


def check_folder(out: Path) -> None:
    """Raise RunFolderError unless a folder is empty or holds runs of the demo."""
    check_own(out, [f"{RUNS}/{contender.config.name}" for contender in contenders()])


def continued(config: RunConfig, folder: Path, observers: Sequence[Observer]) -> TrainResult:
    """Train a run in a folder of its own, from wherever an earlier attempt had come to.

    Raises:
        Interrupted: a signal came; the run can be continued.
        RunFolderError: the folder holds a run of another config, or cannot be written.
    """
    result = train(config, out=folder, resume=is_occupied(folder), observers=observers, progress=False)
    if result.status == "interrupted":
        raise Interrupted(result.signal or 0)
    if result.status == "diverged":
        raise RuntimeError(f"{config.name}: the loss is no number after step {result.step}")
    return result


def tracker(contender: Contender, result: TrainResult) -> Tracker:
    """What the comparison says of a trained model."""
    return Tracker(
        name=contender.name,
        series=contender.series,
        parameters=sum(p.numel() for p in result.model.parameters()),
        state_size=STATE_SIZE * (2 if contender.config.model.mixer.name == "lstm" else 1),
        seconds=result.seconds,
        accuracy={length: result.scores[f"accuracy_at_{length}"] for length in TEST_LENGTHS},
        steps=[row["step"] for row in result.history],
        training_accuracy=[row["accuracy"] for row in result.history],
        note=contender.note,
        expected=contender.expected,
    )


def learned_blocks(
    contender: Contender, model: LanguageModel, *, steps: int = TEST_LENGTHS[-1]
) -> LearnedBlocks:
    """Spectra of the one layer by kind of element, and how long its states last on random words."""
    transitions = _element_transitions(model)
    eigenvalues = torch.linalg.eigvals(transitions)
    words = Permutation(group="S3", length=steps).sample(16, split="test").inputs
    left = contrast_left(running_products(transitions[words]))
    return LearnedBlocks(
        name=contender.name,
        series=contender.series,
        eigenvalues={
            name: eigenvalues[[i for i, kind in enumerate(_KIND_OF_ELEMENT) if kind == name]]
            for _, name in KINDS
        },
        summary=summarize(eigenvalues),
        contrast=[1.0, *left.median(0).values.amax(-1).tolist()],
        bound=state_bound(*record_inputs(model, words)[_LAYER]),
    )


def clearest_block(model: LanguageModel) -> list[tuple[str, str, Tensor]]:
    """(element, move, matrix) of the block that tells the elements of S3 apart most decidedly.

    Such a block has another pattern of largest entries for every element; of these the one is taken
    whose least decided row is the most decided. Empty where no block tells all six apart.
    """
    transitions = _element_transitions(model)
    largest, place = transitions.max(-1)
    distinct = torch.tensor(
        [len({tuple(rows) for rows in place[:, n].tolist()}) == len(ELEMENTS) for n in range(place.shape[1])]
    )
    if not distinct.any():
        return []
    clearness = torch.where(distinct, largest.amin((0, 2)), -1.0)
    chosen = transitions[:, int(clearness.argmax())]
    moves = [_MOVE_OF_KIND[kind] for kind in _KIND_OF_ELEMENT]
    return list(zip(ELEMENTS, moves, chosen, strict=True))


def language_findings(
    config: RunConfig, result: TrainResult, *, sample_bytes: int = 600, spectrum_bytes: int = 512
) -> LanguageFindings:
    """What the demo says of its language model."""
    corpus = open_corpus(cast(TextData, config.data).corpus)
    generator = torch.Generator().manual_seed(config.seed)
    prompt = torch.tensor([list(PROMPT.encode())])
    written = result.model.generate(prompt, sample_bytes, temperature=TEMPERATURE, generator=generator)
    text = bytes(written[0].tolist())[len(PROMPT.encode()) :].decode("utf-8", errors="replace")
    held_out = torch.from_numpy(corpus.held_out[:spectrum_bytes].astype("int64"))[None]
    return LanguageFindings(
        name="BD-LRU, m = 4",
        series=1,
        parameters=sum(p.numel() for p in result.model.parameters()),
        seconds=result.seconds,
        tokens=config.steps * config.batch_size * cast(TextData, config.data).length,
        corpus=corpus.describe(),
        bits_per_byte=result.scores["bits_per_byte"],
        baselines=baselines(corpus),
        steps=[row["step"] for row in result.history],
        training_bits=[row["loss"] / math.log(2) for row in result.history],
        spectra=list(transition_spectra(result.model, held_out).values()),
        prompt=PROMPT,
        continuation=text,
        temperature=TEMPERATURE,
    )


def _element_transitions(model: LanguageModel) -> Tensor:
    """(6, N, M, M): with one layer behind the embedding, a transition depends on the token alone."""
    tokens = torch.arange(len(ELEMENTS))[:, None]
    layer, inputs = record_inputs(model, tokens)[_LAYER]
    with torch.no_grad():
        return layer.transition(inputs)[:, 0].double()


def _folder_name(name: str) -> str:
    return name.lower().replace(" ", "").replace("=", "").replace(",", "-")
