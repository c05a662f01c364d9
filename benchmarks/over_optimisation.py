"""Lets PPO push against reward models of length-biased annotators, and fits where the true reward turns down.

    python benchmarks/over_optimisation.py [--seeds 11 20] [--runs runs/over_optimisation] [--quick]

In the sandbox the truth is known. Length-biased annotators judge; one reward model, and members joined in several ways,
are what PPO climbs without any KL penalty: once where the judgements are few, so that models err in ways of their own,
and once where the bias is strong, so that all err in the same way. Proxy, gold and KL are taken at every rollout. What
a seed has finished is not run again. Writes docs/benchmarks/over_optimisation.md, .json and a .png for each setting.

The curve of Gao et al. 2022 for reinforcement learning is R(d) = d (a - b log d) with d = sqrt(KL) and R the gain over
the policy at the start; it is largest at d = exp(a / b - 1).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_plugins.contract.rows import Data, Samples
from rlhf_plugins.contract.run import Adapter, Base, Run, StageResult
from rlhf_plugins.contract.run_kinds import Reward, RewardFunction
from rlhf_plugins.run.stage_run import StageRun

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "benchmarks"
ADAPTER = Adapter(r=16, lora_alpha=32, target_modules=["o_proj", "down_proj"])
DATA = {"use": "sandbox", "test_prompts": 64, "responses": 4, "pairs": 6}
MONITORS = ["equal_rewards", {"use": "kl_limit", "limit": 100.0}, "value_divergence"]  # too far is where this is to go
MEMBERS = 4
JOINED = ("single", "mean", "uncertainty_weighted", "worst_case")
REWARD = {"learning_rate": 1e-3, "per_device_train_batch_size": 32, "num_train_epochs": 2}
ONLINE = {
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 64,
    "num_generations": 4,
    "steps_per_generation": 2,
    "num_iterations": 2,
    "max_completion_length": 64,
    "logging_steps": 4,
}


Curve = list[dict[str, float]]  # a rollout a point
Curves = dict[str, list[Curve]]  # by judge, then by seed


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


@dataclass(frozen=True)
class Watched:
    """A reward, and the mean of it and of the gold reward over each rollout that it scored."""

    reward: Reward
    seen: list[dict[str, float]]

    def build(self, run: Run) -> RewardFunction:
        """The reward's own function, watched."""
        gold = run.data.gold
        score: Any = self.reward.build(run)
        assert gold is not None

        def watched(samples: Samples) -> Any:
            proxy = score(samples)
            truth = [gold(str(p), r) for p, r in zip(samples.prompts, samples.responses, strict=True)]
            words = float(np.mean([len(response.split()) for response in samples.responses]))
            total = float(np.mean([worth["total"] for worth in truth]))
            self.seen.append({"proxy": proxy.reward.mean().item(), "gold": total, "words": words})
            return proxy

        return watched


def main() -> None:
    """Parses the command line, runs what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs=2, default=(11, 20), metavar=("FIRST", "LAST"))
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "over_optimisation")
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps: to see that it runs")
    options = parser.parse_args()
    (first, last), steps = ((11, 11), 40) if options.quick else (options.seeds, options.steps)
    curves: dict[str, Curves] = {setting: {name: [] for name in JOINED} for setting in SETTINGS}
    for seed in range(first, last + 1):
        for setting, each in curves.items():
            for name in JOINED:
                each[name].append(one(seed, setting, name, steps, options.runs))
    found = {setting: {name: summary(own) for name, own in each.items()} for setting, each in curves.items()}
    print(page(found, first, last))
    if not options.quick:
        OUT.mkdir(parents=True, exist_ok=True)
        written = {"machine": machine(), "seeds": [first, last], "judges": found, "curves": curves}
        (OUT / "over_optimisation.json").write_text(json.dumps(written) + "\n")
        (OUT / "over_optimisation.md").write_text(page(found, first, last))
        for setting, each in curves.items():
            draw(each, found[setting], OUT / f"over_optimisation_{setting}.png")


def one(seed: int, setting: str, name: str, steps: int, runs: Path) -> Curve:
    """Proxy, gold and KL at each rollout of one training; read from its file where it has finished."""
    file = runs / setting / f"{seed}_{name}_{steps}.json"
    if not file.exists():
        print(f"{setting}, seed {seed}, {name}: running", flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(climbed(seed, setting, name, steps, runs / setting / str(seed))) + "\n")
    found: Curve = json.loads(file.read_text())
    return found


def climbed(seed: int, setting: str, name: str, steps: int, folder: Path) -> Curve:
    """Trains what is missing, then the policy against it."""
    from transformers import set_seed

    from rlhf_plugins.recipe.assemble import component

    base, data = world(seed, SETTINGS[setting])
    reward = judges(StageRun(base, data, seed, folder / "judges"), name)
    watched = Watched(component("reward", "model"), [])
    spec = {"use": "online", "kl": {"coef": 0.0}, "monitors": MONITORS, "trainer": {**ONLINE, "max_steps": steps}}
    stage = replace(component("stage", spec), reward=watched)
    (folder / name).mkdir(parents=True, exist_ok=True)
    set_seed(seed)
    result = stage.run(StageRun(base, data, seed, folder / name, (reward,)))
    kl = [value for _, value in result.curves["kl"].points]
    return [{**point, "kl": value} for point, value in zip(watched.seen, kl, strict=True)]


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


# ---- what the curves say ---------------------------------------------------------------------------------
def gao(d: Any, a: float, b: float) -> Any:
    """Gain R(d) = d (a - b log d), d = sqrt(KL) (Gao et al. 2022, equation for reinforcement learning)."""
    return d * (a - b * np.log(d))


def summary(curves: Sequence[Curve]) -> dict[str, Any]:
    """Where gold was highest and where it ended, mean over seeds, and the fit of Gao's form to the points of all."""
    smooth = [smoothed([point["gold"] for point in curve]) for curve in curves]
    tops = [int(np.argmax(gold)) for gold in smooth]
    return {
        "gold_start": [gold[0] for gold in smooth],
        "gold_peak": [gold[top] for gold, top in zip(smooth, tops, strict=True)],
        "gold_end": [gold[-1] for gold in smooth],
        "kl_peak": [smoothed([p["kl"] for p in curve])[top] for curve, top in zip(curves, tops, strict=True)],
        "kl_end": [smoothed([point["kl"] for point in curve])[-1] for curve in curves],
        "proxy_start": [curve[0]["proxy"] for curve in curves],
        "proxy_end": [smoothed([point["proxy"] for point in curve])[-1] for curve in curves],
        "kl_fit": [fitted([curve])["peak_kl"] for curve in curves],
        "fit": fitted(curves),
    }


def smoothed(values: Sequence[float], width: int = 5) -> list[float]:
    """Moving mean over `width` rollouts, fewer at the ends."""
    reach = width // 2
    return [float(np.mean(values[max(0, i - reach) : i + reach + 1])) for i in range(len(values))]


def fitted(curves: Sequence[Curve]) -> dict[str, float]:
    """a and b by least squares with their standard errors, what they leave unexplained, and where they peak."""
    from scipy.optimize import curve_fit

    points = [(np.sqrt(p["kl"]), p["gold"] - curve[0]["gold"]) for curve in curves for p in curve if p["kl"] > 0.01]
    d, gain = (np.array(column) for column in zip(*points, strict=True))
    (a, b), covariance = curve_fit(gao, d, gain)
    left = gain - gao(d, a, b)
    errors = np.sqrt(np.diag(covariance))
    return {
        "a": float(a),
        "b": float(b),
        "a_error": float(errors[0]),
        "b_error": float(errors[1]),
        "rms_error": float(np.sqrt(np.mean(left**2))),
        "r_squared": float(1 - left.var() / gain.var()),
        "peak_kl": float(np.exp(2 * (a / b - 1))),
        "points": len(points),
    }


# ---- the page --------------------------------------------------------------------------------------------
def machine() -> dict[str, Any]:
    """Where the curves were taken."""
    from rlhf_plugins.report.machine import hardware

    return hardware().model_dump()


def page(found: dict[str, dict[str, Any]], first: int, last: int) -> str:
    """What was run, where, and what each setting came to."""
    where = machine()
    lines = [
        "# Over-optimisation of a reward model",
        "",
        f"By `python benchmarks/over_optimisation.py` on {where['cores']} cores ({where['cpu']}), seeds {first} to "
        f"{last}. Length-biased annotators judge six pairs of each prompt's responses; PPO climbs one reward model, or "
        f"{MEMBERS} of bootstrapped data joined in three ways, without a KL penalty. Numbers are means over seeds, "
        "gold and proxy moving means over 5 rollouts of 128 episodes. The fit is of the gain in gold over the start, "
        "R(d) = d (a - b log d) with d = sqrt(KL) (Gao et al. 2022), to the points of all seeds. The settings were "
        "chosen on seeds 1 to 3.",
        *(text for setting, each in found.items() for text in section(setting, each)),
    ]
    return "\n".join(lines) + "\n"


def section(setting: str, found: dict[str, Any]) -> list[str]:
    """What happened in one setting, how the joinings stand to the single model, and the fits."""
    return [
        "",
        f"## {SETTINGS[setting].title}: {SETTINGS[setting].about}",
        "",
        f"![gold and proxy reward against sqrt(KL)](over_optimisation_{setting}.png)",
        "",
        "| judge | proxy, start to end | gold at the start | gold at its peak | at KL | gold at the end | at KL |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(line(name, each) for name, each in found.items()),
        "",
        "| judge | a | b | rms error | R squared | peak at KL | points |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(fit_line(name, each["fit"]) for name, each in found.items()),
        "",
        "Beside the single model, seed by seed, with the standard error of the mean over seeds:",
        "",
        "| judge | gold at its peak | gold at the end | KL at the peak of the seed's own fit, median ratio |",
        "| --- | --- | --- | --- |",
        *(beside(name, each, found["single"]) for name, each in found.items() if name != "single"),
    ]


def line(name: str, each: dict[str, Any]) -> str:
    """What happened under one judge."""
    mean = {key: float(np.mean(values)) for key, values in each.items() if key != "fit"}
    rest = (f"{mean[key]:.2f}" for key in ("gold_start", "gold_peak", "kl_peak", "gold_end", "kl_end"))
    return f"| {name} | {mean['proxy_start']:.2f} to {mean['proxy_end']:.2f} | {' | '.join(rest)} |"


def fit_line(name: str, fit: dict[str, float]) -> str:
    """The fit under one judge."""
    pair = (f"{fit[key]:.3f} ± {fit[f'{key}_error']:.3f}" for key in ("a", "b"))
    rest = f"{fit['rms_error']:.2f} | {fit['r_squared']:.2f} | {fit['peak_kl']:.1f} | {fit['points']}"
    return f"| {name} | {' | '.join(pair)} | {rest} |"


def beside(name: str, each: dict[str, Any], single: dict[str, Any]) -> str:
    """Differences from the single model, and how much later gold turns down."""
    gains = [np.subtract(each[key], single[key]) for key in ("gold_peak", "gold_end")]
    shown = [f"{gain.mean():+.2f} ± {error(gain):.2f}" for gain in gains]
    later = np.divide(each["kl_fit"], single["kl_fit"])
    return f"| {name} | {' | '.join(shown)} | {np.median(later):.2f}, later in {(later > 1).sum()} of {len(later)} |"


def error(values: Any) -> float:
    """The standard error of a mean; 0 of one value."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def draw(curves: Curves, found: dict[str, dict[str, Any]], file: Path) -> None:
    """A panel a judge: gold and proxy gained since the start by sqrt(KL), and the fit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    for axes, (name, each) in zip(figure.subplots(2, 2, sharex=True, sharey=True).flat, curves.items(), strict=True):
        for curve in each:
            d = np.sqrt(np.maximum(0, [point["kl"] for point in curve]))
            for key, color in (("proxy", "C1"), ("gold", "C0")):
                axes.plot(d, [point[key] - curve[0][key] for point in curve], ".", color=color, alpha=0.5)
        fit, reach = found[name]["fit"], np.sqrt(max(point["kl"] for curve in each for point in curve))
        grid = np.linspace(0.1, reach, 200)
        axes.plot(grid, gao(grid, fit["a"], fit["b"]), color="C0")
        axes.axhline(0, color="gray", linewidth=0.5)
        axes.set_title(name.replace("_", " "))
    figure.supxlabel("sqrt(KL)")
    figure.supylabel("gain since the start: proxy (orange), gold (blue) with Gao's form")
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
