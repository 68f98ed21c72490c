"""Draws learning curves: python benchmarks/language_curves.py TABLE_curves.csv FIGURE.svg [--size lm-10m]

Needs matplotlib. Each curve is the training loss in bits a token over the tokens seen, a mean of five points,
of the first seed of each mixer. One figure is of one size, the first of the table unless another is named.
"""

import argparse
import csv
import math
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

plt.rcParams["svg.hashsalt"] = "statemix"
NAMES = {
    "bdlru-1": ("BD-LRU m = 1", "tab:cyan", "-"),
    "bdlru-2": ("BD-LRU m = 2", "tab:blue", "-"),
    "bdlru-4": ("BD-LRU m = 4", "navy", "-"),
    "hlru-2": ("H-LRU m = 2", "tab:orange", "-"),
    "hlru-4": ("H-LRU m = 4", "tab:brown", "-"),
    "deltanet": ("DeltaNet", "tab:green", "-"),
    "gated-deltanet": ("Gated DeltaNet", "tab:olive", "-"),
    "mamba2": ("Mamba-2", "tab:gray", "-"),
    "lstm": ("LSTM", "tab:pink", "-"),
    "attention": ("attention", "tab:red", "-"),
    "bdlru-2+attention": ("BD-LRU m = 2 and attention", "tab:blue", "--"),
    "hlru-2+attention": ("H-LRU m = 2 and attention", "tab:orange", "--"),
}
SMOOTHED = 5


def curves(path: Path, size: str | None) -> dict[str, list[tuple[float, float]]]:
    """Millions of tokens and bits a token, by mixer; the first seed of each, at one size."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in csv.DictReader(path.open()):
        # A cell is size-mixer-seed, and sizes have one dash.
        *of_size, rest = row["cell"].split("-", 2)
        size = size or "-".join(of_size)
        if "-".join(of_size) != size:
            continue
        mixer, seed = rest.rsplit("-", 1)
        found[mixer][int(seed)].append((int(row["tokens"]) / 1e6, float(row["loss"]) / math.log(2)))
    return {mixer: seeds[min(seeds)] for mixer, seeds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("figure", type=Path)
    parser.add_argument("--size", help="default: the first in the table")
    arguments = parser.parse_args()
    by_mixer = curves(arguments.table, arguments.size)
    if not by_mixer:
        parser.error(f"{arguments.table} has no curves of {arguments.size or 'any size'}")
    axes = plt.figure(figsize=(7.2, 4.2)).subplots()
    lowest = math.inf
    for mixer in sorted(by_mixer, key=lambda name: -by_mixer[name][-1][1]):
        points = by_mixer[mixer]
        label, color, style = NAMES[mixer]
        tokens = [x for x, _ in points][SMOOTHED - 1 :]
        bits = [sum(y for _, y in points[i : i + SMOOTHED]) / SMOOTHED for i in range(len(tokens))]
        lowest = min(lowest, *bits)
        axes.plot(tokens, bits, style, color=color, lw=1.3, label=label)
    axes.set(
        xscale="log", yscale="log", yticks=[0.7, 0.8, 1, 1.2, 1.5, 2, 2.5], xticks=[10, 20, 50, 100, 200]
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0.96 * lowest, 2.6)
    axes.set_xlabel("million tokens of training")
    axes.set_ylabel("bits a token, training")
    axes.legend(fontsize=8, frameon=False)
    axes.figure.tight_layout()
    axes.figure.savefig(arguments.figure, metadata={"Date": None})


if __name__ == "__main__":
    main()
