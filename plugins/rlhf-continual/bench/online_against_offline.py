"""Online against offline preferences at equal labels and equal trainings; writes docs/benchmarks/online_preferences.md.

    python plugins/rlhf-continual/bench/online_against_offline.py [--seeds 5] [--arms offline spread online]

The arms are the recipe `online_preferences_sandbox.yaml` with a simulated annotator, who is drawn from Bradley and
Terry's model. Offline asks for all labels in the first round; `spread` asks round by round as online does, but about
pairs of the start. A finished run is read, not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rlhf_plugins import Base, RunRecord, component, load_policy, load_reward_model, open_run, run_recipe

ROOT, HERE = Path(__file__).parents[3], Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "online_preferences_sandbox.yaml"
OUT = ROOT / "docs" / "benchmarks" / "online_preferences.md"
ARMS = {"offline": ["stages.0.first=1.0"], "spread": ["stages.0.stage=spread"], "online": []}
ASKS = {
    "offline": "Offline asks for all labels in the first round, about pairs of the base.",
    "spread": "Spread asks for a quarter in each round, about pairs of the base.",
    "online": "Online asks for a quarter in each round, about pairs of the policy by then.",
}
SETTING = [
    f"plugins=[{HERE / 'annotator.py'}, {HERE / 'spread.py'}]",
    "stages.0.judge=drawn",
    "stages.0.labels=256",
    "stages.0.measured=0",
    "stages.0.policy.kl.coef=0.05",
]
ROUNDS, PROMPTS = 4, 128
WHAT = {
    "gold": "gold reward of the policy",
    "gain": "its gain on the base",
    "kl": "its KL to the base, nats",
    **{f"round {n}": f"accuracy on pairs of the policy after round {n}" for n in range(ROUNDS)},
}
Numbers = dict[str, float]


def main() -> None:
    """Parses the command line, runs what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--arms", nargs="+", choices=ARMS, default=list(ARMS), help="the last is compared with the others"
    )
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "online_preferences")
    options = parser.parse_args()
    found: dict[str, list[Numbers]] = {arm: [] for arm in options.arms}
    for seed in range(1, options.seeds + 1):
        for arm in options.arms:
            record = trained(options.runs / f"{arm}-{seed}", arm, seed)
            found[arm].append(measured(record))
            print(arm, seed, found[arm][-1], flush=True)
    OUT.write_text(page(found, json.loads((record.folder / "report.json").read_text())["hardware"]))
    print(OUT.read_text())


def trained(folder: Path, arm: str, seed: int) -> RunRecord:
    """A finished run of an arm."""
    if not folder.exists() or open_run(folder).status != "finished":
        words = [*SETTING, *ARMS[arm], f"seed={seed}", f"output_dir={folder}"]
        run_recipe(str(RECIPE), words, resume=(folder / "status.json").exists(), say=lambda _: None)
    return open_run(folder)


def measured(record: RunRecord) -> Numbers:
    """Of the last policy, and of the reward models against which the policies were trained, by the true reward."""
    kept = record.folder / "numbers.json"
    if kept.exists():
        known: Numbers = json.loads(kept.read_text())
        return known
    last = json.loads((record.folder / "report.json").read_text())["policies"]["online_preferences"]
    numbers = {"gold": last["gold"]["mean"], "gain": last["gain"]["mean"], "kl": last["kl"]}
    stage = next(record.folder.glob("*-online_preferences"))
    for number in range(ROUNDS):
        reward = max(stage.glob(f"reward[0-{number}]"))  # offline there is the first one alone
        numbers[f"round {number}"] = accuracy(reward / "model", stage / f"policy{number}" / "model")
    kept.write_text(json.dumps(numbers))
    return numbers


def accuracy(reward: Path, policy: Path) -> float:
    """How often the reward model orders two responses of the policy to a held-out prompt as the true reward does."""
    rows = component("data_format", "sandbox", writer="sloppy", prompts=1, pairs=1, test_prompts=PROMPTS)
    data = rows.load(Base("sandbox"), 0)
    samples = load_policy(policy).sample(data.prompts["test"], 2, max_new_tokens=48, seed=1)
    guessed = load_reward_model(reward).predict(samples).reward.view(-1, 2).tolist()
    truth = [data.gold(p, r)["total"] for p, r in zip(samples.prompts, samples.responses, strict=True)]
    pairs = zip(guessed, zip(truth[::2], truth[1::2], strict=True), strict=True)
    return fmean(0.5 + 0.5 * sign(a - b) * sign(c - d) for (a, b), (c, d) in pairs if c != d)


def sign(number: float) -> int:
    """-1, 0 or 1."""
    return (number > 0) - (number < 0)


def page(found: Mapping[str, Sequence[Numbers]], machine: Mapping[str, Any]) -> str:
    """A row for each number, with the difference of the arms seed by seed."""
    *others, last = found
    seeds, heads = len(found[last]), [*found, *(f"{last} - {other}" for other in others)]
    lines = [
        "# Online against offline preferences",
        "",
        f"The recipe `online_preferences_sandbox.yaml` with 256 labels of a simulated annotator, KL coefficient 0.05, "
        f"4 rounds. {' '.join(ASKS[arm] for arm in found)} By `python plugins/rlhf-continual/"
        f"bench/online_against_offline.py --seeds {seeds} --arms {' '.join(found)}` "
        f"on {machine['cores']} cores ({machine['cpu']}). Means over "
        f"{seeds} seeds, with the deviation over seeds in brackets; differences with standard errors. Accuracies are "
        f"of the reward model that the policy was trained against, by the true reward, on {PROMPTS} held-out prompts.",
        "",
        f"| | {' | '.join(heads)} |",
        f"|---|{'---|' * len(heads)}",
    ]
    for name, title in WHAT.items():
        arms = {arm: [one[name] for one in numbers] for arm, numbers in found.items()}
        cells = [f"{fmean(values):.3f} ({stdev(values):.3f})" for values in arms.values()]
        cells += [difference(arms[last], arms[other]) for other in others]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def difference(values: Sequence[float], others: Sequence[float]) -> str:
    """The mean, seed by seed, with its standard error."""
    gaps = [value - other for value, other in zip(values, others, strict=True)]
    return f"{fmean(gaps):+.3f} ± {stdev(gaps) / len(gaps) ** 0.5:.3f}"


if __name__ == "__main__":
    main()
