"""The page about one model: what its recurrent layers do with text or a task, and how it was trained."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..inspection import LayerFindings
from .elements import Column, command, configs, figure, panels, table, text
from .figures import Curve, accuracy_by_length, decay, learning_curves
from .html import Html, render, tag
from .machine import machine
from .page import Page, Section
from .state_tracking import percent
from .transitions import Dots, matrix, unit_circle

_COLOURS = 7


@dataclass(frozen=True, kw_only=True)
class ModelFindings:
    """Everything that a model's page shows; what is empty is left out.

    Examples:
        >>> import torch
        >>> from statemix.analysis import inspect_layers
        >>> from statemix.nn import BDLRU
        >>> layers = inspect_layers(BDLRU(8, num_blocks=4, block_size=3), torch.randn(2, 20, 8))
        >>> findings = ModelFindings(name="mine", parameters=3, read="noise", layers=layers)
        >>> model_page(findings).title
        'What mine learned'
    """

    name: str
    """what the page calls the model"""
    parameters: int
    """numbers that were trained"""
    read: str
    """what it was run on, as the end of a sentence"""
    layers: Sequence[LayerFindings]
    """in the order in which they ran"""
    symbols: Sequence[str] = ()
    """the first steps of the first sequence as people read them"""
    training: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None
    """by what was measured: steps and values, such as {"loss": ([1, 2], [0.7, 0.6])}"""
    accuracy: Mapping[int, float] | None = None
    """share of right answers by length of the test sequences"""
    trained_at: int | None = None
    """length of the training sequences"""
    scores: Mapping[str, float] | None = None
    """other results of its tests"""
    command: str = ""
    """what makes the page again"""
    config: Any = None
    """of the model or of its training"""


def model_page(findings: ModelFindings) -> Page:
    """The whole page.

    Examples:
        >>> import torch
        >>> from statemix.analysis import inspect_layers
        >>> from statemix.nn import BDLRU
        >>> layer = BDLRU(8, num_blocks=4, block_size=3)
        >>> layers = inspect_layers(layer, torch.randn(2, 20, 8))
        >>> page = model_page(ModelFindings(name="mine", parameters=1, read="noise", layers=layers))
        >>> [section.title for section in page.sections][:2]
        ['The layers', 'Eigenvalues']
    """
    device = dict(machine())
    now = datetime.datetime.now().astimezone()
    sections = [_layers(findings), _eigenvalues(findings), _memory(findings), _examples(findings)]
    return Page(
        title=f"What {findings.name} learned",
        lead=f"The recurrent layers of this model, looked at while it read {findings.read}: which "
        "transitions its gates make, how long a state lasts, and how far back a gradient reaches.",
        facts=[
            ("date", now.strftime("%Y-%m-%d %H:%M %Z")),
            ("device", device["device"]),
            ("statemix", device["statemix"]),
            ("parameters", f"{findings.parameters:,}"),
        ],
        sections=[section for section in (*sections, _training(findings), _again(findings)) if section],
    )


def _title(layer: LayerFindings) -> str:
    return layer.name or layer.kind


def _chosen(layers: Sequence[LayerFindings]) -> list[tuple[int, LayerFindings]]:
    """(colour, layer), at most as many as there are colours, from the first layer to the last."""
    if len(layers) <= _COLOURS:
        return list(enumerate(layers, 1))
    places = [round(i * (len(layers) - 1) / (_COLOURS - 1)) for i in range(_COLOURS)]
    return [(colour, layers[place]) for colour, place in enumerate(places, 1)]


def _layers(findings: ModelFindings) -> Section:
    transitions, states = [], []
    for layer in findings.layers:
        summary = layer.spectrum.summary()
        transitions.append(
            [
                _title(layer),
                f"{layer.kind}, {layer.blocks} \N{MULTIPLICATION SIGN} {layer.size}",
                percent(summary.complex_share),
                percent(summary.negative_share),
                f"{summary.radius:.4f}",
                percent(layer.kept),
                percent(layer.decided),
            ]
        )
        states.append(
            [
                _title(layer),
                f"{summary.median_memory:,.1f} steps",
                percent(layer.lasting),
                f"{layer.bound.peak:.3f}",
                f"{layer.bound.bound:.3f}",
            ]
        )
    steps = findings.layers[0].bound.steps
    return Section(
        title="The layers",
        body=render(
            table(
                [
                    Column(title="layer", number=False),
                    Column(title="blocks", number=False),
                    Column(title="turn"),
                    Column(title="flip"),
                    Column(title="largest eigenvalue"),
                    Column(title="weight on states"),
                    Column(title="decided"),
                ],
                transitions,
                caption="Transitions, over all blocks and steps. A block turns where its transition has "
                "eigenvalues off the real axis, and flips where one has a negative real part: what cycles "
                "and what swaps need. Weight on states is what a row sums to, the rest being on the input. A "
                "row is the more decided, the nearer its largest entry is to 1.",
            ),
            table(
                [
                    Column(title="layer", number=False),
                    Column(title="half forget in"),
                    Column(title="best block keeps"),
                    Column(title="largest state"),
                    Column(title="its bound"),
                ],
                states,
                caption=f"States, over {steps:,} steps. Half of the blocks fall to 1/e within the steps that "
                "are named. The best block keeps that much of a difference between two initial states. "
                "Where gates are normalized no state passes the largest initial state or value.",
            ),
        ),
    )


def _eigenvalues(findings: ModelFindings) -> Section:
    drawn = []
    for layer in findings.layers:
        dots = [Dots(name="", series=1, eigenvalues=layer.spectrum.eigenvalues)]
        drawn.append((_title(layer), unit_circle(dots, title=f"eigenvalues of {_title(layer)}"), None))
    return Section(
        title="Eigenvalues",
        body=figure(
            panels(*drawn),
            title="Eigenvalues of the transitions in the unit circle.",
            caption="Every dot is an eigenvalue of one block at one step. On the circle a state lasts for "
            "ever, towards the middle it fades; the left half flips, and what is off the horizontal line "
            "turns. Rules that track a state sit on the rim; text asks for fading memories of many lengths.",
        ),
    )


def _memory(findings: ModelFindings) -> Section:
    chosen = _chosen(findings.layers)

    def curves(values: str) -> list[Curve]:
        found = ((colour, layer, getattr(layer, values)) for colour, layer in chosen)
        return [
            Curve(name=_title(layer), series=c, x=list(range(len(y))), y=list(y)) for c, layer, y in found
        ]

    some = "" if len(chosen) == len(findings.layers) else " Some of the layers, from the first to the last."
    return Section(
        title="How long a state lasts",
        body=render(
            figure(
                decay(curves("best_contrast"), y_label="difference left", x_label="steps since the start"),
                title="In the block that keeps most.",
                caption="Start a block in two different states and feed it the same inputs: the part of the "
                f"difference that is left. A flat line remembers.{some}",
            ),
            figure(
                decay(curves("median_contrast"), y_label="difference left", x_label="steps since the start"),
                title="In the median block.",
                caption="The same, in the block that half of the others keep more than.",
            ),
            figure(
                decay(curves("reach"), y_label="gradient, relative", x_label="steps before the output"),
                title="How far back gradients reach.",
                caption="How much an input that many steps before the last output still moves it, in one "
                "layer, relative to the last input. Training can only learn from what this line reaches.",
            ),
        ),
    )


def _examples(findings: ModelFindings) -> Section:
    parts = []
    for _, layer in _chosen(findings.layers):
        symbols = [*findings.symbols, *[""] * len(layer.example)]
        drawn = (
            (f"{step + 1}", matrix(values, title=f"step {step + 1}"), symbols[step])
            for step, values in enumerate(layer.example)
        )
        parts.append(
            figure(
                panels(*drawn, small=True),
                title=f"{_title(layer)}, {'block' if layer.kind == 'BDLRU' else 'channel'} "
                f"{layer.example_block}.",
                caption="Its transitions at the first steps of the first sequence: rows are new states, "
                "columns old ones; full colour is 1.",
            )
        )
    introduction = text(
        "Of each layer the block whose rows are the most decided. A single full cell in every row copies "
        "states from place to place, as a permutation does; even rows average them."
    )
    return Section(title="What one block does", body=render(introduction, *parts))


def _training(findings: ModelFindings) -> Section | None:
    parts: list[Html] = []
    for name, (steps, values) in (findings.training or {}).items():
        curve = Curve(name=findings.name, series=1, x=steps, y=values)
        parts.append(
            figure(
                learning_curves([curve], y_label=name, percent=name == "accuracy"),
                title=f"Training: {name}.",
                caption="On the batches of training.",
            )
        )
    if findings.accuracy:
        lengths, shares = list(findings.accuracy), list(findings.accuracy.values())
        curve = Curve(name=findings.name, series=1, x=lengths, y=shares)
        parts.append(
            figure(
                accuracy_by_length([curve], trained_at=findings.trained_at),
                title="Accuracy against length.",
                caption="Of the tests at the end of training. What has learned the rule stays on top "
                "however long the sequence gets.",
            )
        )
    if findings.scores:
        columns = [Column(title="score", number=False), Column(title="value")]
        parts.append(table(columns, [[name, f"{value:.4f}"] for name, value in findings.scores.items()]))
    return Section(title="Training", body=render(*parts)) if parts else None


def _again(findings: ModelFindings) -> Section:
    return Section(
        title="Made with",
        body=render(
            command(findings.command) if findings.command else None,
            table([Column(title="made with", number=False), Column(title="", number=False)], [*machine()]),
            tag("h3", "Config") if findings.config is not None else None,
            configs({findings.name: findings.config}) if findings.config is not None else None,
        ),
    )
