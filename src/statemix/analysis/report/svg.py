"""A small plotting kit that writes inline SVG: colours come from the page, so light and dark both work."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .html import Html, render, tag

Points = Sequence[tuple[float, float]]

_LINE_OF_TEXT = 22.0


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One axis: which values it spans, where its ticks stand, and what they say."""

    low: float
    """the value at the axis' start"""
    high: float
    """the value at the axis' end"""
    ticks: tuple[tuple[float, str], ...]
    """(value, text), in the order of the axis"""
    logarithmic: bool = False
    """equal ratios, rather than equal differences, take equal room"""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"Scale: low must be below high; got {self.low} and {self.high}")
        if self.logarithmic and self.low <= 0:
            raise ValueError(f"Scale: a logarithmic axis must start above 0; got {self.low}")

    def at(self, value: float) -> float:
        """Where a value stands, as a fraction of the axis; values beyond an end are put at it."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    @classmethod
    def linear(cls, low: float, high: float, *, count: int = 5, tight: bool = False) -> Scale:
        """Round ticks over an interval that is widened to end on them, or left as it is when ``tight``."""
        if not low < high:
            room = max(0.5, 1e-9 * abs(low))  # of large numbers a half is rounded away
            low, high = low - room, low + room
        step = _round_step((high - low) / count)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        ticks = tuple((i * step, f"{i * step:,.{digits}f}") for i in range(first, last + 1))
        if not tight:
            return cls(low=ticks[0][0], high=ticks[-1][0], ticks=ticks)
        slack = 1e-9 * step
        inside = tuple(tick for tick in ticks if low - slack <= tick[0] <= high + slack)
        return cls(low=low, high=high, ticks=inside)

    @classmethod
    def percent(cls) -> Scale:
        """0 to 100 % for values from 0 to 1."""
        ticks = tuple((i / 4, f"{25 * i} %") for i in range(5))
        return cls(low=0.0, high=1.0, ticks=ticks)

    @classmethod
    def powers(cls, low: float, high: float) -> Scale:
        """A logarithmic axis with ticks at powers of ten."""
        first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
        last = max(last, first + 1)
        every = max(1, math.ceil((last - first) / 6))
        ticks = tuple((10.0**i, _power(i)) for i in range(first, last + 1, every))
        return cls(low=10.0**first, high=10.0**last, ticks=ticks, logarithmic=True)

    @classmethod
    def at_values(cls, values: Iterable[float]) -> Scale:
        """A logarithmic axis with a tick at each of these values, and a little room around them."""
        ordered = sorted(set(values))
        ticks = tuple((value, f"{value:,.0f}") for value in ordered)
        return cls(low=ordered[0] / 1.25, high=ordered[-1] * 1.25, ticks=ticks, logarithmic=True)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if rough <= step * power * (1 + 1e-9))


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power(exponent: int) -> str:
    return {-2: "0.01", -1: "0.1", 0: "1", 1: "10", 2: "100"}.get(
        exponent, f"10{str(exponent).translate(_SUPERSCRIPTS)}"
    )


def marker(x: float, y: float, series: int, title: str | None = None, size: float = 4.0) -> Html:
    """The mark of a series, of which both shape and colour tell who it is."""
    attributes = {"class_": f"mark s{series}"}
    children = [tag("title", title)] if title else []
    shape = series % 4
    if shape == 1:
        return tag("circle", *children, cx=x, cy=y, r=size, **attributes)
    if shape == 2:
        side = 1.8 * size
        return tag(
            "rect", *children, x=x - side / 2, y=y - side / 2, width=side, height=side, rx=1, **attributes
        )
    reach = 1.3 * size
    if shape == 3:
        corners = ((x, y - reach), (x + reach, y + 0.8 * reach), (x - reach, y + 0.8 * reach))
    else:
        corners = ((x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y))
    return tag("path", *children, d=f"M{_written(corners, ' L')} Z", **attributes)


def legend(entries: Sequence[tuple[int, str]]) -> Html:
    """Swatch and name of each series, as HTML that wraps on a narrow screen.

    Every second series is dashed, so that of two that coincide both can be seen.
    """
    items = [
        tag(
            "li",
            tag(
                "svg",
                tag("line", x1=0, y1=7, x2=26, y2=7, class_=f"line s{series}"),
                marker(13, 7, series),
                viewBox="0 0 26 14",
                width=26,
                height=14,
                aria_hidden="true",
            ),
            name,
        )
        for series, name in entries
    ]
    return tag("ul", *items, class_="legend")


class Plot:
    """Axes to which lines and marks are added; :meth:`svg` writes the whole.

    Series are numbered from 1; the page's style sheet gives each number a colour.
    """

    def __init__(
        self, x: Scale, y: Scale, *, x_label: str, y_label: str, width: int = 720, height: int = 330
    ) -> None:
        self.x, self.y = x, y
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = 64.0, 26.0, 14.0, 48.0
        self._labels = (x_label, y_label)
        self._parts: list[Html] = []

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The point of the picture at which a pair of values stands."""
        inner_width = self.width - self.left - self.right
        inner_height = self.height - self.top - self.bottom
        return self.left + inner_width * self.x.at(x), self.top + inner_height * (1 - self.y.at(y))

    def line(self, points: Points, series: int, *, faint: bool = False) -> None:
        """Straight lines through the points."""
        placed = [self.place(x, y) for x, y in points if math.isfinite(y)]
        kind = "line faint" if faint else "line"
        self._parts.append(tag("polyline", points=_written(placed, " "), class_=f"{kind} s{series}"))

    def marks(self, points: Points, series: int, titles: Sequence[str] | None = None) -> None:
        """The series' mark at each point, with what the pointer shows over it."""
        for index, (x, y) in enumerate(points):
            title = titles[index] if titles else None
            self._parts.append(marker(*self.place(x, y), series, title))

    def levels(self, named: Sequence[tuple[float, str]]) -> None:
        """Dashed horizontal lines, each with its name below its right end, or above where that is taken."""
        right, last = self.width - self.right, math.inf
        for y, text in sorted(named):
            left, height = self.place(self.x.low, y)
            above, last = last - height < _LINE_OF_TEXT, height
            self._parts.append(tag("line", x1=left, y1=height, x2=right, y2=height, class_="level"))
            place = height - 6 if above else height + 15
            self._parts.append(tag("text", text, x=right - 4, y=place, class_="note", text_anchor="end"))

    def moment(self, x: float, text: str) -> None:
        """A dashed vertical line with its name at the foot."""
        across, foot = self.place(x, self.y.low)
        self._parts.append(tag("line", x1=across, y1=self.top, x2=across, y2=foot, class_="level"))
        self._parts.append(tag("text", text, x=across + 6, y=foot - 8, class_="note"))

    def svg(self, title: str) -> Html:
        """The picture, with ``title`` for those who cannot see it."""
        return picture(
            render(tag("title", title), self._frame(), *self._parts), self.width, self.height, title
        )

    def _frame(self) -> Html:
        foot, right = self.height - self.bottom, self.width - self.right
        parts = []
        for value, text in self.y.ticks:
            _, height = self.place(self.x.low, value)
            parts.append(tag("line", x1=self.left, y1=height, x2=right, y2=height, class_="grid"))
            parts.append(tag("text", text, x=self.left - 10, y=height + 4, class_="tick", text_anchor="end"))
        for value, text in self.x.ticks:
            across, _ = self.place(value, self.y.low)
            parts.append(tag("line", x1=across, y1=foot, x2=across, y2=foot + 5, class_="axis"))
            parts.append(tag("text", text, x=across, y=foot + 20, class_="tick", text_anchor="middle"))
        parts.append(tag("line", x1=self.left, y1=foot, x2=right, y2=foot, class_="axis"))
        x_label, y_label = self._labels
        middle, center = (self.left + right) / 2, (self.top + foot) / 2
        parts.append(tag("text", x_label, x=middle, y=self.height - 8, class_="label", text_anchor="middle"))
        parts.append(
            tag(
                "text",
                y_label,
                transform=f"translate(14 {center:.0f}) rotate(-90)",
                class_="label",
                text_anchor="middle",
            )
        )
        return render(*parts)


def picture(content: Html, width: int, height: int, title: str, *, class_: str = "plot") -> Html:
    """An inline SVG that scales with the page and has a name."""
    return tag("svg", content, viewBox=f"0 0 {width} {height}", role="img", aria_label=title, class_=class_)


def _written(points: Points, separator: str) -> str:
    return separator.join(f"{x:.1f},{y:.1f}" for x, y in points)
