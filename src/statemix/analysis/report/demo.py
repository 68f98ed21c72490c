"""The demo's page: what was trained, what came out, why, and how to do it again."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from .elements import Column, command, configs, figure, formula, panels, table, text, verdicts
from .html import Html, render, tag
from .language import LanguageFindings, language_section
from .machine import machine
from .page import Page, Section
from .state_tracking import LearnedBlocks, Tracker, blocks_section, tracking_section
from .transitions import block_structure

Verdict = tuple[str, str, bool | None]
"""Topic, sentence, and whether it is as expected (None: nothing was expected)."""


@dataclass(frozen=True, kw_only=True)
class DemoFindings:
    """Everything that the demo's page shows."""

    trackers: Sequence[Tracker]
    """the models that track permutations; the first is the one that should"""
    blocks: Sequence[LearnedBlocks]
    """what their layers learned, where they are layers of this library"""
    kinds: Sequence[tuple[int, str]]
    """colour and name of each kind of element"""
    clearest: Sequence[tuple[str, str, Float[Tensor, "M M"]]]
    """(element, kind, matrix): what one block of the first model does"""
    language: LanguageFindings
    """the language model"""
    trained_at: int
    """length of the training sequences of the trackers"""
    chance: float
    """share of right answers by guessing"""
    quick: bool
    """whether nothing was trained long enough to say anything"""
    command: str
    """what the user typed"""
    seed: int
    """of all runs"""
    configs: Mapping[str, Any]
    """whole configs by name"""


def demo_verdicts(findings: DemoFindings) -> list[Verdict]:
    """One sentence for each thing that the demo shows, with the measured numbers in it."""
    sentences: list[Verdict] = [(t.name, *t.verdict) for t in findings.trackers]
    language = findings.language
    beaten = [name for name, value in language.baselines.items() if language.bits_per_byte < value]
    told = ", ".join(f"{name} {value:.2f}" for name, value in language.baselines.items())
    sentences.append(
        (
            "Language model",
            f"After {language.seconds:.0f} seconds of training it codes files that it never read in "
            f"{language.bits_per_byte:.2f} bits per byte ({told}): shorter than "
            f"{_listed(beaten)}.",
            "unigram" in beaten,
        )
    )
    if findings.quick:
        return [(topic, sentence, None) for topic, sentence, _ in sentences]
    return sentences


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return names[0] if names else "none of these"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def demo_page(findings: DemoFindings) -> Page:
    """The whole page."""
    device = dict(machine())
    now = datetime.datetime.now().astimezone()
    seconds = sum(t.seconds for t in findings.trackers) + findings.language.seconds
    return Page(
        title="What state mixing does",
        lead="Four small models learned to track a permutation, and a fifth learned to write code, on this "
        "machine a moment ago. Which could, which could not, and what their blocks look like inside.",
        facts=[
            ("date", now.strftime("%Y-%m-%d %H:%M %Z")),
            ("device", device["device"]),
            ("seed", str(findings.seed)),
            ("statemix", device["statemix"]),
            ("PyTorch", device["PyTorch"]),
            ("training", f"{seconds:.0f} s"),
        ],
        sections=[
            _in_short(findings),
            _recurrence(),
            tracking_section(
                findings.trackers,
                title="Tracking a state",
                introduction=_task(findings),
                trained_at=findings.trained_at,
                chance=findings.chance,
            ),
            blocks_section(
                findings.blocks,
                kinds=findings.kinds,
                symbols=findings.clearest,
                roots=3,
                trained_at=findings.trained_at,
            ),
            language_section(
                findings.language,
                title="A language model of bytes",
                introduction=text(
                    "The same layer in two residual blocks, trained to predict the next byte of the Python "
                    "standard library's source. The score is how many bits a coder would need for each "
                    "byte of files that the model never saw."
                ),
            ),
            _again(findings),
        ],
    )


def _in_short(findings: DemoFindings) -> Section:
    warning = None
    if findings.quick:
        warning = text(
            "This was a quick run: it shows that everything works, and its numbers say nothing, because "
            "nothing was trained for more than a few steps."
        )
    return Section(
        title="In short",
        body=render(warning, verdicts(demo_verdicts(findings))),
    )


def _recurrence() -> Section:
    def sub(letter: str, index: str) -> Html:
        return render(letter, tag("sub", index.replace("-", "\N{MINUS SIGN}")))

    block = render(
        sub("h", "t"), "[i] = Σ", tag("sub", "j"), " ", sub("a", "t"), "[i, j] ", sub("h", "t-1"), "[j] + ",
        sub("b", "t"), "[i] ", sub("v", "t"), "[i]",
    )  # fmt: skip
    higher = render(
        sub("h", "t"), " = Σ", tag("sub", "i"), " ", sub("a", "t,i"), " ", sub("h", "t-i"), " + ",
        sub("a", "t,0"), " ", sub("v", "t"),
    )  # fmt: skip
    structure = panels(
        ("m = 1", block_structure(6, 1), "every state on its own"),
        ("m = 2", block_structure(6, 2), "pairs can swap"),
        ("m = 3", block_structure(6, 3), "triples can turn"),
    )
    return Section(
        title="The recurrence",
        body=render(
            formula(block, name="BD-LRU: blocks of m states"),
            formula(higher, name="H-LRU: a window of m past states"),
            text(
                "The state at every step is a mix of the state before it and the input. Each row of "
                "coefficients is made from the input and normalized: its magnitudes sum to at most one, so "
                "no state outgrows what was put in, however long the sequence. It stays linear in the state, "
                "so that it can be computed in parallel over time. What differs is who may mix with whom: "
                "the block size m, or the order m."
            ),
            figure(
                structure,
                title="Who mixes with whom.",
                caption="The transition matrix of six states in one step; filled cells may be other than "
                "zero. Composing permutations of three things needs blocks that can hold a permutation of "
                "three things.",
            ),
        ),
    )


def _task(findings: DemoFindings) -> Html:
    longest = max(findings.trackers[0].accuracy)
    return text(
        "Three cups are swapped and turned, one of six moves at every step; where is each cup now? That is "
        "the group S3, the smallest group in which order matters: the answer depends on every move ever "
        "made, so a memory that fades cannot give it.",
        f"Each model is one layer between an embedding and a linear readout, and is asked at every step. "
        f"All were trained at length {findings.trained_at} on the same random sequences and tested up to "
        f"length {longest}, which none of them has seen. The recurrent layers of this library learn their "
        f"initial state, so that there is something to permute from the first step on.",
    )


def _again(findings: DemoFindings) -> Section:
    return Section(
        title="Do it again",
        body=render(
            command(findings.command),
            text(
                "The same seed gives the same training on the same machine. An interrupted demo goes on "
                "where it was; finished runs are read from their folders, which lie beside this page with "
                "their configs, metrics and weights."
            ),
            table(
                [Column(title="made with", number=False), Column(title="", number=False)],
                [*machine(), ("seed", str(findings.seed))],
            ),
            tag("h3", "Configs"),
            configs(findings.configs),
        ),
    )
