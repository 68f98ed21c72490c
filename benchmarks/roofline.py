"""Draws a table of operators as a roofline: python benchmarks/roofline.py TABLE.csv FIGURE.svg

Needs matplotlib. Operations are the multiply-adds of the recurrence (forward) and of its gradients
(backward), two each; bytes are the floor. What normalising costs is in the time and in neither of them.
"""

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

plt.rcParams["svg.hashsalt"] = "statemix"
COLORS = {"bdlru": "tab:blue", "hlru": "tab:orange"}
MARKERS = {"forward": "o", "backward": "v"}
NAMES = {"bdlru": "BD-LRU", "hlru": "H-LRU"}


def intensity(row: dict[str, str]) -> float:
    """Operations for each byte of the floor."""
    m, size = int(row["m"]), {"float32": 4}.get(row["dtype"], 2)
    rows = m if row["family"] == "bdlru" else 1
    forward = row["direction"] == "forward"
    # Backward makes the coefficients' gradients as well: an outer product beside the product with the matrix.
    operations = 2 * rows * (m + 1) * (1 if forward else 2)
    tensors = rows * (m + 1) * (1 if forward else 2) + rows * (2 if forward else 4)
    return operations / (tensors * size)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("figure", type=Path)
    arguments = parser.parse_args()
    rows = [r for r in csv.DictReader(arguments.table.open()) if r["normalization"] == "softmax"]
    rows = [r for r in rows if r["dtype"] == "bfloat16" and r["N"] not in ("1000", "1023", "410")]
    copy = float(rows[0]["copy_gb_s"])
    axes = plt.figure(figsize=(7.2, 4.2)).subplots()
    for family, color in COLORS.items():
        for direction, marker in MARKERS.items():
            chosen = [r for r in rows if (r["family"], r["direction"]) == (family, direction)]
            x = [intensity(r) for r in chosen]
            y = [i * float(r["floor_gb_s"]) / 1e3 for i, r in zip(x, chosen, strict=True)]
            axes.scatter(x, y, c=color, marker=marker, s=22, label=f"{NAMES[family]} {direction}", alpha=0.75)
    ends = [min(map(intensity, rows)) * 0.9, max(map(intensity, rows)) * 1.1]
    for share, style in ((1.0, "-"), (0.8, ":")):
        label = f"device copy, {copy:.0f} GB/s" if share == 1 else "80 % of it"
        axes.plot(ends, [e * copy * share / 1e3 for e in ends], "k" + style, lw=1, label=label)
    axes.set(xscale="log", yscale="log", xticks=[0.5, 0.6, 0.7, 0.8, 0.9], yticks=[0.6, 1, 1.5, 2, 2.5])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("operations of the recurrence for each byte that must move")
    axes.set_ylabel("TFLOP/s")
    axes.legend(fontsize=8, frameon=False)
    axes.figure.tight_layout()
    axes.figure.savefig(arguments.figure, metadata={"Date": None})


if __name__ == "__main__":
    main()
