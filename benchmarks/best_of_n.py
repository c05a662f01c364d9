"""Takes the best of n responses by reward models of length-biased annotators, and what the true reward makes of it.

    python benchmarks/best_of_n.py [--seeds 11 12] [--runs runs/best_of_n] [--plot]

One reward model, and members joined in several ways: where the judgements are few, so that models err in ways of their
own, and where the bias is strong, so that all err in the same way. 128 responses to each of 64 held-out prompts are
sampled once; proxy and gold of the best of n are means over all choices of n among them. What a seed has finished is
not run again. Writes docs/benchmarks/best_of_n.md and a plot of its tables; --plot runs nothing and draws the page
that there is.

The curve of Gao et al. 2022 for best-of-n is R(d) = d (a - b d), d = sqrt(KL) and KL = log n - (n - 1) / n.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from math import comb, log
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_plugins.contract.rows import Data
from rlhf_plugins.contract.run import Adapter, Base, StageResult
from rlhf_plugins.run.stage.stage_run import StageRun

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "benchmarks"
ADAPTER = Adapter(r=16, lora_alpha=32, target_modules=["o_proj", "down_proj"])
DATA = {"use": "sandbox", "test_prompts": 64, "responses": 4, "pairs": 6}
MEMBERS = 4
JOINED = ("single", "mean", "uncertainty_weighted", "worst_case")
REWARD = {"learning_rate": 1e-3, "per_device_train_batch_size": 32, "num_train_epochs": 2}
PROMPTS, POOL = 64, 128
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
KL = np.array([log(n) - (n - 1) / n for n in COUNTS])
PLOT = "![the gain in gold over sqrt(KL) by judge, and Gao's form](best_of_n.png)"
Found = dict[str, dict[str, list[float]]]  # judge -> proxy and gold of the best of each of COUNTS


@dataclass(frozen=True)
class Setting:
    """Who judges how much."""

    title: str
    prompts: int  # of which six pairs each are judged
    length_bias: float  # what an annotator likes each word by, in units of gold

    @property
    def about(self) -> str:
        """As the page says it."""
        return f"{self.prompts} prompts, annotators who like each word by {self.length_bias}"


SETTINGS = {
    "few": Setting("Few judgements", 60, 0.05),
    "biased": Setting("A strong bias", 150, 0.15),
}


def best(proxy: np.ndarray, worth: np.ndarray, n: int) -> float:
    """The mean worth of the one with the largest proxy among n of the N responses to each prompt, both (P, N).

    The i-th smallest, from 1, is chosen by C(i - 1, n - 1) of the C(N, n) choices.
    """
    size = proxy.shape[1]
    chances = np.array([comb(place, n - 1) / comb(size, n) for place in range(size)])
    return float((np.take_along_axis(worth, proxy.argsort(1), 1) @ chances).mean())


def one(seed: int, setting: str, runs: Path) -> Found:
    """One seed of a setting; read from its file where it has finished."""
    file = runs / setting / f"{seed}.json"
    if not file.exists():
        print(f"{setting}, seed {seed}: running", flush=True)
        found = measured(seed, setting, runs / setting / str(seed))
        file.write_text(json.dumps(found) + "\n")
    read: Found = json.loads(file.read_text())
    return read


def measured(seed: int, setting: str, folder: Path) -> Found:
    """Trains the judges, samples, and takes the best of n by each."""
    base, data = world(seed, SETTINGS[setting])
    run = StageRun(base, data, seed, folder / "judges")
    prompts = list(dict.fromkeys(str(group.prompt) for group in data.test))[:PROMPTS]
    samples = run.policy().sample(prompts, POOL, max_new_tokens=64, seed=seed)
    assert data.gold is not None
    worth = np.array([data.gold(str(p), r)["total"] for p, r in zip(samples.prompts, samples.responses, strict=True)])
    found = {}
    for name in JOINED:
        reward = (
            run.open("reward", judges(run, name).rewards["reward"])
            .predict(samples)
            .reward.double()
            .numpy()
            .reshape(-1, POOL)
        )
        gold = worth.reshape(-1, POOL)
        parts = {"proxy": reward, "gold": gold}
        found[name] = {key: [best(reward, part, n) for n in COUNTS] for key, part in parts.items()}
    return found


def world(seed: int, setting: Setting) -> tuple[Base, Data]:
    """The sandbox's policy, and pairs that length-biased annotators judged."""
    from rlhf_plugins.recipe.assemble import component
    from rlhf_plugins.sandbox import POLICY

    base = Base(str(POLICY), adapter=ADAPTER)
    options = {"prompts": setting.prompts, "annotator": {"length_bias": setting.length_bias}}
    data: Data = component("data_format", {**DATA, **options}).load(base, seed)
    return base, data


def judges(run: StageRun, name: str) -> StageResult:
    """One reward model, or an ensemble joined by the aggregation `name`; members are trained once a seed."""
    from transformers import set_seed

    from rlhf_plugins.recipe.assemble import component

    model = run.folder / "ensemble" / "model"
    if not (model / "reward_ensemble.json").exists():
        model.parent.mkdir(parents=True, exist_ok=True)
        set_seed(run.seed)
        stage = component("stage", {"use": "reward_ensemble", "members": MEMBERS, "trainer": {**REWARD}})
        stage.run(replace(run, folder=model.parent))
    if name == "single":
        return StageResult(rewards={"reward": {"use": "saved", "path": str(model / "0")}})
    described = json.loads((model / "reward_ensemble.json").read_text())
    described["aggregation"] = {"use": name}
    (model / "reward_ensemble.json").write_text(json.dumps(described))
    return StageResult(rewards={"reward": {"use": "saved", "path": str(model)}})


def fitted(gain: np.ndarray) -> tuple[float, float, float]:
    """a and b of R = d (a - b d) by least squares, and R squared."""
    d = np.sqrt(KL)
    columns = np.stack([d, -(d**2)], 1)
    (a, b), *_ = np.linalg.lstsq(columns, gain, rcond=None)
    left = gain - columns @ [a, b]
    return float(a), float(b), float(1 - left.var() / gain.var())


def error(values: Any) -> float:
    """The standard error of a mean; 0 of one value."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def page(found: dict[str, list[Found]], seeds: tuple[int, int]) -> str:
    """Everything in words."""
    from rlhf_plugins.report.machine import hardware

    where = hardware()
    lines = [
        "# Best-of-n against a reward model",
        "",
        f"By `python benchmarks/best_of_n.py` on {where.cores} cores ({where.cpu}), seeds {seeds[0]} to "
        f"{seeds[1]}. Length-biased annotators judge six pairs of each prompt's responses, and a policy that is not "
        f"trained takes the best by one reward model, or by {MEMBERS} of resampled groups joined in three ways. Means "
        f"over seeds, {PROMPTS} held-out prompts and all choices of n of {POOL} responses. "
        "The fit is of the gain in gold over n = 1, R(d) = d (a - b d) with d = sqrt(KL) and KL = log n - (n - 1) / n "
        "(Gao et al. 2022).",
    ]
    for setting, each in found.items():
        counts = " | ".join(f"n = {n}, KL {kl:.2f}" for n, kl in zip(COUNTS, KL, strict=True))
        lines += ["", f"## {SETTINGS[setting].title}: {SETTINGS[setting].about}", ""]
        lines += [f"| judge | | {counts} | a | b | R squared |", "| --- " * (len(COUNTS) + 5) + "|"]
        for name in JOINED:
            for key in ("proxy", "gold"):
                curves = np.array([one[name][key] for one in each])  # (seeds, counts)
                gain = (curves - curves[:, :1]).mean(0)
                fit = " | ".join(f"{number:.3f}" for number in fitted(gain)) if key == "gold" else "| | "
                lines.append(f"| {name} | {key} | {' | '.join(f'{value:.2f}' for value in curves.mean(0))} | {fit} |")
        single, worst = (np.array([one[name]["gold"][-1] for one in each]) for name in ("single", "worst_case"))
        more = f"{(worst - single).mean():+.2f} ± {error(worst - single):.2f}"
        lines += ["", f"At n = {POOL} the best by `worst_case` is worth {more} more than that by the single model."]
    return "\n".join([*lines, "", PLOT]) + "\n"


def drawn(text: str) -> dict[str, dict[str, list[float]]]:
    """By setting and judge, as the page has them: gold at each of COUNTS, then a, b and R squared."""
    found: dict[str, dict[str, list[float]]] = {}
    for line in text.splitlines():
        if line.startswith("## "):
            of_setting = found.setdefault(line[3:], {})
        elif line.count("| gold |"):
            name, _, *numbers = (cell.strip() for cell in line.strip("|").split("|"))
            of_setting[name] = list(map(float, numbers))
    return found


def draw(text: str, file: Path) -> None:
    """A panel a setting: the gain in gold over n = 1 of each judge, and Gao's form."""
    from matplotlib.figure import Figure

    found = drawn(text)
    figure, grid = Figure(figsize=(9, 3.6), layout="constrained"), np.linspace(0, np.sqrt(KL[-1]), 100)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (title, of_judges) in zip(panels, found.items(), strict=True):
        for place, (name, (*gold, a, b, _)) in enumerate(of_judges.items()):
            axes.plot(np.sqrt(KL), np.subtract(gold, gold[0]), "o", color=f"C{place}")
            axes.plot(grid, grid * (a - b * grid), color=f"C{place}", label=name.replace("_", " "))
        axes.set(title=title.partition(":")[0], xlabel="sqrt(KL)")
    panels[0].set_ylabel("gain in gold (dots), form (lines)")
    panels[0].legend()
    figure.savefig(file, dpi=90)


def main() -> None:
    """Parses the command line, runs what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs=2, default=(11, 12), metavar=("FIRST", "LAST"))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "best_of_n")
    parser.add_argument("--plot", action="store_true")
    options = parser.parse_args()
    (first, last), file = options.seeds, OUT / "best_of_n.md"
    if not options.plot:
        found = {name: [one(seed, name, options.runs) for seed in range(first, last + 1)] for name in SETTINGS}
        file.write_text(page(found, (first, last)), encoding="utf-8")
    draw(file.read_text(encoding="utf-8"), OUT / "best_of_n.png")
    print(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
