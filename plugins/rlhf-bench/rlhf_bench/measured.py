"""Facts of papers beside what runs showed: over-optimisation, frontiers, noisy labels, seeds. It reads JSON alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import log, sqrt
from pathlib import Path
from statistics import median, stdev
from typing import Any

from rlhf_bench.laws import Fit, fit, mean_curve
from rlhf_bench.markup import Table, markdown

GOOD = 0.9
SQUARES = ("R squared, mean curve", "R squared, median seed", f"seeds above {GOOD}")
Found = dict[str, Any]


def kept(folder: Path, name: str) -> Found | None:
    """What a script or a suite wrote; None where it has not."""
    file = folder / name
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _opened(folder: Path, name: str, title: str, command: str) -> tuple[list[str], Found | None]:
    """The beginning of a part, and what it is about."""
    found = kept(folder, name)
    return ["", f"## {title}", "", f"By `{command}`." if found else f"Not run: `{command}`."], found


# ---- over-optimisation -----------------------------------------------------------------------------------
def over_optimisation(folder: Path) -> Iterator[str]:
    """The fits to each seed's curve and to the mean curve."""
    title, command = "Over-optimisation (Gao et al. 2022)", "python benchmarks/over_optimisation.py"
    opening, data = _opened(folder, "over_optimisation.json", title, command)
    yield from opening
    if data is None:
        return
    yield "PPO against reward models of biased annotators. Each form is fitted to each seed's curve, and to their mean"
    yield "at the same KL (moving means over 5 rollouts, 20 equal steps of sqrt(KL), as far as the median seed goes)."
    means, rows = [], []
    for setting, judges in data["curves"].items():
        for judge, curves in judges.items():
            for form in ("rl", "best_of_n"):
                of_seeds = [fit(form, *_gains(curve)) for curve in curves]
                means.append(fit(form, *mean_curve(curves)))
                rows.append(_fit_row(setting, judge, means[-1], of_seeds))
    yield from ("", *markdown(Table("", "", ("data", "judge", "form", "a", "b", *SQUARES, "top at KL"), rows)))
    yield from ("", "![mean curves of gold over sqrt(KL), and Gao's form](facts_over_optimisation.png)", "")
    yield from _fits_in_words(means, data["curves"])


def _fits_in_words(means: Sequence[Fit], curves: Mapping[str, Any]) -> Iterator[str]:
    rl, others = ([one.r_squared for one in means if (one.form == "rl") is wanted] for wanted in (True, False))
    good = sum(value > GOOD for value in rl)
    better = sum(one > other for one, other in zip(rl, others, strict=True))
    shortest, longest = (_squares(curves, reach) for reach in (0.0, 1.0))
    yield "It agrees: gold rises, turns and falls, and the form of reinforcement learning fits better than that of"
    yield f"best-of-n in {better} of {len(rl)} settings. Its R squared on the mean curve is above {GOOD} in {good},"
    yield f"and {_span(rl)} in all. How far the mean curve goes was chosen knowing the numbers: as far as every"
    yield f"seed goes, the form has {_span(shortest)}, and as far as the last one goes, where single seeds are left,"
    yield f"{_span(longest)}. Single seeds fit less well, and so do [the points of all](over_optimisation.md)."
    short = _span([_missing(*curve) for curve in _curves(curves)])
    yield f"It disagrees at the top: where the mean curve is highest, the form is too low by {short}."
    yield "Best-of-n itself has [a page of its own](best_of_n.md), where its own form fits."
    yield "Standard errors take points to be independent, which neighbours on a curve are not."


def _squares(curves: Mapping[str, Any], reach: float) -> list[float]:
    return [fit("rl", *curve).r_squared for curve in _curves(curves, reach)]


def _curves(curves: Mapping[str, Any], reach: float = 0.5) -> list[tuple[list[float], list[float]]]:
    return [mean_curve(of_seeds, reach) for judges in curves.values() for of_seeds in judges.values()]


def _missing(kl: Sequence[float], gain: Sequence[float]) -> float:
    """The highest gain of a mean curve less what Gao's form has at its KL."""
    found, (gold, top) = fit("rl", kl, gain), max(zip(gain, kl, strict=True))
    return gold - sqrt(top) * (found.a - found.b * log(sqrt(top)))


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _fit_row(setting: str, judge: str, whole: Fit, of_seeds: Sequence[Fit]) -> list[str]:
    good = sum(one.r_squared > GOOD for one in of_seeds)
    peak = "none" if whole.peak_kl is None or not whole.turns else f"{whole.peak_kl:.1f}"
    pair = [f"{whole.a:.3f} ± {whole.a_error:.3f}", f"{whole.b:.3f} ± {whole.b_error:.3f}"]
    squares = [f"{whole.r_squared:.2f}", f"{median(one.r_squared for one in of_seeds):.2f}"]
    return [setting, judge, whole.form, *pair, *squares, f"{good} of {len(of_seeds)}", peak]


def _gains(curve: Sequence[Mapping[str, float]]) -> tuple[list[float], list[float]]:
    return [point["kl"] for point in curve], [point["gold"] - curve[0]["gold"] for point in curve]


# ---- frontiers -------------------------------------------------------------------------------------------
def frontiers(folder: Path) -> Iterator[str]:
    """Gold against KL over each algorithm's own knob: the area, and which is highest."""
    title = "Reward against KL (Rafailov et al. 2023, figure 2)"
    opening, suite = _opened(folder, "suite_frontier.json", title, "rlhf bench frontier")
    yield from opening
    if suite is None:
        return
    runs = suite["runs"]
    done = sum(run["status"] == "finished" for run in runs)
    yield f"Each algorithm over four values of its coefficient, at equal FLOPs, {done} of {len(runs)} runs finished."
    header = ("task", "algorithm", "area under the frontier", "up to KL", "gold, highest less lowest", "best value")
    rows = [
        [
            f["task"],
            f["algorithm"],
            f"{f['area']:.2f}",
            f"{f['up_to']:.2f}",
            f"{f['sensitivity']:.2f}",
            f"{f['best']:g}",
        ]
        for f in suite["frontiers"]
    ]
    yield from ("", *markdown(Table("", "", header, rows)))
    yield from ("", "![gold reward over KL by algorithm](facts_frontier.png)", "")
    for task in suite["tasks"]:
        yield from _order(task, {f["algorithm"]: f["area"] for f in suite["frontiers"] if f["task"] == task})
    yield "The paper has DPO above PPO at every KL, even where PPO is given the true reward; here PPO climbs a reward"
    yield "model, trained out of the same FLOPs. Areas have no interval: settings, not seeds, make a frontier."


def _order(task: str, areas: Mapping[str, float]) -> Iterator[str]:
    if areas:
        order = sorted(areas, key=lambda name: -areas[name])
        yield f"On `{task}` the areas are in the order {', '.join(f'{name} {areas[name]:.2f}' for name in order)}."


# ---- noisy labels ----------------------------------------------------------------------------------------
def ensembles(folder: Path) -> Iterator[str]:
    """Reward models where a quarter of all votes is turned round."""
    title = "Ensembles under label noise (Coste et al. 2023)"
    opening, data = _opened(folder, "reward_sandbox.json", title, "python benchmarks/reward_sandbox.py --only flips")
    yield from opening
    if data is None or "flips" not in data:
        return
    yield "A quarter of all votes is turned round, three votes a pair. Accuracy by the true reward on held-out pairs:"
    models = {row["model"]: row for row in data["flips"]["rows"]}
    rows = [
        [name, f"{row['gold']:.3f}", " ".join(f"{one:.3f}" for one in row["gold_by_seed"])]
        for name, row in models.items()
    ]
    yield from ("", *markdown(Table("", "", ("reward model", "accuracy", "by seed"), rows)), "")
    single, whole = models["bradley_terry"], models["ensemble of 4 models"]
    higher = sum(a > b for a, b in zip(whole["gold_by_seed"], single["gold_by_seed"], strict=True))
    heads, resampled = (_less(models, f"ensemble of {name}") for name in ("5 heads", "4 models, resampled"))
    yield f"It agrees in direction: four models are above one in {higher} of {len(whole['gold_by_seed'])} seeds, by"
    yield f"{whole['gold'] - single['gold']:+.3f}. Five heads on one trunk are not ({heads}), nor are four models of"
    yield f"resampled groups ({resampled}). The paper is about policies, which over-optimise less against an ensemble:"
    yield "that is the part above, where annotators have another fault, and where the least of four rewards turns"
    yield "later and ends higher than one model, and their mean hardly."


def _less(models: Mapping[str, Any], name: str) -> str:
    return f"{models[name]['gold'] - models['bradley_terry']['gold']:+.3f}"


# ---- seeds -----------------------------------------------------------------------------------------------
def seeds(folder: Path) -> Iterator[str]:
    """How far ten seeds lie apart: online algorithms, then DPO and IPO."""
    opening, online = _opened(folder, "online.json", "Ten seeds", "python benchmarks/online.py")
    yield from opening
    if online is None:
        return
    rows = [[row["policy"], *_spread(row["gold"])] for row in online["rows"]]
    yield from ("", *markdown(Table("", "", ("policy", "seeds", "gold, mean", "sd", "lowest", "highest"), rows)), "")
    if suite := kept(folder, "suite_overfit.json"):
        yield from ("At equal FLOPs, by `rlhf bench overfit`:", "")
        yield from markdown(
            Table("", "", ("task", "policy", "seeds", "gold, mean", "sd", "lowest", "highest"), _by_task(suite))
        )
    yield ""
    yield "PPO is said to be the least stable of the three. Here no seed of any diverged, and PPO's deviation over"
    yield "seeds is about that of DPO and IPO (other data and another cost); algorithms without a critic have less."


def _by_task(suite: Found) -> list[list[str]]:
    found: dict[tuple[str, str], list[float]] = {}
    for run in suite["runs"]:
        if run["status"] == "finished":
            found.setdefault((run["task"], run["algorithm"]), []).append(sum(run["scores"]) / len(run["scores"]))
    return [[*key, *_spread(golds)] for key, golds in found.items()]


def _spread(golds: Sequence[float]) -> list[str]:
    return [
        str(len(golds)),
        *(f"{value:.2f}" for value in (sum(golds) / len(golds), stdev(golds), min(golds), max(golds))),
    ]
