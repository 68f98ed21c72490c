"""The section on a language model: bits per byte beside compressors, learning, spectra, a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..spectra import Spectrum
from .elements import figure, panels, sample, text
from .figures import Bar, Curve, bars, learning_curves
from .html import Html, render, tag
from .page import Section
from .transitions import Dots, unit_circle


@dataclass(frozen=True, kw_only=True)
class LanguageFindings:
    """What a byte-level language model came to."""

    name: str
    """of the model"""
    series: int
    """its colour"""
    parameters: int
    """numbers that were trained"""
    seconds: float
    """spent on its training"""
    tokens: int
    """bytes it was trained on, repeats included"""
    corpus: str
    """one line that says exactly what was read"""
    bits_per_byte: float
    """on held-out files"""
    baselines: Mapping[str, float]
    """bits per byte of others on the same files, by name"""
    steps: Sequence[float]
    """training steps at which the next was measured"""
    training_bits: Sequence[float]
    """bits per byte on the batches of training"""
    spectra: Sequence[Spectrum]
    """of each layer on held-out text"""
    prompt: str
    """what the sample begins with"""
    continuation: str
    """what the model wrote after it"""
    temperature: float
    """of the sampling"""


def language_section(findings: LanguageFindings, *, title: str, introduction: Html) -> Section:
    """Bars, learning curve, spectra of each layer, and the sample."""
    entries = [Bar(name=findings.name, value=findings.bits_per_byte, series=findings.series)]
    entries += [Bar(name=name, value=value, series=7) for name, value in findings.baselines.items()]
    entries.sort(key=lambda bar: bar.value)
    curve = Curve(name=findings.name, series=findings.series, x=findings.steps, y=findings.training_bits)
    levels = [(value, name) for name, value in findings.baselines.items()]
    return Section(
        title=title,
        body=render(
            introduction,
            tag("p", tag("b", "Text: "), findings.corpus, "."),
            figure(
                bars(entries, unit="bits per byte on held-out files (shorter is better)"),
                title="Bits per byte.",
                caption="The length to which each would compress the same held-out files. The unigram model "
                "knows how often each byte occurs and nothing else; gzip and xz see only the files that they "
                "compress, but all of what came before in them; the language model has read other files.",
            ),
            figure(
                learning_curves([curve], y_label="bits per byte, training batches", levels=levels),
                title="Learning curve.",
                caption=f"{findings.tokens / 1e6:.1f} million bytes in {findings.seconds:.0f} seconds. Look "
                "for the slope at the end: where it still falls, more time would still help.",
            ),
            _spectra(findings),
            tag("h3", "A sample it wrote"),
            text(
                f"The model was given {findings.prompt!r} and wrote on, one byte at a time, at temperature "
                f"{findings.temperature:g}. Nothing was picked: this is the first sample of the run's seed."
            ),
            sample(findings.prompt + findings.continuation),
        ),
    )


def _spectra(findings: LanguageFindings) -> Html | None:
    if not findings.spectra:
        return None
    drawn = []
    for number, spectrum in enumerate(findings.spectra, 1):
        summary = spectrum.summary()
        dots = [Dots(name="", series=findings.series, eigenvalues=spectrum.eigenvalues)]
        detail = (
            f"{summary.complex_share:.0%} turn, {summary.negative_share:.0%} flip; half forget within "
            f"{summary.median_memory:.1f} steps"
        ).replace("%", " %")
        drawn.append((f"layer {number}", unit_circle(dots, title=f"eigenvalues of layer {number}"), detail))
    return figure(
        panels(*drawn),
        title="Eigenvalues on held-out text.",
        caption="Each dot is an eigenvalue of one block at one byte. Text asks for fading memories of many "
        "lengths rather than for lasting states: look for dots inside the disc instead of on its rim.",
    )
