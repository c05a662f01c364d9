"""What papers say, reproduced: the IPO paper's bandits, the optimal policy, Gao's forms. Writes one page, in seconds.

    python -m rlhf_bench.facts DATA.json PAGE.md

The data are the curves of benchmarks/over_optimisation.py; the rest is computed here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from rlhf_bench.exact import bradley_terry, certain, descended, kl, objective, optimal, preference, solved, uniform
from rlhf_bench.laws import Fit, fit, mean_curve

TAUS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
CASES = {"a > b > c": [(0, 1), (1, 2), (0, 2)], "a > b > c > a": [(0, 1), (1, 2), (2, 0)], "a > b, c unseen": [(0, 1)]}
STEPS = (100, 1_000, 10_000)
REFERENCE = (0.4, 0.3, 0.2, 0.1)
REWARDS = (0.0, 1.0, 0.5, 2.0)
GOOD = 0.9
SQUARES = ("R squared, mean curve", "R squared, median seed", f"seeds above {GOOD}")
BETAS = (0.25, 0.5, 1.0)


def main() -> None:
    """Reads the curves and writes the page."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    data, page = map(Path, sys.argv[1:])
    text = [*bandits(), *enumerable(), *over_optimisation(json.loads(data.read_text()), data.name)]
    page.write_text("\n".join(["# Facts of the papers", "", "By `python -m rlhf_bench.facts`.", *text]) + "\n")


def bandits() -> Iterator[str]:
    """Tabular softmax policies with a uniform reference, by our own losses."""
    yield from ("", "## The bandits of the IPO paper (Azar et al. 2023, section 5)", "")
    yield "Three actions, a uniform reference; the loss is minimised exactly. Probabilities of a, b and c:"
    yield from ("", "| tau | " + " | ".join(CASES) + " | two actions, a > b |", "|" + " --- |" * (len(CASES) + 2))
    for tau in TAUS:
        cells = [_shown(solved(preference(certain(p), uniform(3), "ipo", tau), uniform(3))) for p in CASES.values()]
        two = solved(preference(certain([(0, 1)]), uniform(2), "ipo", tau), uniform(2))
        yield f"| {tau:g} | {' | '.join(cells)} | {float(two.exp()[0]):.4f} |"
    yield from ("", "DPO on the total order has no least: the probability of a after gradient steps of size 1.", "")
    yield from (
        "| beta | " + " | ".join(f"{steps:,} steps" for steps in STEPS) + " |",
        "|" + " --- |" * (len(STEPS) + 1),
    )
    for beta in TAUS[:4]:
        loss = preference(certain(CASES["a > b > c"]), uniform(3), "dpo", beta)
        moved = [f"{float(policy.exp()[0]):.4f}" for policy in descended(loss, uniform(3), STEPS, 1.0)]
        yield f"| {beta:g} | {' | '.join(moved)} |"
    yield ""
    yield "It agrees: IPO stays where tau puts it, and at the reference where preferences cancel. DPO leaves no action"
    yield "but a, at a speed that beta sets: with certain preferences its KL to the reference has no bound."


def enumerable() -> Iterator[str]:
    """KL(pi || pi*) where all answers are known."""
    reference = torch.tensor(REFERENCE, dtype=torch.float64).log()
    rewards = torch.tensor(REWARDS, dtype=torch.float64)
    judged = bradley_terry(rewards)
    yield from ("", "## The optimal policy on four answers", "")
    yield f"pi_ref {REFERENCE}, rewards {REWARDS}, pi* = pi_ref exp(r / beta) / Z. Every pair is judged with its true"
    yield "probability, sigmoid of the difference of rewards. KL(pi || pi*) in nats, and what of the objective is lost:"
    yield from (
        "",
        "| beta | algorithm | policy | KL to pi* | lost of E[r] - beta KL |",
        "| --- | --- | --- | --- | --- |",
    )
    for beta in BETAS:
        star = optimal(reference, rewards, beta)
        best = float(objective(star, reference, rewards, beta))
        found = {
            "pi*": star,
            "RL, exact gradient": solved(partial(_lost, reference, rewards, beta), reference),
            "DPO": solved(preference(judged, reference, "dpo", beta), reference),
            "IPO": solved(preference(judged, reference, "ipo", beta), reference),
            "reference": reference,
        }
        for name, policy in found.items():
            lost = best - float(objective(policy, reference, rewards, beta))
            yield f"| {beta:g} | {name} | {_shown(policy)} | {abs(kl(policy, star)):.4f} | {abs(lost):.4f} |"
    yield ""
    yield "RL and DPO meet pi*, as the derivation of DPO says: its assumption, Bradley-Terry preferences, holds here by"
    yield "construction. IPO maximises preference, not this reward, so that it goes elsewhere."


def _lost(reference: torch.Tensor, rewards: torch.Tensor, beta: float, policy: torch.Tensor) -> torch.Tensor:
    return -objective(policy, reference, rewards, beta)


def over_optimisation(data: dict[str, Any], source: str) -> Iterator[str]:
    """The fits to each seed's curve and to the mean curve."""
    yield from ("", "## Over-optimisation (Gao et al. 2022)", "")
    yield f"The curves of `{source}`: PPO against reward models of biased annotators. Each form is fitted to each"
    yield "seed's curve, and to their mean at the same KL (moving means over 5 rollouts, 20 equal steps of sqrt(KL), as"
    yield "far as the median seed goes)."
    columns = ("data", "judge", "form", "a", "b", *SQUARES, "top at KL")
    yield from ("", f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns))
    means = []
    for setting, judges in data["curves"].items():
        for judge, curves in judges.items():
            for form in ("rl", "best_of_n"):
                seeds = [fit(form, *_gains(curve)) for curve in curves]
                means.append(fit(form, *mean_curve(curves)))
                yield _fit_row(setting, judge, means[-1], seeds)
    yield from _fits_in_words(means, data["curves"])


def _fits_in_words(means: Sequence[Fit], curves: dict[str, Any]) -> Iterator[str]:
    rl, others = ([one.r_squared for one in means if (one.form == "rl") is wanted] for wanted in (True, False))
    good = sum(value > GOOD for value in rl)
    better = sum(one > other for one, other in zip(rl, others, strict=True))
    shortest, longest = (_squares(curves, reach) for reach in (0.0, 1.0))
    yield ""
    yield "Gold rises, turns and falls. The form of reinforcement learning fits better than that of best-of-n in"
    yield f"{better} of {len(rl)} settings. Its R squared on the mean curve is above {GOOD} in {good} of them,"
    yield f"and {_span(rl)} in all. How far the mean curve goes was chosen knowing the numbers: as far as every"
    yield f"seed goes, the form has {_span(shortest)}, and as far as the last one goes, where single seeds are left,"
    yield f"{_span(longest)}. Single seeds fit less well, and so do [the points of all](over_optimisation.md)."
    yield "Best-of-n itself has [a page of its own](best_of_n.md), where its own form fits."
    yield "Standard errors take points to be independent, which neighbours on a curve are not."


def _squares(curves: dict[str, Any], reach: float) -> list[float]:
    return [fit("rl", *mean_curve(seeds, reach)).r_squared for judges in curves.values() for seeds in judges.values()]


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _fit_row(setting: str, judge: str, whole: Fit, seeds: Sequence[Fit]) -> str:
    good = sum(one.r_squared > GOOD for one in seeds)
    peak = "none" if whole.peak_kl is None or not whole.turns else f"{whole.peak_kl:.1f}"
    pair = f"{whole.a:.3f} ± {whole.a_error:.3f} | {whole.b:.3f} ± {whole.b_error:.3f}"
    squares = f"{whole.r_squared:.2f} | {median(one.r_squared for one in seeds):.2f} | {good} of {len(seeds)}"
    return f"| {setting} | {judge} | {whole.form} | {pair} | {squares} | {peak} |"


def _gains(curve: Sequence[dict[str, float]]) -> tuple[list[float], list[float]]:
    return [point["kl"] for point in curve], [point["gold"] - curve[0]["gold"] for point in curve]


def _shown(policy: torch.Tensor) -> str:
    return " ".join(f"{p:.4f}" for p in policy.exp().tolist())


if __name__ == "__main__":
    main()
