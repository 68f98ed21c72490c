"""Reports: one self-contained page of HTML, made of small pieces.

    page         Page and Section: the page and its table of contents
    elements     text, tables, figures, verdicts, configs, provenance
    figures      learning curves, accuracy against length, decay, bars
    transitions  matrices, and eigenvalues in the unit circle

Drawings are inline SVG whose colours come from the page, so that one page reads well in light and in dark.
Text is escaped unless it is an :class:`Html`.
"""

from .elements import (
    Column,
    command,
    configs,
    figure,
    formula,
    machine,
    panels,
    sample,
    table,
    text,
    verdicts,
)
from .figures import Bar, Curve, accuracy_by_length, bars, decay, learning_curves
from .html import Html, render, tag
from .page import Page, Section
from .transitions import Dots, block_structure, matrix, spectrum_legend, unit_circle

__all__ = [
    "Bar",
    "Column",
    "Curve",
    "Dots",
    "Html",
    "Page",
    "Section",
    "accuracy_by_length",
    "bars",
    "block_structure",
    "command",
    "configs",
    "decay",
    "figure",
    "formula",
    "learning_curves",
    "machine",
    "matrix",
    "panels",
    "render",
    "sample",
    "spectrum_legend",
    "table",
    "tag",
    "text",
    "unit_circle",
    "verdicts",
]
