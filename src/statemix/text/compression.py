"""What a compressor makes of the held-out text, in bits per byte: the ruler for a language model."""

from __future__ import annotations

import gzip
import lzma

import numpy as np

from .corpora import Corpus


def gzip_bits_per_byte(text: np.ndarray) -> float:
    """gzip at its strongest setting, which sees the text alone.

    Examples:
        >>> gzip_bits_per_byte(np.zeros(100_000, dtype=np.uint8)) < 0.05
        True
    """
    return 8 * len(gzip.compress(text.tobytes(), 9, mtime=0)) / len(text)


def lzma_bits_per_byte(text: np.ndarray) -> float:
    """xz at its strongest setting, which sees the text alone."""
    return 8 * len(lzma.compress(text.tobytes(), preset=9 | lzma.PRESET_EXTREME)) / len(text)


def unigram_bits_per_byte(train: np.ndarray, text: np.ndarray) -> float:
    """A model that knows how often each byte comes, counted over ``train`` and smoothed by one."""
    counts = np.bincount(train, minlength=256) + 1.0
    return float(-np.log2(counts / counts.sum())[text].mean())


def baselines(corpus: Corpus) -> dict[str, float]:
    """Bits per byte of the held-out files by name of the compressor, worst first as a rule.

    Examples:
        >>> from pathlib import Path
        >>> from statemix.text import text_files
        >>> _ = Path("a.txt").write_text("to be or not to be " * 1000)
        >>> found = baselines(text_files("a.txt"))
        >>> found["xz"] < found["unigram"]
        True
    """
    return {
        "unigram": unigram_bits_per_byte(corpus.train, corpus.held_out),
        "gzip": gzip_bits_per_byte(corpus.held_out),
        "xz": lzma_bits_per_byte(corpus.held_out),
    }
