"""What papers say, reproduced: exact cases, computed here, and what runs showed. Writes a page with plots in a minute.

    python -m rlhf_bench.facts FOLDER

FOLDER holds what was measured (docs/benchmarks): tables of suites and scripts, as JSON. It gets facts.md and the plots.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import torch

from rlhf_bench import figures, trained
from rlhf_bench.exact import (
    REFERENCE,
    REWARDS,
    bradley_terry,
    certain,
    descended,
    kl,
    objective,
    optimal,
    preference,
    solved,
    uniform,
)
from rlhf_bench.measured import OF_SEEDS, by_task, climbed, ensembles, frontiers, kept, over_optimisation, seeds

TAUS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
CASES = {"a > b > c": [(0, 1), (1, 2), (0, 2)], "a > b > c > a": [(0, 1), (1, 2), (2, 0)], "a > b, c unseen": [(0, 1)]}
STEPS = (100, 1_000, 10_000)
DRAWN = tuple(round(10 ** (power / 4)) for power in range(17))  # 1 to 10,000, STEPS among them


def main() -> None:
    """Reads what was measured and writes the page and its plots."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    (folder / "facts.md").write_text("\n".join(page(folder)) + "\n")
    draw(folder)


def page(folder: Path) -> Iterator[str]:
    """Its lines; a part whose runs are missing says which command makes them."""
    yield from (
        "# Facts of the papers",
        "",
        "By `python -m rlhf_bench.facts docs/benchmarks`, from what the commands wrote that are named.",
        "",
        "What trains a policy is a suite, but for the first table of ten seeds, which is at equal episodes, and the",
        "trainers on four answers. Bandits and the optimal policy are solved exactly and train nothing, best-of-n",
        "trains no policy, and one of the tables of ensembles is of reward models.",
    )
    yield from (*bandits(), *enumerable())
    if rows := kept(folder, "trained.json"):
        yield from trained.section(rows["rows"])
    for part in (over_optimisation, frontiers, ensembles, seeds):
        yield from part(folder)


def draw(folder: Path) -> None:
    """The plots of the page, as far as their runs are there."""
    certainly = certain(CASES["a > b > c"])
    at_minimum = {tau: _first(solved(preference(certainly, uniform(3), "ipo", tau), uniform(3))) for tau in TAUS}
    figures.bandits(at_minimum, {beta: _drift(beta) for beta in TAUS[:4]}, folder / "facts_bandits.png")
    for name in ("over_optimisation", "ensembles"):
        if suite := kept(folder, f"suite_{name}.json"):
            figures.over_optimisation(climbed(suite), folder / f"facts_{name}.png")
    if suite := kept(folder, "suite_frontier.json"):
        figures.frontiers(suite, folder / "facts_frontier.png")
    if (models := kept(folder, "reward_sandbox.json")) and "flips" in models:
        of_models = {row["model"]: row["gold_by_seed"] for row in models["flips"]["rows"]}
        figures.dots({"a quarter of all votes turned round": of_models}, "accuracy by gold", folder / "facts_noise.png")
    if online := kept(folder, "online.json"):
        panels = {"equal episodes": {row["policy"]: row["gold"] for row in online["rows"]}}
        suites = [suite for name in OF_SEEDS if (suite := kept(folder, f"suite_{name}.json"))]
        if suites:
            equal = {key: golds for suite in suites for key, golds in by_task(suite).items()}
            panels["equal FLOPs"] = {" ".join(key): golds for key, golds in equal.items()}
        figures.dots(panels, "gold reward", folder / "facts_seeds.png")


@cache
def _drift(beta: float) -> dict[int, float]:
    """The probability of a after so many steps of gradient descent on DPO's loss."""
    loss = preference(certain(CASES["a > b > c"]), uniform(3), "dpo", beta)
    return {n: _first(policy) for n, policy in zip(DRAWN, descended(loss, uniform(3), DRAWN, 1.0), strict=True)}


def _first(policy: torch.Tensor) -> float:
    return float(policy.exp()[0])


def bandits() -> Iterator[str]:
    """Tabular softmax policies with a uniform reference, by our own losses."""
    yield from ("", "## The bandits of the IPO paper (Azar et al. 2023, section 5)", "")
    yield "Three actions, a uniform reference; the loss is minimised exactly. Probabilities of a, b and c:"
    yield from ("", "| tau | " + " | ".join(CASES) + " | two actions, a > b |", "|" + " --- |" * (len(CASES) + 2))
    for tau in TAUS:
        cells = [_shown(solved(preference(certain(p), uniform(3), "ipo", tau), uniform(3))) for p in CASES.values()]
        two = solved(preference(certain([(0, 1)]), uniform(2), "ipo", tau), uniform(2))
        yield f"| {tau:g} | {' | '.join(cells)} | {_first(two):.4f} |"
    yield from ("", "DPO on the total order has no least: the probability of a after gradient steps of size 1.", "")
    yield from (
        "| beta | " + " | ".join(f"{steps:,} steps" for steps in STEPS) + " |",
        "|" + " --- |" * (len(STEPS) + 1),
    )
    for beta in TAUS[:4]:
        yield f"| {beta:g} | {' | '.join(f'{_drift(beta)[steps]:.4f}' for steps in STEPS)} |"
    yield from ("", "![the probability of a under IPO by tau, and under DPO by steps](facts_bandits.png)", "")
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
    for beta in trained.BETAS:
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
    yield "These are minima of the losses, and of the objective of RL, over a table of probabilities."
    yield ""
    yield "RL and DPO meet pi*, as the derivation of DPO says: its assumption, Bradley-Terry preferences, holds here by"
    yield "construction. IPO maximises preference, not this reward, so that it goes elsewhere."


def _lost(reference: torch.Tensor, rewards: torch.Tensor, beta: float, policy: torch.Tensor) -> torch.Tensor:
    return -objective(policy, reference, rewards, beta)


def _shown(policy: torch.Tensor) -> str:
    return " ".join(f"{p:.4f}" for p in policy.exp().tolist())


if __name__ == "__main__":
    main()
