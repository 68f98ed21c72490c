"""Reports: one self-contained page of HTML, made of small pieces.

    page         Page and Section: the page and its table of contents
    elements     text, tables, figures, verdicts, configs
    machine      versions, system, device
    figures      learning curves, accuracy against length, decay, bars
    transitions  matrices, and eigenvalues in the unit circle
    model        ModelFindings and model_page: the page about one trained model
    state_tracking, language, demo, claims
                 whole sections, and pages of their own

Drawings are inline SVG whose colours come from the page, so that one page reads well in light and in dark.
Text is escaped unless it is an :class:`Html`.
"""

from .elements import (
    Column,
    command,
    configs,
    figure,
    formula,
    panels,
    sample,
    table,
    text,
    verdicts,
)
from .figures import Bar, Curve, accuracy_by_length, bars, decay, learning_curves
from .html import Html, render, tag
from .machine import machine
from .model import ModelFindings, model_page
from .page import Page, Section
from .transitions import Dots, block_structure, matrix, spectrum_legend, unit_circle

__all__ = [
    "Bar",
    "Column",
    "Curve",
    "Dots",
    "Html",
    "ModelFindings",
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
    "model_page",
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
