"""The plot beside summary.json: accuracy and gas by round."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def plot_summary(summary: dict[str, Any], path: Path) -> None:
    """Writes a PNG with two panels."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rounds = summary["rounds"]
    numbers = [item["round"] for item in rounds]
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(8, 7), sharex=True, layout="constrained")
    upper.plot(numbers, [item["accuracy"] for item in rounds], marker="o", label="market")
    upper.axhline(summary["accuracy_plain"], linestyle="--", color="grey", label="plain, final")
    upper.set_ylabel("accuracy on the model owner's rows")
    upper.set_ylim(0, 1)
    upper.legend(loc="lower right")
    upper.set_title(
        f"{summary['owner_count']} owners in {summary['group_count']} groups of {summary['group_size']}, "
        f"{summary['values']} values, {summary['protection']}"
    )
    functions = sorted({name for item in rounds for name in item["gas"]})
    bottom = [0.0] * len(rounds)
    for name in functions:
        heights = [item["gas"].get(name, 0) / 1e6 for item in rounds]
        lower.bar(numbers, heights, bottom=bottom, label=name)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    lower.set_ylabel("gas, millions")
    lower.set_xlabel("round")
    if functions:
        lower.legend(loc="upper right", ncols=3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
