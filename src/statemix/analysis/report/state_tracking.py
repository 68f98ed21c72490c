"""Sections on state tracking: how well models track, and what their blocks learned in order to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Complex, Float
from torch import Tensor

from ..spectra import SpectrumSummary
from ..stability import StateBound
from .elements import Column, figure, panels, table, text
from .figures import Curve, accuracy_by_length, decay, learning_curves
from .html import Html, render
from .page import Section
from .transitions import Dots, matrix, spectrum_legend, unit_circle


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """One model that was trained to track a state."""

    name: str
    """what figures and tables call it"""
    series: int
    """its colour and mark: 1, 2, ..."""
    parameters: int
    """numbers that were trained"""
    state_size: int
    """numbers that it carries from step to step"""
    seconds: float
    """spent on its training"""
    accuracy: Mapping[int, float]
    """share of right answers by length of the test sequences"""
    steps: Sequence[float]
    """training steps at which the next was measured"""
    training_accuracy: Sequence[float]
    """share of right answers on the batches of training"""
    note: str
    """what to expect of it and why, as half a sentence"""
    expected: tuple[int, float, float] | None = None
    """(length, least share, largest share) that are expected; None expects nothing"""

    @property
    def cells(self) -> list[str]:
        """A row of a table: name, sizes, then accuracies."""
        shares = [percent(share) for share in self.accuracy.values()]
        return [self.name, f"{self.parameters:,}", str(self.state_size), f"{self.seconds:.0f} s", *shares]

    @property
    def verdict(self) -> tuple[str, bool | None]:
        """One sentence with the number that matters, and whether it is as expected (None: nothing was)."""
        length, least, most = self.expected or (max(self.accuracy), 0.0, 1.0)
        share = self.accuracy[length]
        found = f"{percent(share)} right at length {length}"
        if not least <= share <= most:
            wanted = f"at least {percent(least)}" if share < least else f"at most {percent(most)}"
            return f"{found}; expected was {wanted}.", False
        return f"{found}: {self.note}.", None if self.expected is None else True


@dataclass(frozen=True, kw_only=True)
class LearnedBlocks:
    """The transitions of one layer, one for each kind of input symbol."""

    name: str
    """of the model"""
    series: int
    """of the model"""
    eigenvalues: Mapping[str, Complex[Tensor, "*blocks M"]]
    """by kind of symbol"""
    summary: SpectrumSummary
    """over all kinds"""
    contrast: Sequence[float]
    """what is left of a difference between two initial states after 0, 1, 2, ... steps, in the best block"""
    bound: StateBound
    """the largest state of a long run beside its bound"""


def percent(share: float) -> str:
    """A share as people read it; only what is exactly whole says 100 %.

    Examples:
        >>> percent(0.9999), percent(1.0), percent(0.16666)
        ('99.9 %', '100 %', '16.7 %')
    """
    if share == 1:
        return "100 %"
    return f"{min(round(100 * share, 1), 99.9) if share < 1 else 100 * share:.1f} %"


def accuracy_table(trackers: Sequence[Tracker], *, caption: str) -> Html:
    """Sizes and accuracies; the best accuracies of each length are marked."""
    lengths = list(trackers[0].accuracy)
    columns = [
        Column(title="model", number=False),
        Column(title="parameters"),
        Column(title="state"),
        Column(title="trained in"),
        *(Column(title=f"at {length:,}") for length in lengths),
    ]
    best = [
        (row, 4 + column)
        for column, length in enumerate(lengths)
        for row, tracker in enumerate(trackers)
        if tracker.accuracy[length] >= max(t.accuracy[length] for t in trackers) - 5e-4
    ]
    return table(
        columns,
        [tracker.cells for tracker in trackers],
        caption=caption,
        series=[tracker.series for tracker in trackers],
        best=best,
    )


def tracking_section(
    trackers: Sequence[Tracker], *, title: str, introduction: Html, trained_at: int, chance: float
) -> Section:
    """The task, the table, learning curves, and accuracy against length."""
    curves = [Curve(name=t.name, series=t.series, x=t.steps, y=t.training_accuracy) for t in trackers]
    lengths = [
        Curve(name=t.name, series=t.series, x=list(t.accuracy), y=list(t.accuracy.values())) for t in trackers
    ]
    return Section(
        title=title,
        body=render(
            introduction,
            accuracy_table(
                trackers,
                caption=f"Share of right answers over all steps of test sequences; guessing is right "
                f"{percent(chance)} of the time. State: numbers carried from step to step.",
            ),
            figure(
                accuracy_by_length(lengths, trained_at=trained_at, chance=chance),
                title="Accuracy against length.",
                caption="A model that learned the rule stays on top however long the sequence gets. One "
                "that falls with length has learned to imitate it: its state leaks, or it only knows "
                "the first steps, which are a smaller share of a longer sequence.",
            ),
            figure(
                learning_curves(
                    curves, y_label="training accuracy", percent=True, levels=[(chance, "guessing")]
                ),
                title="Learning curves.",
                caption=f"Accuracy on fresh training batches at length {trained_at}. Look for sudden "
                "rises: a rule is found all at once, while imitation gets better slowly and stays poor.",
            ),
        ),
    )


def blocks_section(
    blocks: Sequence[LearnedBlocks],
    *,
    kinds: Sequence[tuple[int, str]],
    symbols: Sequence[tuple[str, str, Float[Tensor, "M M"]]],
    roots: int,
    trained_at: int,
) -> Section:
    """One block's matrices, eigenvalues in the unit circle, and what is left of a state over time.

    Args:
        blocks: the layers to compare.
        kinds: (series, name) of each kind of symbol, the keys of ``LearnedBlocks.eigenvalues``.
        symbols: (name, kind, matrix) of each input symbol as one well-chosen block sees it; empty leaves
            the figure out.
        roots: circles are marked at the roots of unity of every order up to this.
        trained_at: length of the training sequences.
    """
    marks = sorted({_root(k, order) for order in range(1, roots + 1) for k in range(order)}, key=str)
    circles = panels(*((b.name, _circle(b, kinds, marks), _shares(b.summary)) for b in blocks))
    longest = max(len(b.contrast) for b in blocks) - 1
    kept = [
        Curve(name=b.name, series=b.series, x=list(range(len(b.contrast))), y=list(b.contrast))
        for b in blocks
    ]
    parts = [
        text(
            "A layer makes a transition matrix from every input. Because this task has few symbols, the "
            "whole of what a block learned can be looked at."
        )
    ]
    if symbols:
        parts.append(
            figure(
                panels(*((name, matrix(m, title=name), kind) for name, kind, m in symbols), small=True),
                title="What one block does.",
                caption=f"The transition matrix that one block of {blocks[0].name} learned for each input: "
                "rows are new states, columns old ones; full colour is 1. Look for a single full cell in "
                "every row: nobody told the block about permutation matrices.",
            )
        )
    parts += [
        figure(
            render(spectrum_legend(kinds, marks="eigenvalues of exact permutations"), circles),
            title="Eigenvalues of the learned blocks in the unit circle.",
            caption="Every dot is an eigenvalue of one block under one kind of input. On the circle a state "
            "lasts for ever, towards the middle it fades. Look at the left half: a swap needs minus one, a "
            "3-cycle the two complex roots of unity. With non-negative rows that sum to at most one, blocks "
            "of one have positive numbers only, blocks of two can reach minus one, and from three on they "
            "can turn.",
        ),
        figure(
            decay(kept, y_label="difference left", x_label="steps since the start", floor=1e-6),
            title="How long a state lasts.",
            caption=f"Start a block in two different states and feed it the same {longest} random symbols: "
            "the part of the difference that is left, in the block that keeps it best. A flat line "
            f"remembers. The models were trained on {trained_at} steps only.",
        ),
    ]
    parts.append(_in_numbers(blocks))
    return Section(title="What the blocks learned", body=render(parts))


def _in_numbers(blocks: Sequence[LearnedBlocks]) -> Html:
    columns = [
        Column(title="model", number=False),
        Column(title="blocks that turn"),
        Column(title="that flip"),
        Column(title="largest eigenvalue"),
        Column(title="largest state"),
        Column(title="its bound"),
    ]
    rows = [
        [
            b.name,
            percent(b.summary.complex_share),
            percent(b.summary.negative_share),
            f"{b.summary.radius:.4f}",
            f"{b.bound.peak:.3f}",
            f"{b.bound.bound:.3f}",
        ]
        for b in blocks
    ]
    steps = max(b.bound.steps for b in blocks)
    return table(
        columns,
        rows,
        series=[b.series for b in blocks],
        caption=f"Shares are over blocks and inputs. The largest state is that of a run of {steps:,} steps; "
        "because the rows of a block sum to at most one, it cannot pass the largest initial state or value.",
    )


def _circle(blocks: LearnedBlocks, kinds: Sequence[tuple[int, str]], marks: Sequence[complex]) -> Html:
    groups = [Dots(name=name, series=series, eigenvalues=blocks.eigenvalues[name]) for series, name in kinds]
    return unit_circle(groups, marks=marks, title=f"eigenvalues of {blocks.name}")


def _shares(summary: SpectrumSummary) -> str:
    return (
        f"{summary.complex_share:.0%} turn (complex), {summary.negative_share:.0%} flip (negative)"
    ).replace("%", " %")


def _root(k: int, order: int) -> complex:
    angle = 2 * math.pi * k / order
    return complex(round(math.cos(angle), 6), round(math.sin(angle), 6))
