"""Text that is HTML already, and text that is not: what is not gets escaped, always."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

_EMPTY = frozenset({"br", "circle", "col", "hr", "img", "line", "meta", "path", "polyline", "rect", "wbr"})


class Html(str):
    """A piece of finished HTML; a plain ``str`` is text and gets escaped wherever it is put."""

    __slots__ = ()


def render(*children: Any) -> Html:
    """Join children: finished HTML as it is, anything else as escaped text, ``None`` as nothing.

    Examples:
        >>> render("1 < 2", Html("<br>"))
        '1 &lt; 2<br>'
    """
    return Html("".join(_pieces(children)))


def _pieces(children: Iterable[Any]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            yield str(child)
        elif isinstance(child, list | tuple):
            yield from _pieces(child)
        else:
            yield html.escape(str(child), quote=True)


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """One element. An attribute's ``_`` is written ``-``, a last one is dropped; ``None`` leaves it out.

    Numbers are rounded to two digits, which is finer than a screen shows.

    Examples:
        >>> tag("a", "R & D", href="#x", class_="link")
        '<a href="#x" class="link">R &amp; D</a>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_value(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY and not children:
        return Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{render(*children)}</{name}>")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)
