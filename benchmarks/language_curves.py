"""Draws learning curves of language models: python benchmarks/language_curves.py TABLE_curves.csv FIGURE.svg

Needs matplotlib. Each curve is the training loss in bits a token over the tokens seen, a mean of five points.
"""

import csv
import math
import sys
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


def curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Millions of tokens and bits a token, by mixer; the first seed of each."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in csv.DictReader(path.open()):
        # A cell is size-mixer-seed, and sizes have one dash.
        _, _, rest = row["cell"].split("-", 2)
        mixer, seed = rest.rsplit("-", 1)
        found[mixer][int(seed)].append((int(row["tokens"]) / 1e6, float(row["loss"]) / math.log(2)))
    return {mixer: seeds[min(seeds)] for mixer, seeds in found.items()}


def main() -> None:
    table, figure = Path(sys.argv[1]), Path(sys.argv[2])
    axes = plt.figure(figsize=(7.2, 4.2)).subplots()
    by_mixer = curves(table)
    for mixer in sorted(by_mixer, key=lambda name: -by_mixer[name][-1][1]):
        points = by_mixer[mixer]
        label, color, style = NAMES[mixer]
        tokens = [x for x, _ in points][SMOOTHED - 1 :]
        bits = [sum(y for _, y in points[i : i + SMOOTHED]) / SMOOTHED for i in range(len(tokens))]
        axes.plot(tokens, bits, style, color=color, lw=1.3, label=label)
    axes.set(
        xscale="log", yscale="log", yticks=[0.7, 0.8, 1, 1.2, 1.5, 2, 2.5], xticks=[10, 20, 50, 100, 200]
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0.68, 2.6)
    axes.set_xlabel("million tokens of training")
    axes.set_ylabel("bits a token, training")
    axes.legend(fontsize=8, frameon=False)
    axes.figure.tight_layout()
    axes.figure.savefig(figure, metadata={"Date": None})


if __name__ == "__main__":
    main()
