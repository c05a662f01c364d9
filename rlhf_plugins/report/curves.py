"""The plots of training and of reward models; the theme is in `svg`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from rlhf_plugins.contract.metrics import LOGGED, PERCENTILES, percentile
from rlhf_plugins.report.schema import CurveReport, ReliabilityBin, RewardModelReport
from rlhf_plugins.report.svg import INK, MUTED, PAPER, SERIES, WIDTH, Plot, or_nan, short, svg
from rlhf_plugins.report.words import number, share

MEAN_LOSS = "train_loss"  # of all steps, as transformers logs it at the end
HELD_OUT = "eval_"  # begins the names of numbers on held-out rows
_PANELS = 3  # reliability diagrams side by side
_ARROWS = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}"}


def reliability(models: Mapping[str, RewardModelReport]) -> Plot | None:
    """Predicted against observed accuracy, counts beneath, a panel a model; None when no pair fell into a bin."""
    binned = {name: _bins(model) for name, model in models.items() if _bins(model)}
    if not binned:
        return None
    columns = min(_PANELS, len(binned))
    rows = ceil(len(binned) / columns)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(
            2 * rows, columns, sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1) * rows
        )
        for place, (name, bins) in enumerate(binned.items()):
            row, column = 2 * (place // columns), place % columns
            _diagram(panels[row, column], panels[row + 1, column], bins)
            if len(binned) > 1:
                panels[row, column].set_title(short(name), color=INK)
        for spare in range(len(binned), rows * columns):
            panels[2 * (spare // columns), spare % columns].set_visible(False)
            panels[2 * (spare // columns) + 1, spare % columns].set_visible(False)

    values = "; ".join(f"{_of(name, binned)}{_in_words(bins)}" for name, bins in binned.items())
    title = "Reliability of the reward model" + "s" * (len(binned) > 1)
    caption = "On the dashed line the model is calibrated; below it the model is overconfident."
    size = (WIDTH if columns == 1 else WIDTH * columns / 2, (3.6 if columns == 1 else 2.9) * rows)
    return Plot(title, caption, svg("plot-reliability", f"{title}: {values}.", size, draw))


def _bins(model: RewardModelReport) -> list[ReliabilityBin]:
    return [group for group in model.reliability if group.count and group.accuracy is not None]


def _of(name: str, among: Mapping[str, object]) -> str:
    return f"{name}, " if len(among) > 1 else ""


def _in_words(bins: Sequence[ReliabilityBin]) -> str:
    return "; ".join(f"{share(group.confidence)} predicted, {share(group.accuracy)} right" for group in bins)


def _diagram(above: Axes, below: Axes, bins: Sequence[ReliabilityBin]) -> None:
    above.plot((bins[0].low, 1), (bins[0].low, 1), color=MUTED, lw=1, ls=(0, (4, 3)))
    predicted, right = zip(*((or_nan(group.confidence), or_nan(group.accuracy)) for group in bins), strict=True)
    above.plot(predicted, right, marker="o", ms=6, lw=1.6, color=SERIES[0])
    above.set_ylabel("share ordered right")
    widths = [group.high - group.low for group in bins]
    counts = [group.count for group in bins]
    below.bar([group.low for group in bins], counts, widths, align="edge", color=SERIES[0], alpha=0.45, edgecolor=PAPER)
    below.set_ylabel("pairs")
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    below.set_xlabel("predicted probability")


def stage_curves(stage: str, logged: Mapping[str, CurveReport], key: str) -> Plot | None:
    """Small multiples of a stage's curves over its steps, a single point as a dot; None when no curve holds one."""
    found = {name: [y for _, y in curve.points if y is not None] for name, curve in logged.items()}
    beside = {name for name in found if name.startswith(HELD_OUT) and found.get(name.removeprefix(HELD_OUT))}
    inside = {percentile(name, rank) for name in found for rank in PERCENTILES} & found.keys()
    drawn = {MEAN_LOSS} if found.get("loss") else set()  # by its own curve
    curves = {name: values for name, values in found.items() if values and name not in beside | inside | drawn}
    if not curves:
        return None

    def draw(figure: Figure) -> None:
        for name, panel in panels(figure, {name: titled(name, logged[name]) for name in curves}).items():
            steps, values = zip(*logged[name].points, strict=True)
            dot = "o" if len(found[name]) == 1 else ""
            panel.plot(steps, list(map(or_nan, values)), color=SERIES[0], lw=1.4, marker=dot, ms=4)
            _bands(panel, logged, name)
            if f"{HELD_OUT}{name}" in beside:
                steps, values = zip(*logged[f"{HELD_OUT}{name}"].points, strict=True)
                panel.plot(steps, list(map(or_nan, values)), color=SERIES[1], lw=1.4, marker="o", ms=3)
            if len(steps) == 1:
                panel.set_xticks(steps)

    directed = any(titled(name, logged[name])[-1] in _ARROWS.values() for name in curves)
    caption = "As logged, without smoothing." + " An arrow shows which direction is better." * directed
    caption += " The points are on held-out rows." if beside else ""
    caption += " The bands hold 50% and 90% of the responses." if inside else ""
    shown = {name: line for name, line in found.items() if name in curves or name in beside}
    ends = "; ".join(f"{name} {_ends(line)}" for name, line in shown.items())
    title = f"Training curves: {stage}"
    picture = svg(key, f"{title}. {ends}.", panels_size(len(curves)), draw)
    return Plot(title, caption, picture)


def panels(figure: Figure, titles: Mapping[str, str]) -> dict[str, Axes]:
    """A panel for each title, by its name, two beside one another over training steps."""
    figure.set_layout_engine(ConstrainedLayoutEngine(hspace=0.12, wspace=0.06))
    columns, rows = _laid(len(titles))
    drawn = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, title in zip(drawn, titles.values(), strict=False):
        panel.set_title(title, color=INK)
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        panel.yaxis.set_major_locator(MaxNLocator(4))
    for panel in drawn[len(titles) :]:
        panel.set_visible(False)
    for panel in drawn[max(len(titles) - columns, 0) : len(titles)]:
        panel.set_xlabel("training step")
    return dict(zip(titles, drawn, strict=False))


def panels_size(count: int) -> tuple[float, float]:
    """The inches of so many panels."""
    columns, rows = _laid(count)
    return WIDTH / 2 * columns, 1.6 * rows + 0.2


def _laid(count: int) -> tuple[int, int]:
    columns = min(2, count)
    return columns, ceil(count / columns)


def _bands(panel: Axes, logged: Mapping[str, CurveReport], name: str) -> None:
    """Between percentiles of the same distance from the median, where they were logged."""
    for low, high in zip(PERCENTILES[:2], PERCENTILES[:-3:-1], strict=True):
        edges = [logged.get(percentile(name, rank)) for rank in (low, high)]
        if edges[0] and edges[1]:
            below, above = (dict(edge.points) for edge in edges if edge)
            steps = sorted(below.keys() & above.keys())
            under, over = ([or_nan(side[step]) for step in steps] for side in (below, above))
            panel.fill_between(steps, under, over, color=SERIES[0], alpha=0.18, lw=0)


def _ends(line: Sequence[float]) -> str:
    return f"from {number(line[0])} to {number(line[-1])}" if len(line) > 1 else number(line[0])


def titled(name: str, curve: CurveReport) -> str:
    """The name with its unit and an arrow in the better direction, as the stage gave them or as they are known."""
    known = LOGGED.get(name)
    unit, better = curve.unit or (known.unit if known else ""), curve.better or (known.better if known else None)
    return name + (f" ({unit})" if unit else "") + (f" {_ARROWS[better]}" if better else "")
