"""Plots of runs: learning curves, accuracy against length, what is left of a state, bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .html import Html, render, tag
from .svg import Plot, Points, Scale, legend, picture

_MOST_POINTS = 400


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Values of one series along an axis."""

    name: str
    """what the legend says"""
    series: int
    """1, 2, ...: the colour and the mark"""
    x: Sequence[float]
    """steps, lengths or times, rising"""
    y: Sequence[float]
    """one value for each x; values that are not finite are left out"""

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"Curve: {self.name!r} has {len(self.x)} x and {len(self.y)} y values")

    @property
    def points(self) -> list[tuple[float, float]]:
        """The finite values."""
        pairs = zip(self.x, self.y, strict=True)
        return [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def learning_curves(
    curves: Sequence[Curve],
    *,
    y_label: str,
    x_label: str = "training step",
    percent: bool = False,
    levels: Sequence[tuple[float, str]] = (),
) -> Html:
    """Values over training: the noisy measurement faint, its running mean on top.

    ``levels`` are dashed lines (value, name), such as chance.
    """
    levels = [(value, name) for value, name in levels if math.isfinite(value)]
    drawn: list[tuple[Curve, Points]] = [(curve, smoothed(thinned(curve.points))) for curve in curves]
    heights = [y for _, points in drawn for _, y in points] + [value for value, _ in levels]
    steps = [x for _, points in drawn for x, _ in points]
    y = Scale.percent() if percent else Scale.linear(min(heights, default=0), max(heights, default=1))
    x = Scale.linear(0, max(steps, default=1), count=6, tight=True)
    plot = Plot(x, y, x_label=x_label, y_label=y_label)
    plot.levels(levels)
    for curve, points in _dashed_last(drawn):
        plot.line(thinned(curve.points), curve.series, faint=True)
        plot.line(points, curve.series)
    for curve, points in reversed(drawn):
        if points:
            plot.marks(points[-1:], curve.series, [_said(curve, *points[-1], percent)])
    return render(_legend(curves), plot.svg(f"{y_label} over {x_label}"))


def accuracy_by_length(
    curves: Sequence[Curve], *, trained_at: float | None = None, chance: float | None = None
) -> Html:
    """Accuracy (0 to 1) at test lengths, on an axis of equal ratios."""
    lengths = {x for curve in curves for x in curve.x} | ({trained_at} if trained_at is not None else set())
    plot = Plot(
        Scale.at_values(lengths or {1}),
        Scale.percent(),
        x_label="length of the test sequences",
        y_label="accuracy",
    )
    if chance is not None:
        plot.levels([(chance, "guessing")])
    if trained_at is not None:
        plot.moment(trained_at, "trained at this length")
    drawn: list[tuple[Curve, Points]] = [(curve, curve.points) for curve in curves]
    for curve, points in _dashed_last(drawn):
        plot.line(points, curve.series)
    for curve, _ in reversed(drawn):
        titles = [_said(curve, x, y, True) for x, y in curve.points]
        plot.marks(curve.points, curve.series, titles)
    return render(_legend(curves), plot.svg("accuracy against the length of the test sequences"))


def decay(curves: Sequence[Curve], *, y_label: str, x_label: str = "steps", floor: float = 1e-6) -> Html:
    """Positive values that fall over time, on an axis of equal ratios that ends at ``floor``."""
    last = max((x for curve in curves for x, _ in curve.points), default=1)
    plot = Plot(
        Scale.linear(0, last, count=6, tight=True), Scale.powers(floor, 1.0), x_label=x_label, y_label=y_label
    )
    for curve in curves:
        points = [(x, y) for x, y in curve.points if y > 0]
        below = next((i for i, (_, y) in enumerate(points) if y < floor), len(points) - 1)
        plot.line(thinned(points[: below + 1]), curve.series)
    return render(_legend(curves), plot.svg(f"{y_label} over {x_label}"))


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar."""

    name: str
    """what stands before it"""
    value: float
    """its length, at least 0; what is not finite has none"""
    series: int
    """its colour"""


def bars(entries: Sequence[Bar], *, unit: str, digits: int = 2) -> Html:
    """Horizontal bars with their values, all from zero."""
    longest = max((bar.value for bar in entries if math.isfinite(bar.value)), default=0.0) or 1.0
    row, left, width = 38, 168, 720
    room = width - left - 110
    parts = []
    for index, bar in enumerate(entries):
        top = index * row + 6
        length = room * bar.value / longest if math.isfinite(bar.value) else 0.0
        value = f"{bar.value:.{digits}f}"
        parts += [
            tag("text", bar.name, x=left - 12, y=top + 18, text_anchor="end", class_="label"),
            tag(
                "rect",
                tag("title", f"{bar.name}: {value} {unit}"),
                x=left,
                y=top,
                width=max(length, 1.0),
                height=26,
                rx=3,
                class_=f"bar s{bar.series}",
            ),
            tag("text", value, x=left + length + 8, y=top + 18, class_="value"),
        ]
    height = len(entries) * row + 30
    parts.append(tag("text", unit, x=left, y=height - 8, class_="tick"))
    parts.append(tag("line", x1=left, y1=0, x2=left, y2=len(entries) * row, class_="axis"))
    return picture(render(parts), width, height, unit)


def thinned(points: Points, most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """At most about ``most`` of the points, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    every = math.ceil(len(points) / most)
    kept = list(points[::every])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def smoothed(points: Points, share: float = 0.04) -> list[tuple[float, float]]:
    """The mean of each point and its neighbours: as far ahead as back, so that a start stays where it was."""
    reach = int(len(points) * share / 2)
    result = []
    for index, (x, _) in enumerate(points):
        back = min(reach, index)
        around = points[index - back : index + back + 1]
        result.append((x, sum(y for _, y in around) / len(around)))
    return result


def _dashed_last(drawn: list[tuple[Curve, Points]]) -> list[tuple[Curve, Points]]:
    return sorted(drawn, key=lambda pair: pair[0].series % 2 == 0)


def _legend(curves: Sequence[Curve]) -> Html:
    return legend([(curve.series, curve.name) for curve in curves])


def _said(curve: Curve, x: float, y: float, percent: bool) -> str:
    write: Callable[[float], str] = (lambda v: f"{v:.1%}") if percent else (lambda v: f"{v:.3g}")
    return f"{curve.name}, {x:,.0f}: {write(y)}"
