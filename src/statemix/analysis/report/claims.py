"""The page of claims: for each its verdict, the numbers of every seed with their intervals, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .elements import Column, command, figure, table, text, verdicts
from .html import Html, render, tag
from .machine import machine
from .page import Page, Section
from .svg import Scale, marker, picture

Interval = tuple[float, float]

_GOOD = {"holds": True, "does not hold": False, "undecided": None}


@dataclass(frozen=True, kw_only=True)
class ClaimFindings:
    """What the page shows of one claim."""

    name: str
    """as it is typed"""
    statement: str
    """what the paper says"""
    reason: str
    """why it should be so, and how it was checked"""
    verdict: str
    """holds, does not hold or undecided"""
    metric: str
    """what each number is"""
    values: Mapping[str, Sequence[float]]
    """for each model one number a seed"""
    intervals: Mapping[str, Interval | None]
    """95 % interval of each model's mean"""
    comparisons: Sequence[tuple[str, Interval | None, str]]
    """(inequality, interval, answer): what the verdict was computed from"""
    notes: Sequence[str]
    """what else is to be said, such as runs that diverged"""
    budget: str
    """minutes, hour or paper"""
    command: str
    """what makes the numbers again"""
    facts: str
    """device, versions, date, commit"""


def claims_page(findings: Sequence[ClaimFindings]) -> Page:
    """The whole page."""
    counts = {answer: sum(f.verdict == answer for f in findings) for answer in _GOOD}
    device = dict(machine())
    return Page(
        title="The paper's claims, with numbers",
        lead="What was claimed for block-diagonal and higher-order linear recurrences, run again: one "
        "number for every seed, and a verdict that is computed from them.",
        facts=[
            *((answer, str(count)) for answer, count in counts.items()),
            ("statemix", device["statemix"]),
            ("PyTorch", device["PyTorch"]),
        ],
        sections=[_in_short(findings), *map(claim_section, findings)],
    )


def claim_section(findings: ClaimFindings) -> Section:
    """Verdict, figure, and what it was computed from."""
    columns = [
        Column(title="what the claim needs", number=False),
        Column(title="95 % interval"),
        Column(title="the numbers say", number=False),
    ]
    rows = [[wanted, _written(interval), answer] for wanted, interval, answer in findings.comparisons]
    return Section(
        title=findings.name,
        body=render(
            verdicts([(findings.verdict, findings.statement, _GOOD[findings.verdict])]),
            text(findings.reason),
            figure(
                intervals(findings.values, findings.intervals, label=findings.metric),
                title=f"{findings.metric[:1].upper()}{findings.metric[1:]}.",
                caption="Every mark is one seed (or round of measurement), the bar the 95 % t-interval of "
                "their mean. A model with one seed has no interval.",
            ),
            table(
                columns,
                rows,
                caption="The claim holds where all of these hold, does not where one is refuted, and is "
                "undecided else. Differences: Welch's interval over seeds.",
            ),
            text(*findings.notes) if findings.notes else None,
            command(findings.command),
            tag("p", f"Budget: {findings.budget}. {findings.facts}", class_="caption"),
        ),
    )


def intervals(
    values: Mapping[str, Sequence[float]], means: Mapping[str, Interval | None], *, label: str
) -> Html:
    """A row for each model: a mark for each number, and the interval of their mean as a bar."""
    numbers = [n for some in values.values() for n in some] + [n for i in means.values() if i for n in i]
    share = all(0 <= n <= 1 for some in values.values() for n in some)
    scale = Scale.percent() if share else Scale.linear(min(0.0, *numbers), max(numbers))
    row, left, width = 34, 210, 720
    room = width - left - 30
    bottom = len(values) * row + 6

    def at(value: float) -> float:
        return left + room * scale.at(value)

    parts: list[Html] = []
    for value, words in scale.ticks:
        x = at(value)
        parts.append(tag("line", x1=x, y1=4, x2=x, y2=bottom, class_="grid"))
        parts.append(tag("text", words, x=x, y=bottom + 17, text_anchor="middle", class_="tick"))
    for index, (model, some) in enumerate(values.items()):
        series, y = index % 7 + 1, index * row + 22.0
        parts.append(tag("text", model, x=left - 12, y=y + 4, text_anchor="end", class_="label"))
        interval = means.get(model)
        if interval is not None:
            start, end = at(interval[0]), at(interval[1])
            said = tag("title", f"{model}: {_written(interval)}")
            parts.append(
                tag(
                    "rect", said, x=start, y=y - 8, width=max(end - start, 2.0), height=16, rx=3,
                    class_=f"band s{series}",
                )
            )  # fmt: skip
        parts += [marker(at(number), y, series, f"{model}: {number:.4g}") for number in some]
    parts.append(tag("line", x1=left, y1=4, x2=left, y2=bottom, class_="axis"))
    return picture(render(parts), width, bottom + 28, label)


def _in_short(findings: Sequence[ClaimFindings]) -> Section:
    return Section(
        title="In short",
        body=render(
            text(
                "A verdict is computed, not chosen: undecided says that the seeds of this budget do not "
                "decide, which at the smallest budget is the honest answer to most questions."
            ),
            verdicts([(f"{f.name}: {f.verdict}", f.statement, _GOOD[f.verdict]) for f in findings]),
        ),
    )


def _written(interval: Interval | None) -> str:
    return "no interval" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
