"""The plots of training and of the reward model; it knows what each shows, and leaves the theme to `svg`."""

from __future__ import annotations

from math import ceil

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from rlhf_plugins.report.schema import RewardModelReport, StageReport
from rlhf_plugins.report.svg import INK, MUTED, PAPER, SERIES, WIDTH, Plot, or_nan, svg
from rlhf_plugins.report.words import number, share

_UNITS = {
    "kl": "nats",
    "entropy": "nats",
    "accuracy": "share",
    "accuracies": "share",
    "clip": "share",
    "length": "tokens",
}


def reliability(model: RewardModelReport) -> Plot | None:
    """Predicted against observed accuracy, counts beneath; None when no pair fell into a bin."""
    bins = [group for group in model.reliability if group.count and group.accuracy is not None]
    if not bins:
        return None

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot((bins[0].low, 1), (bins[0].low, 1), color=MUTED, lw=1, ls=(0, (4, 3)))
        predicted, right = zip(*((or_nan(group.confidence), or_nan(group.accuracy)) for group in bins), strict=True)
        above.plot(predicted, right, marker="o", ms=6, lw=1.6, color=SERIES[0])
        above.set_ylabel("share ordered right")
        lows, counts = [group.low for group in bins], [group.count for group in bins]
        widths = [group.high - group.low for group in bins]
        below.bar(lows, counts, widths, align="edge", color=SERIES[0], alpha=0.45, edgecolor=PAPER)
        below.set_ylabel("pairs")
        below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        below.set_xlabel("predicted probability of the preferred order")

    said = "; ".join(f"{share(group.confidence)} predicted, {share(group.accuracy)} right" for group in bins)
    title = "Reliability of the reward model"
    caption = "On the dashed line a probability means what it says; below it the model is overconfident."
    return Plot(title, caption, svg("plot-reliability", f"{title}: {said}.", (WIDTH, 4.2), draw))


def stage_curves(stage: StageReport, key: str) -> Plot | None:
    """Small multiples of a stage's curves over its steps; None when no curve holds two points."""
    found = {name: [y for _, y in points if y is not None] for name, points in stage.curves.items()}
    curves = {name: values for name, values in found.items() if len(values) > 1}
    if not curves:
        return None
    columns = min(4, len(curves))
    rows = ceil(len(curves) / columns)

    def draw(figure: Figure) -> None:
        figure.set_layout_engine(ConstrainedLayoutEngine(hspace=0.12, wspace=0.06))
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel, name in zip(panels, curves, strict=False):
            steps, values = zip(*stage.curves[name], strict=True)
            panel.plot(steps, list(map(or_nan, values)), color=SERIES[0], lw=1.4)
            panel.set_title(_with_unit(name), color=INK)
            panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            panel.yaxis.set_major_locator(MaxNLocator(4))
        for panel in panels[len(curves) :]:
            panel.set_visible(False)
        for panel in panels[max(len(curves) - columns, 0) : len(curves)]:
            panel.set_xlabel("training step")

    said = "; ".join(f"{name} from {number(line[0])} to {number(line[-1])}" for name, line in curves.items())
    title = f"Training curves: {stage.name}"
    picture = svg(key, f"{title}. {said}.", (WIDTH / 2 * columns, 1.9 * rows + 0.2), draw)
    return Plot(title, "As logged, without smoothing.", picture)


def _with_unit(name: str) -> str:
    parts = name.lower().replace("/", "_").split("_")
    unit = next((unit for word, unit in _UNITS.items() if word in parts), None)
    return f"{name} ({unit})" if unit else name
