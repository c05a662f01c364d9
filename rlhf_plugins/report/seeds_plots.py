"""The plots of several seeds and settings: scores, score against KL, and curves of training; the theme is in `svg`."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rlhf_plugins.contract.metrics import PERCENTILES, percentile
from rlhf_plugins.report.curves import HELD_OUT, MEAN_LOSS, panels, panels_size, titled
from rlhf_plugins.report.labels import name_points
from rlhf_plugins.report.over_seeds import Groups, Row, rows
from rlhf_plugins.report.plots import arms, label
from rlhf_plugins.report.schema import CurveReport
from rlhf_plugins.report.svg import INK, MUTED, SERIES, WIDTH, Plot, or_nan, short, svg
from rlhf_plugins.report.words import number

_DOT: dict[str, Any] = {"marker": "o", "ms": 4, "alpha": 0.5, "mew": 0, "ls": "none"}  # of one seed


def seeds_plots(groups: Groups) -> list[Plot]:
    """Scores and score against KL, as far as policies have them, and the curves of each stage."""
    found = rows(groups)
    colours = _colours(found, {one.reference for reports in groups.values() for one in reports})
    placed = [row for row in found if row.kl is not None]
    stages = dict.fromkeys(stage.name for reports in groups.values() for one in reports for stage in one.stages)
    curves = [_curves(groups, stage, f"plot-stage-{place}") for place, stage in enumerate(stages)]
    return [
        *([_scores(found, colours)] if found else []),
        *([_frontier(placed, colours)] if any(row.kl and row.kl.mean for row in placed) else []),
        *(plot for plot in curves if plot is not None),
    ]


def _scores(found: Sequence[Row], colours: Mapping[str, str]) -> Plot:
    """A line for each policy of each setting: a dot a seed, the mean, and its interval over the seeds."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, row in enumerate(found):
            colour = colours[row.name]
            axes.plot([score for _, score in row.points], [place + 0.22] * len(row.points), color=colour, **_DOT)
            axes.errorbar(
                row.score.mean or 0.0, place, xerr=arms(row.score), fmt="D", color=colour, lw=2, ms=6, capsize=4
            )
            label(axes, number(row.score.mean), (row.score.mean or 0.0, place), (4, 6), ha="left")
        axes.set_yticks(range(len(found)), [short(row.name) for row in found], color=INK)
        axes.set_ylim(len(found) - 0.5, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("score per response")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))

    values = ", ".join(f"{row.name} {number(row.score.mean)}" for row in found)
    picture = svg("plot-scores", f"Score by policy: {values}.", (WIDTH, 1.2 + 0.42 * len(found)), draw)
    return Plot("Score by policy", "Dots are seeds, diamonds means with 95% confidence intervals over seeds.", picture)


def _frontier(found: Sequence[Row], colours: Mapping[str, str]) -> Plot:
    """Mean score against mean KL of each policy of each setting, with a dot a seed."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row in found:
            colour = colours[row.name]
            placed = [(kl, score) for kl, score in row.points if kl is not None]
            axes.plot([kl for kl, _ in placed], [score for _, score in placed], color=colour, **_DOT)
            axes.plot(*means[row.name], marker="D", ms=6, color=colour, ls="none")
        axes.margins(x=0.05, y=0.1)
        left, right = axes.get_xlim()
        axes.set_xlim(left, right + 0.2 * (right - left))
        axes.set_xlabel("KL to the reference (nats per response)")
        axes.set_ylabel("score per response")
        name_points(axes, means, [])

    means = {row.name: ((row.kl.mean if row.kl else None) or 0.0, row.score.mean or 0.0) for row in found}
    values = ", ".join(f"{name} {number(score)} at {number(kl, 1)} nats" for name, (kl, score) in means.items())
    picture = svg("plot-frontier", f"Score against KL: {values}.", (WIDTH, 3.3), draw)
    return Plot("Score against KL", "Dots are seeds, diamonds their means. Up and to the left is better.", picture)


def _curves(groups: Groups, stage: str, key: str) -> Plot | None:
    """Small multiples of a stage's curves, a line a training, in the colour of its setting."""
    lines = {
        setting: [one.curves for report in reports for one in report.stages if one.name == stage]
        for setting, reports in groups.items()
    }
    every = [curves for several in lines.values() for curves in several]
    titles = {name: titled(name, curve) for curves in every for name, curve in _drawn(curves).items()}
    if not titles:
        return None
    colours = dict(zip(lines, cycle(SERIES), strict=False))

    def draw(figure: Figure) -> None:
        for name, panel in panels(figure, titles).items():
            for setting, several in lines.items():
                for curve in (curves[name] for curves in several if name in curves):
                    steps, values = zip(*curve.points, strict=True)
                    dot = "o" if len(steps) == 1 else ""
                    panel.plot(
                        steps, list(map(or_nan, values)), color=colours[setting], lw=1, alpha=0.8, marker=dot, ms=3
                    )
        if len(lines) > 1:
            handles = [figure.axes[0].plot([], [], color=colour)[0] for colour in colours.values()]
            figure.legend(handles, map(short, lines), loc="outside upper left", ncols=max(1, 8 // len(lines)))

    title = f"Training curves: {stage}"
    picture = svg(key, f"{title}, of {len(every)} trainings: {', '.join(titles)}.", panels_size(len(titles)), draw)
    return Plot(
        title, "A line is one training, as logged" + ", in the colour of its setting." * (len(lines) > 1), picture
    )


def _drawn(curves: Mapping[str, CurveReport]) -> dict[str, CurveReport]:
    """The curves that get a panel: no percentiles, and nothing that another curve shows."""
    inside = {percentile(name, rank) for name in curves for rank in PERCENTILES}
    beside = {name for name in curves if name.startswith(HELD_OUT) and name.removeprefix(HELD_OUT) in curves}
    left_out = inside | beside | ({MEAN_LOSS} if "loss" in curves else set())
    return {
        name: curve
        for name, curve in curves.items()
        if name not in left_out and any(value is not None for _, value in curve.points)
    }


def _colours(found: Sequence[Row], references: Container[str | None]) -> dict[str, str]:
    """A colour a setting; of a single setting, a colour a policy. A reference is grey."""
    others = dict.fromkeys(row.setting or row.policy for row in found if row.policy not in references)
    colours = dict(zip(others, cycle(SERIES), strict=False))
    return {row.name: MUTED if row.policy in references else colours[row.setting or row.policy] for row in found}
