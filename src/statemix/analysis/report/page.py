"""One self-contained page: a head, a table of contents, sections; nothing is loaded from anywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from statemix.files import write_whole

from .html import Html, render, tag

# The browser itself refuses whatever the page would fetch, were a section ever to name it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page that the table of contents names."""

    title: str
    """plain text"""
    body: Html
    """finished HTML"""

    @property
    def anchor(self) -> str:
        """What a link to this section ends with."""
        return re.sub(r"[\W_]+", "-", self.title.lower()).strip("-") or "section"


@dataclass(frozen=True, kw_only=True)
class Page:
    """A report, ready to be written."""

    title: str
    """plain text, for the head and the browser's tab"""
    lead: str
    """one or two sentences below the title"""
    facts: Sequence[tuple[str, str]] = ()
    """(name, value) pairs shown below the lead: date, device, seed"""
    sections: Sequence[Section]
    """in the order of reading"""

    def html(self) -> str:
        """The whole page as text.

        Raises:
            ValueError: two sections have one title.
        """
        anchors = [section.anchor for section in self.sections]
        twice = sorted({a for a in anchors if anchors.count(a) > 1})
        if twice:
            raise ValueError(f"Page: section titles must differ; several make the anchor {twice[0]!r}")
        style = resources.files(__package__ or __name__).joinpath("page.css").read_text("utf-8")
        head = render(
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("title", self.title),
            tag("style", Html(style)),
        )
        body = tag(
            "div",
            tag(
                "header",
                tag("h1", self.title),
                tag("p", self.lead, class_="lead"),
                self._facts(),
                class_="top",
            ),
            tag("div", self._contents(), tag("main", *map(_written, self.sections)), class_="columns"),
            class_="frame",
        )
        return f"<!doctype html>\n{tag('html', tag('head', head), tag('body', body), lang='en')}\n"

    def write(self, path: Path | str) -> Path:
        """Write the page so that a reader finds the old one or the new one, never half of it."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self.html().encode())
        return path

    def _facts(self) -> Html | None:
        if not self.facts:
            return None
        return tag(
            "ul", *(tag("li", name, " ", tag("b", value)) for name, value in self.facts), class_="facts"
        )

    def _contents(self) -> Html:
        links = (tag("li", tag("a", s.title, href=f"#{s.anchor}")) for s in self.sections)
        return tag("nav", tag("p", "On this page", class_="name"), tag("ol", *links))


def _written(section: Section) -> Html:
    return tag("section", tag("h2", section.title), section.body, id=section.anchor)
