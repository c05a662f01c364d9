"""Facts of papers beside what runs showed: over-optimisation, frontiers, noisy labels, seeds. It reads JSON alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import log, sqrt
from pathlib import Path
from statistics import median, stdev
from textwrap import wrap
from typing import Any

import numpy as np
from scipy.stats import levene

from rlhf_bench import frontier
from rlhf_bench.frontier import Frontier
from rlhf_bench.intervals import Estimate
from rlhf_bench.laws import Curve, Fit, fit, gains, mean_curve
from rlhf_bench.markup import Table, markdown, shown
from rlhf_plugins import holm

GOOD = 0.9
OF_SEEDS = ("overfit", "stability")  # suites of ten seeds
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


def _prose(text: str) -> list[str]:
    """Its lines."""
    return wrap(text, 118, break_long_words=False, break_on_hyphens=False)


# ---- over-optimisation -----------------------------------------------------------------------------------
def over_optimisation(folder: Path) -> Iterator[str]:
    """The fits to each seed's curve and to the mean curve."""
    title, command = "Over-optimisation (Gao et al. 2022)", "rlhf bench over_optimisation"
    opening, suite = _opened(folder, "suite_over_optimisation.json", title, command)
    yield from opening
    if suite is None:
        return
    yield from _prose(
        "PPO against reward models of biased annotators, without a KL penalty ([page](suite_over_optimisation.md)). "
        "Each form is fitted to each seed's curve, and to their mean at the same KL (moving means over 5 rollouts, 20 "
        "equal steps of sqrt(KL), as far as the median seed goes)."
    )
    curves = climbed(suite)
    forms = ("rl", "best_of_n")
    means = {(*who, form): fit(form, *mean_curve(of)) for who, of in curves.items() for form in forms}
    rows = [_fit_row(who, law, [fit(who[-1], *gains(one)) for one in curves[who[:2]]]) for who, law in means.items()]
    yield from ("", *markdown(Table("", "", ("data", "judge", "form", "a", "b", *SQUARES, "top at KL"), rows)))
    yield from ("", "![mean curves of gold over sqrt(KL), and Gao's form](facts_over_optimisation.png)", "")
    yield from _fits_in_words(list(means.values()), list(curves.values()))


def climbed(suite: Found) -> dict[tuple[str, str], list[Curve]]:
    """The curves of each task and algorithm, one a seed."""
    found: dict[tuple[str, str], list[Curve]] = {}
    for run in suite["runs"]:
        if run["status"] == "finished" and run["climb"]:
            found.setdefault((run["task"], run["algorithm"]), []).append(run["climb"])
    return found


def _fits_in_words(means: Sequence[Fit], curves: Sequence[Sequence[Curve]]) -> Iterator[str]:
    rl, others = ([one.r_squared for one in means if (one.form == "rl") is wanted] for wanted in (True, False))
    good = sum(value > GOOD for value in rl)
    better = sum(one > other for one, other in zip(rl, others, strict=True))
    shortest, longest = ([fit("rl", *mean_curve(of, reach)).r_squared for of in curves] for reach in (0.0, 1.0))
    turned, short = sum(one.turns for one in means if one.form == "rl"), [_missing(*mean_curve(of)) for of in curves]
    yield from _prose(
        f"Gold rises, turns and falls in {turned} of {len(rl)} settings, and the form of reinforcement learning fits "
        f"better than that of best-of-n in {better}. Its R squared on the mean curve is above {GOOD} in {good}, and "
        f"{_span(rl)} in all. As far as every seed goes it is {_span(shortest)}, and as far as the last one goes, "
        f"where single seeds are left, {_span(longest)}. Single seeds fit less well. Where the mean curve is highest, "
        f"the form is too low by {_span(short)}. Best-of-n itself has [a page of its own](best_of_n.md), where its own "
        "form fits. Standard errors take points to be independent, which neighbours on a curve are not."
    )


def _missing(kl: Sequence[float], gain: Sequence[float]) -> float:
    """The highest gain of a mean curve less what Gao's form has at its KL."""
    found, (gold, top) = fit("rl", kl, gain), max(zip(gain, kl, strict=True))
    return gold - sqrt(top) * (found.a - found.b * log(sqrt(top)))


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _fit_row(who: tuple[str, str, str], whole: Fit, of_seeds: Sequence[Fit]) -> list[str]:
    good = sum(one.r_squared > GOOD for one in of_seeds)
    peak = "none" if whole.peak_kl is None or not whole.turns else f"{whole.peak_kl:.1f}"
    pair = [f"{whole.a:.3f} ± {whole.a_error:.3f}", f"{whole.b:.3f} ± {whole.b_error:.3f}"]
    squares = [f"{whole.r_squared:.2f}", f"{median(one.r_squared for one in of_seeds):.2f}"]
    return [*who, *pair, *squares, f"{good} of {len(of_seeds)}", peak]


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
    found = [Frontier(**each) for each in suite["frontiers"]]
    table = frontier.table(found)
    yield from ("", *(markdown(table._replace(title="", about="")) if table else ()))
    yield from ("", "![gold reward over KL by algorithm](facts_frontier.png)", "")
    areas = {task: {each.algorithm: each.area for each in found if each.task == task} for task in suite["tasks"]}
    yield from _prose(
        "The paper has DPO above PPO at every KL, even where PPO is given the true reward; here PPO climbs a reward "
        "model that is trained out of the same FLOPs. "
        + "".join(_order(task, of) for task, of in areas.items() if {"dpo", "ppo"} <= of.keys())
        + "Areas have no interval: settings, not seeds, make a frontier."
    )


def _order(task: str, areas: Mapping[str, float]) -> str:
    """The areas of a task, and whether they are in the paper's order."""
    agrees = "agrees" if areas["dpo"] > areas["ppo"] else "does not agree"
    order = sorted(areas, key=lambda name: -areas[name])
    return f"On `{task}` the areas are {', '.join(f'{name} {areas[name]:.2f}' for name in order)}: that {agrees}. "


# ---- noisy labels ----------------------------------------------------------------------------------------
def ensembles(folder: Path) -> Iterator[str]:
    """Policies, then reward models, where a quarter of all labels is wrong."""
    title, command = "Ensembles under label noise (Coste et al. 2023)", "rlhf bench ensembles"
    opening, suite = _opened(folder, "suite_ensembles.json", title, command)
    yield from opening
    if suite is not None:
        yield from _policies(suite)
    yield from _reward_models(kept(folder, "reward_sandbox.json") or {})


def _policies(suite: Found) -> Iterator[str]:
    """What PPO reaches against each judge: at its top, at the end, and at a KL that all reach."""
    curves = {name: mean_curve(seeds) for (_, name), seeds in climbed(suite).items()}
    common = min(kl[-1] for kl, _ in curves.values())
    at_common = {name: float(np.interp(common, *curve)) for name, curve in curves.items()}
    yield from _prose(
        "PPO without a KL penalty, where a quarter of all judgements is turned round ([page](suite_ensembles.md)). "
        "Differences from the single model are seed by seed. Against an ensemble PPO has fewer steps, since its FLOPs "
        f"train and ask four models: the ends are at other KLs, and the gain at {common:.1f} nats, which the median "
        "seed of all reaches, is what compares them there. It has no interval."
    )
    climbs = {one["algorithm"]: one for one in suite["climbs"]}
    rows = [
        [
            name,
            *(f"{one['course'][key]:.2f}" for key in ("start", "highest")),
            shown(_estimate(one["highest"]), "+"),
            *(f"{one['course'][key]:.2f}" for key in ("end", "kl_end")),
            shown(_estimate(one["end"]), "+"),
            f"{at_common[name]:+.2f}",
        ]
        for name, one in climbs.items()
    ]
    header = ("judge", "gold at the start", "highest", "less single", "at the end", "at KL", "less single")
    yield from ("", *markdown(Table("", "", (*header, f"gain at KL {common:.1f}"), rows)), "")
    yield from ("![mean curves of gold over sqrt(KL), and Gao's form](facts_ensembles.png)", "")
    single = suite["baseline"]
    joined = [name for name in climbs if name != single]
    above, below = ([name for name in joined if _side(climbs[name]["highest"]) == side] for side in (1, -1))
    more = [name for name in joined if at_common[name] > at_common[single]]
    yield from _prose(
        "The paper has policies over-optimise less against an ensemble, least against `worst_case` and "
        f"`uncertainty_weighted`. Where gold is highest, above the single model with an interval clear of 0, not "
        f"corrected: {', '.join(above) or 'none'}; below: {', '.join(below) or 'none'}. At {common:.1f} nats the mean "
        f"curve is above that of the single model for {', '.join(more) or 'none'}."
    )


def _estimate(found: Mapping[str, Any] | None) -> Estimate | None:
    return None if found is None else Estimate(**found)


def _side(found: Mapping[str, Any] | None) -> int:
    """1 above 0 and -1 below it where the interval leaves 0 out."""
    value = _estimate(found)
    return 0 if value is None or not value.clear else 1 if value.mean > 0 else -1


def _reward_models(data: Found) -> Iterator[str]:
    """Accuracy of reward models where a quarter of all votes is turned round."""
    command = "python benchmarks/reward_sandbox.py --only flips"
    yield from ("", f"As reward models alone, by `{command}`." if "flips" in data else f"Not run: `{command}`.")
    if "flips" not in data:
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
    yield from ("![accuracy by seed](facts_noise.png)", "")
    yield from _prose(
        f"Four models are above one in {higher} of {len(whole['gold_by_seed'])} seeds, by "
        f"{whole['gold'] - single['gold']:+.3f}; five heads on one trunk differ from it by {heads}, four models of "
        f"resampled groups, which see fewer rows, by {resampled}."
    )


def _less(models: Mapping[str, Any], name: str) -> str:
    return f"{models[name]['gold'] - models['bradley_terry']['gold']:+.3f}"


# ---- seeds -----------------------------------------------------------------------------------------------
def seeds(folder: Path) -> Iterator[str]:
    """How far ten seeds lie apart: online algorithms, then DPO and IPO."""
    opening, online = _opened(folder, "online.json", "Ten seeds", "python benchmarks/online.py")
    yield from opening
    if online is None:
        return
    columns = ("policy", "seeds", "gold, mean", "sd", "lowest", "highest")
    golds = {row["policy"]: row["gold"] for row in online["rows"]}
    yield from ("", *markdown(Table("", "", columns, [[name, *_spread(of)] for name, of in golds.items()])), "")
    for name in OF_SEEDS:
        if suite := kept(folder, f"suite_{name}.json"):
            yield from (f"At equal FLOPs, by `rlhf bench {name}`:", "")
            rows = [[*key, *_spread(of)] for key, of in by_task(suite).items()]
            yield from (*markdown(Table("", "", ("task", *columns), rows)), "")
    yield from ("![gold by seed](facts_seeds.png)", "")
    diverged = sum(row["diverged"] for row in online["rows"])
    words = (
        f"PPO is said to be the least stable. Of the seeds of the first table {diverged or 'none'} diverged. Whether "
        "PPO's deviation is another than that of an algorithm without a critic (Brown and Forsythe 1974, corrected for "
        f"their number): {_unlike_ppo(golds)}."
    )
    if suite := kept(folder, "suite_stability.json"):
        at_equal = {name: of for (_, name), of in by_task(suite).items()}
        words += f" Than that of DPO and IPO at equal FLOPs: {_unlike_ppo(at_equal)}."
    yield from _prose(words)


def _unlike_ppo(golds: Mapping[str, Sequence[float]]) -> str:
    """How surely each algorithm's gold varies otherwise over seeds than PPO's."""
    others = {name: of for name, of in golds.items() if name not in ("base", "ppo")}
    tested = holm({name: float(levene(golds["ppo"], of).pvalue) for name, of in others.items()})
    return ", ".join(f"{name} p = {p:.2f}" for name, p in tested.items())


def by_task(suite: Found) -> dict[tuple[str, str], list[float]]:
    """Each seed's gold, by task and algorithm."""
    found: dict[tuple[str, str], list[float]] = {}
    for run in suite["runs"]:
        if run["status"] == "finished":
            found.setdefault((run["task"], run["algorithm"]), []).append(sum(run["scores"]) / len(run["scores"]))
    return found


def _spread(golds: Sequence[float]) -> list[str]:
    return [
        str(len(golds)),
        *(f"{value:.2f}" for value in (sum(golds) / len(golds), stdev(golds), min(golds), max(golds))),
    ]
