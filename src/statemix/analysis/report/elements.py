"""What sections are made of: text, tables, figures with captions, verdicts, configs, provenance."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from .html import Html, render, tag
from .svg import marker


def text(*paragraphs: Any) -> Html:
    """Paragraphs; a paragraph is text, or a list of text and finished HTML."""
    return render(*(tag("p", paragraph) for paragraph in paragraphs))


def figure(drawing: Html, *, title: str, caption: Any) -> Html:
    """A drawing with a title and a caption: what it shows, and what to look for."""
    return tag(
        "figure",
        tag("div", drawing, class_="drawing"),
        tag("figcaption", tag("b", title), " ", caption),
    )


def panels(*items: tuple[str, Html, Any], small: bool = False) -> Html:
    """Small drawings side by side, each (title, drawing, detail)."""
    return tag(
        "div",
        *(
            tag(
                "div",
                tag("p", title, class_="title"),
                drawing,
                tag("p", detail, class_="detail") if detail else None,
                class_="panel",
            )
            for title, drawing, detail in items
        ),
        class_="panels small" if small else "panels",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table."""

    title: str
    """what stands above it"""
    number: bool = True
    """aligned at the right, in digits of one width"""


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Any]],
    *,
    caption: Any = None,
    series: Sequence[int] | None = None,
    best: Sequence[tuple[int, int]] = (),
) -> Html:
    """A table that scrolls on a narrow screen.

    Args:
        columns: one for each cell of a row.
        rows: cells, text or finished HTML.
        caption: what the table says.
        series: for each row, the number of the series whose mark its first cell carries.
        best: (row, column) of the cells to emphasise.

    Raises:
        ValueError: a row has another number of cells than there are columns.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"table: every row must have {len(columns)} cells; got {len(row)}: {list(row)}")

    def cell(row: int, column: int, content: Any) -> Html:
        classes = ["number"] if columns[column].number else []
        if (row, column) in best:
            classes.append("best")
        swatch = _swatch(series[row]) if series is not None and column == 0 else None
        return tag("td", swatch, content, class_=" ".join(classes) or None)

    head = tag(
        "tr", *(tag("th", c.title, class_="number" if c.number else None, scope="col") for c in columns)
    )
    body = [tag("tr", *(cell(i, j, content) for j, content in enumerate(row))) for i, row in enumerate(rows)]
    # Outside of what scrolls: a caption inside would be as wide as the table, and cut off with it.
    return render(
        tag("p", caption, class_="caption") if caption else None,
        tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="scroll"),
    )


def _swatch(series: int) -> Html:
    return tag(
        "svg", marker(7, 7, series, size=4.5), width=14, height=14, class_="swatch", aria_hidden="true"
    )


def verdicts(items: Sequence[tuple[str, str, bool | None]]) -> Html:
    """Sentences that say what was found: (topic, sentence, as hoped for, or not, or neither)."""
    kinds = {True: "good", False: "bad", None: None}
    entries = (tag("li", tag("b", topic), sentence, class_=kinds[good]) for topic, sentence, good in items)
    return tag("ul", *entries, class_="verdicts")


def formula(content: Html, *, name: str) -> Html:
    """A displayed formula and whose it is."""
    return tag("div", tag("span", content), tag("span", name, class_="who"), class_="formula")


def command(*lines: str) -> Html:
    """Commands to be typed, one a line."""
    return tag("pre", *(render(tag("span", "$ ", class_="prompt"), line, "\n") for line in lines))


def sample(content: str) -> Html:
    """Text that a model wrote, with its line breaks; a dot stands for what has no shape on a page."""
    shown = "".join(c if c in "\n\t" or c.isprintable() else "·" for c in content)
    return tag("pre", shown, class_="wrap")


def configs(named: Mapping[str, Any]) -> Html:
    """Whole configurations, folded away, one fold each."""
    return render(
        *(
            tag("details", tag("summary", name), tag("pre", json.dumps(_plain(config), indent=2)))
            for name, config in named.items()
        )
    )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
