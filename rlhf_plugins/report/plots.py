"""The plots of policies; theme and SVG are in `svg`."""

from __future__ import annotations

from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rlhf_plugins.report.labels import SIZE, Bar, name_points
from rlhf_plugins.report.schema import Interval, PolicyReport, Report
from rlhf_plugins.report.svg import INK, MUTED, PAPER, SERIES, WIDTH, Plot, or_nan, short, svg
from rlhf_plugins.report.words import number

_DASHED = (0, (4, 3))


def policy_plots(report: Report) -> list[Plot]:
    """The plots of policies, of three, for which the report has numbers."""
    plots = {_scores: _measured(report), _frontier: _placed(report), _dimensions: _graded(report)}
    return [plot(report, names) for plot, names in plots.items() if names]


def _measured(report: Report) -> list[str]:
    return [name for name, policy in report.policies.items() if policy.gold.mean is not None]


def _placed(report: Report) -> list[str]:
    """The policies with a score and a KL; none if only the reference, at KL 0, has one."""
    names = [name for name in _measured(report) if report.policies[name].kl is not None]
    return names if any(report.policies[name].kl for name in names) else []


def _graded(report: Report) -> list[str]:
    return [name for name, policy in report.policies.items() if policy.dimensions]


def _scores(report: Report, names: list[str]) -> Plot:
    """Mean score by policy with its 95% CI, and lines at the reference and at the ceiling."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row, name in enumerate(names):
            gold = report.policies[name].gold
            mean = gold.mean or 0.0
            axes.errorbar(mean, row, xerr=arms(gold), fmt="o", color=colours[name], lw=2, ms=7, capsize=4)
            # Beside the dashed line of the reference, not on it.
            label(axes, number(mean), (mean, row), (4, 6), ha="left")
        axes.set_yticks(range(len(names)), map(short, names), color=INK)
        axes.set_ylim(len(names) - 0.5, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{report.score_name} per response (mean and 95% CI)")
        axes.set_ylabel("policy")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        left, right = axes.get_xlim()
        crowded = len(lines) == 2 and max(lines.values()) - min(lines.values()) < 0.3 * (right - left)
        for index, (text, value) in enumerate(lines.items()):
            axes.axvline(value, color=MUTED, lw=1, ls=_DASHED, zorder=0)
            label(axes, text, (value, -0.6), (0, 3 + 11 * index * crowded), ha="center", color=MUTED)

    colours, lines = _colours(report), _lines(report)
    title = f"{report.score_name.capitalize()} by policy"
    values = ", ".join(f"{name} {number(report.policies[name].gold.mean)}" for name in names)
    picture = svg("plot-scores", f"{title}: {values}.", (WIDTH, 1.2 + 0.42 * len(names)), draw)
    caption = "Dots are means, bars 95% confidence intervals."
    return Plot(title, caption + (f" Dashed: {' and '.join(lines)}." if lines else ""), picture)


def _frontier(report: Report, names: list[str]) -> Plot:
    """Mean score against KL, one point a policy, and the ceiling at its analytic KL."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for name, (kl, mean) in points.items():
            up = arms(measured[name].gold)
            within = measured[name].kl_interval
            across = None if within is None else arms(within)
            axes.errorbar(kl, mean, yerr=up, xerr=across, fmt="o", color=colours[name], lw=1.6, ms=7, capsize=3)
        for point in ceiling.values():
            axes.plot(*point, marker="D", ms=7, mfc="none", color=MUTED, ls="none")
        axes.margins(x=0.05, y=0.1)
        left, right = axes.get_xlim()
        axes.set_xlim(left, right + 0.2 * (right - left))
        axes.set_xlabel(f"KL to {report.reference or 'the reference'} (nats per response)")
        axes.set_ylabel(f"{report.score_name} per response")
        name_points(axes, points | ceiling, [bar for policy in measured.values() for bar in _bars(policy)])

    measured = {name: report.policies[name] for name in names}
    points = {name: (policy.kl or 0.0, policy.gold.mean or 0.0) for name, policy in measured.items()}
    best = report.ceiling
    ceiling = {} if best is None or best.gold is None else {f"best of {best.n} by gold": (best.kl, best.gold)}
    colours = _colours(report)
    title = f"{report.score_name.capitalize()} against KL"
    values = ", ".join(f"{name} {number(mean)} at {number(kl, 1)} nats" for name, (kl, mean) in points.items())
    picture = svg("plot-frontier", f"{title}: {values}.", (WIDTH, 3.3), draw)
    caption = "More reward for less KL is better: up and to the left."
    if ceiling:
        caption += " The diamond is best-of-n by gold, at its analytic KL, log n \u2212 (n \u2212 1)/n."
    return Plot(title, caption, picture)


def _dimensions(report: Report, names: list[str]) -> Plot:
    """Grouped bars: each dimension of the gold reward by policy."""
    graded = {name: report.policies[name].dimensions for name in names}
    axis = list(dict.fromkeys(key for grades in graded.values() for key in grades))
    width = 0.8 / len(names)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, (name, grades) in enumerate(graded.items()):
            places = [group + (index - (len(names) - 1) / 2) * width for group in range(len(axis))]
            heights = [or_nan(grades.get(key)) for key in axis]
            axes.bar(places, heights, width, label=short(name), color=colours[name], edgecolor=PAPER, linewidth=1)
        axes.axhline(0, color=MUTED, lw=0.8)
        axes.set_xticks(range(len(axis)), axis, color=INK)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("dimension of the gold reward")
        axes.set_ylabel("mean per response")
        ncols = max(1, 60 * len(names) // sum(len(short(name)) + 4 for name in names))
        figure.legend(loc="outside upper left", ncols=ncols, handlelength=1, handleheight=1)

    colours = _colours(report)
    columns = {key: (f"{name} {number(grades.get(key))}" for name, grades in graded.items()) for key in axis}
    values = "; ".join(f"{key}: {', '.join(column)}" for key, column in columns.items())
    picture = svg("plot-dimensions", f"Gold dimensions by policy. {values}.", (WIDTH, 3.3), draw)
    return Plot("Gold dimensions by policy", "Bars of a group are in the order of the legend.", picture)


def _colours(report: Report) -> dict[str, str]:
    """One colour a policy in all plots; the reference is grey."""
    others = [name for name in report.policies if name != report.reference]
    return {report.reference or "": MUTED} | dict(zip(others, cycle(SERIES), strict=False))


def _lines(report: Report) -> dict[str, float]:
    lines = {}
    if report.reference is not None:
        lines["reference"] = report.policies[report.reference].gold.mean
    if report.ceiling is not None:
        lines[f"best of {report.ceiling.n} by gold"] = report.ceiling.gold
    return {text: value for text, value in lines.items() if value is not None}


def arms(gold: Interval) -> list[list[float]] | None:
    """The error bar's two lengths, `[[below], [above]]`."""
    if gold.mean is None or gold.low is None or gold.high is None:
        return None
    return [[max(gold.mean - gold.low, 0.0)], [max(gold.high - gold.mean, 0.0)]]


def _bars(policy: PolicyReport) -> list[Bar]:
    """The error bars of a policy's score and KL."""
    x, y = policy.kl or 0.0, policy.gold.mean or 0.0
    ends = {"up": policy.gold, "across": policy.kl_interval}
    found = {way: (one.low, one.high) for way, one in ends.items() if one is not None}
    return [
        (x, low, x, high) if way == "up" else (low, y, high, y)
        for way, (low, high) in found.items()
        if low is not None and high is not None
    ]


def label(axes: Axes, text: str, at: tuple[float, float], by: tuple[float, float], ha: str, color: str = INK) -> None:
    note = axes.annotate(text, at, by, textcoords="offset points", annotation_clip=False)
    note.set(ha=ha, color=color, fontsize=SIZE)
