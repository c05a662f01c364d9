"""Plots of the page of facts: bandits, over-optimisation, gold over KL, dots by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_bench.laws import Curve, fit, mean_curve
from rlhf_bench.suite import BASE

DPI = 90
SHAPES = "osD^v"


def bandits(by_tau: Mapping[float, float], by_steps: Mapping[float, Mapping[int, float]], file: Path) -> None:
    """The probability of the best of three actions: IPO's by tau, DPO's by steps of gradient descent."""
    figure, (left, right) = _panels(2)
    left.semilogx(list(by_tau), list(by_tau.values()), "o-")
    left.set(title="IPO at its minimum", xlabel="tau", ylabel="probability of a", ylim=(0.3, 1.02))
    for beta, curve in by_steps.items():
        right.semilogx(list(curve), list(curve.values()), label=f"beta {beta:g}")
    right.set(title="DPO, which has none", xlabel="steps of gradient descent")
    right.legend()
    figure.savefig(file, dpi=DPI)


def over_optimisation(curves: Mapping[tuple[str, str], Sequence[Curve]], file: Path) -> None:
    """A panel a task: the mean gain in gold of each algorithm at the same KL, and Gao's form."""
    tasks = list(dict.fromkeys(task for task, _ in curves))
    figure, panels = _panels(len(tasks))
    for axes, task in zip(panels, tasks, strict=True):
        of_task = {name: seeds for (own, name), seeds in curves.items() if own == task}
        for place, (name, seeds) in enumerate(of_task.items()):
            kl, gain = mean_curve(seeds)
            found, d = fit("rl", kl, gain), np.linspace(0.1, np.sqrt(kl[-1]), 100)
            axes.plot(np.sqrt(kl), gain, ".", color=f"C{place}")
            axes.plot(d, d * (found.a - found.b * np.log(d)), color=f"C{place}", label=name.replace("_", " "))
        axes.axhline(0, color="gray", linewidth=0.5)
        axes.set(title=task, xlabel="sqrt(KL)")
    panels[0].set_ylabel("gain in gold (dots), form (lines)")
    panels[0].legend()
    figure.savefig(file, dpi=DPI)


def frontiers(suite: Mapping[str, Any], file: Path) -> None:
    """A panel a task: gold with its interval over KL, of each value of each algorithm's knob, and of the base."""
    figure, panels = _panels(len(suite["tasks"]))
    for axes, task in zip(panels, suite["tasks"], strict=True):
        mine = {line["algorithm"]: line for line in suite["lines"] if line["task"] == task}
        for place, name in enumerate(dict.fromkeys(f["algorithm"] for f in suite["frontiers"])):
            of = [line for label, line in mine.items() if label.split(" ")[0] == name]
            _points(axes, sorted(of, key=_kl), label=name, fmt=f"{SHAPES[place]}-", color=f"C{place}")
        if BASE in mine:
            _points(axes, [mine[BASE]], label="base", fmt="x", color="gray")
        axes.set(title=task, xlabel="KL to the base, nats a response")
    panels[0].set_ylabel("gold reward")
    panels[0].legend()
    figure.savefig(file, dpi=DPI)


def dots(panels: Mapping[str, Mapping[str, Sequence[float]]], measure: str, file: Path) -> None:
    """A panel a group: a row of dots a name, one a seed, and their mean."""
    figure, drawn = _panels(len(panels), together=False)
    for axes, (title, of) in zip(drawn, panels.items(), strict=True):
        for row, values in enumerate(of.values()):
            axes.plot(values, [row] * len(values), "o", color="C0", alpha=0.5)
            axes.plot(np.mean(values), row, "|", color="black", markersize=16)
        axes.set(title=title, xlabel=f"{measure}, by seed and mean", yticks=range(len(of)), yticklabels=list(of))
        axes.invert_yaxis()
    figure.savefig(file, dpi=DPI)


def _points(axes: Any, lines: list[dict[str, Any]], **look: Any) -> None:
    golds = [line["gold"] for line in lines]
    spans = [[abs(gold["mean"] - (gold[end] or gold["mean"])) for gold in golds] for end in ("low", "high")]
    axes.errorbar([_kl(line) for line in lines], [gold["mean"] for gold in golds], spans, capsize=2, **look)


def _kl(line: Mapping[str, Any]) -> float:
    return line["means"]["kl"] or 0.0


def _panels(number: int, together: bool = True) -> tuple[Any, list[Any]]:
    """A figure with so many panels side by side, which may share the vertical axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * number, 3.6), layout="constrained")
    return figure, list(figure.subplots(1, number, sharey=together, squeeze=False)[0])
