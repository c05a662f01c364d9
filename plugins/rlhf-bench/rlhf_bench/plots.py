"""Two plots for each task as SVG: gold with its interval by algorithm, and gold over KL."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence

from rlhf_bench.suite import BASE, Suite
from rlhf_bench.table import Line

LEFT, WIDTH, HEIGHT = 210, 460, 22  # pixels: of labels, of the scale, of a row
SIDE, EDGE = 300, 40  # pixels: of the plot over KL, of its margins
Points = Mapping[str, Sequence[tuple[float, float]]]  # by algorithm, its KLs and golds


def plots(suite: Suite, found: Sequence[Line], score: str) -> Iterator[str]:
    """Both of each task on one scale of the score, which has this name; none where nothing ran."""
    bounds = [v for line in found for v in (line.gold.low, line.gold.high, line.gold.mean) if v is not None]
    if not bounds:
        return
    low, high = min(bounds), max(bounds)
    for task in suite.tasks:
        mine = [line for line in found if line.task == task]
        about = html.escape(f"{task}: {suite.tasks[task]}".rstrip(": "))
        yield f"<h2>{about}</h2>{_intervals(f'{score} on {about}', mine, low, high)}"
        yield over_kl(f"{score} over KL on {about}", placed(suite, mine))


def placed(suite: Suite, lines: Sequence[Line]) -> Points:
    """The base at a KL of 0, and every algorithm at its own, the values of a knob together."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        kl = 0.0 if line.algorithm == BASE else line.means["kl"]
        if kl is not None:
            name, _ = suite.knobs.get(line.algorithm, (line.algorithm, 0.0))
            found.setdefault(name, []).append((kl, line.gold.mean))
    return {name: sorted(of) for name, of in found.items()}


def over_kl(about: str, found: Points) -> str:
    """Gold over KL, a line through the values of a knob; empty where no KL is known."""
    every = [point for of in found.values() for point in of]
    if len(every) < 2:
        return ""
    far = max(kl for kl, _ in every) or 1.0
    low, high = min(gold for _, gold in every), max(gold for _, gold in every)
    marks = []
    for name, of in found.items():
        at = [(EDGE + SIDE * kl / far, EDGE + SIDE * (high - gold) / ((high - low) or 1.0)) for kl, gold in of]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        marks.append(f'<polyline points="{line}" fill="none" stroke="currentColor"/>')
        marks += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="currentColor"/>' for x, y in at]
        marks.append(f'<text x="{at[-1][0] + 6:.1f}" y="{at[-1][1] + 4:.1f}">{html.escape(name)}</text>')
    ends = (
        f'<text x="{EDGE}" y="{SIDE + EDGE + 30}">KL 0 to {far:.2f} nats</text>'
        f'<text x="0" y="{EDGE}">{high:.2f}</text><text x="0" y="{SIDE + EDGE}">{low:.2f}</text>'
    )
    size = f'width="{SIDE + EDGE + 160}" height="{SIDE + EDGE + 40}"'
    return f'<svg role="img" aria-label="{about}" {size}>{"".join(marks)}{ends}</svg>'


def _intervals(about: str, lines: Sequence[Line], low: float, high: float) -> str:
    scale = WIDTH / ((high - low) or 1.0)
    marks = "".join(_mark(line, row, low, scale) for row, line in enumerate(lines))
    size = f'width="{LEFT + WIDTH + 80}" height="{HEIGHT * len(lines) + 30}"'
    ticks = "".join(
        f'<text x="{LEFT + (value - low) * scale:.0f}" y="{HEIGHT * len(lines) + 18}">{value:.2f}</text>'
        for value in (low, (low + high) / 2, high)
    )
    return f'<svg role="img" aria-label="{about}" {size}>{marks}{ticks}</svg>'


def _mark(line: Line, row: int, low: float, scale: float) -> str:
    y, x = HEIGHT * row + 14, LEFT + (line.gold.mean - low) * scale
    bar = ""
    if line.gold.low is not None and line.gold.high is not None:
        ends = [LEFT + (value - low) * scale for value in (line.gold.low, line.gold.high)]
        bar = f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y}" y2="{y}" stroke="currentColor" stroke-width="2"/>'
    label = f'<text x="0" y="{y + 4}">{html.escape(line.algorithm)}</text>'
    return f'{label}{bar}<circle cx="{x:.1f}" cy="{y}" r="4" fill="currentColor"/>'
