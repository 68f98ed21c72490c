"""Drawings of what a layer does in one step: its matrices, and their eigenvalues in the unit circle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from .html import Html, render, tag
from .svg import legend, picture

_MOST_DOTS = 900


@dataclass(frozen=True, kw_only=True)
class Dots:
    """Eigenvalues of one kind."""

    name: str
    """what the legend says"""
    series: int
    """1, 2, ...: the colour"""
    eigenvalues: Complex[Tensor, "*any"]
    """in any shape; NaN is left out, and a random part is drawn where there are many"""


def unit_circle(groups: Sequence[Dots], *, marks: Sequence[complex] = (), title: str = "eigenvalues") -> Html:
    """Eigenvalues in the complex plane; ``marks`` are ringed places, such as the roots of unity."""
    size, radius = 260, 100.0
    middle = size / 2

    def place(value: complex) -> tuple[float, float]:
        # What lies outside is drawn at the rim of the picture rather than lost.
        length = min(abs(value), 1.18)
        angle = math.atan2(value.imag, value.real)
        return middle + radius * length * math.cos(angle), middle - radius * length * math.sin(angle)

    parts = [
        tag("circle", cx=middle, cy=middle, r=radius, class_="disc"),
        tag("line", x1=middle - radius, y1=middle, x2=middle + radius, y2=middle, class_="grid"),
        tag("line", x1=middle, y1=middle - radius, x2=middle, y2=middle + radius, class_="grid"),
    ]
    for text, x, y, anchor in (
        ("1", middle + radius + 13, middle + 4, "start"),
        ("\N{MINUS SIGN}1", middle - radius - 13, middle + 4, "end"),
        ("i", middle, middle - radius - 12, "middle"),
        ("\N{MINUS SIGN}i", middle, middle + radius + 21, "middle"),
    ):
        parts.append(tag("text", text, x=x, y=y, text_anchor=anchor, class_="tick"))
    for group in groups:
        for value in _some(group.eigenvalues):
            x, y = place(value)
            parts.append(tag("circle", cx=x, cy=y, r=2.7, class_=f"dot s{group.series}"))
    for value in marks:
        x, y = place(value)
        parts.append(tag("circle", cx=x, cy=y, r=8, class_="ring"))
    return picture(render(parts), size, size, title, class_="circle")


def spectrum_legend(groups: Sequence[tuple[int, str]], *, marks: str | None = None) -> Html:
    """What the colours of dots mean, and the rings."""
    entries = [
        tag(
            "li",
            tag("svg", tag("circle", cx=7, cy=7, r=4.5, class_=f"dot s{series}"), width=14, height=14),
            name,
        )
        for series, name in groups
    ]
    if marks:
        ring = tag("svg", tag("circle", cx=9, cy=9, r=7, class_="ring"), width=18, height=18)
        entries.append(tag("li", ring, marks))
    return tag("ul", *entries, class_="legend") if entries else legend([])


def matrix(values: Float[Tensor, "M M"], *, title: str = "matrix") -> Html:
    """A small matrix of coefficients from -1 to 1: the stronger the colour, the larger the magnitude."""
    rows = values.tolist()
    cell = 34
    parts = []
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            strength = 0.0 if math.isnan(value) else min(abs(value), 1.0)
            parts.append(
                tag(
                    "rect",
                    tag("title", f"to {i + 1} from {j + 1}: {value:.3f}"),
                    x=j * cell + 1,
                    y=i * cell + 1,
                    width=cell - 2,
                    height=cell - 2,
                    rx=3,
                    class_="cell",
                    fill_opacity=round(0.04 + 0.96 * strength, 2),
                )
            )
    width = cell * len(rows)
    return picture(render(parts), width, width, title, class_="matrix")


def block_structure(state_size: int, block_size: int) -> Html:
    """Which states mix in one step: the filled cells of the whole transition matrix."""
    cell = 12
    parts = [
        tag(
            "rect",
            x=j * cell + 0.5,
            y=i * cell + 0.5,
            width=cell - 1,
            height=cell - 1,
            rx=2,
            class_="cell" if i // block_size == j // block_size else "cell empty",
        )
        for i in range(state_size)
        for j in range(state_size)
    ]
    width = cell * state_size
    return picture(render(parts), width, width, f"blocks of {block_size}", class_="matrix")


def _some(eigenvalues: Tensor) -> list[complex]:
    flat = eigenvalues.detach().reshape(-1).cpu()
    flat = flat[~flat.isnan()]
    if flat.numel() > _MOST_DOTS:
        chosen = torch.randperm(flat.numel(), generator=torch.Generator().manual_seed(0))[:_MOST_DOTS]
        flat = flat[chosen]
    return flat.tolist()
