"""Measures revision, AI labels, policies trained on them and self-improvement against the sandbox's true reward.

python plugins/rlhf-constitution/bench/measure.py FOLDER [revision|labels|policies|rlaif|loop|collapse]... [--seeds 5]

Each part and seed is a JSON file in FOLDER, which is not made again; the tables are printed at the end.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from itertools import pairwise
from math import log10
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from rlhf_constitution.revision import edit
from scipy import stats

from rlhf_plugins import Run, open_run, run_recipe, session

NOISE = 0.2
ROUNDS = 3  # of critique and revision
CONSTITUTION = """
principles:
  - {{use: truth, name: harmless, dimension: harmless, noise: {noise}, priority: safety, gate: 0.5, weight: 2}}
  - {{use: truth, name: honest, dimension: honest, noise: {noise}, priority: accuracy}}
  - {{use: truth, name: helpful, dimension: helpful, noise: {noise}, priority: helpfulness}}
"""
ADAPTER = {"r": 16, "lora_alpha": 32, "target_modules": ["o_proj", "down_proj"]}
DPO = {"stage": "preference", "from": "base", "loss": {"use": "dpo", "beta": 1.0}}
TRAINER = {"learning_rate": 5e-4, "per_device_train_batch_size": 64, "num_train_epochs": 2, "warmup_steps": 10}
DPO |= {"trainer": TRAINER}
SFT = {"learning_rate": 1e-3, "per_device_train_batch_size": 32, "num_train_epochs": 8}
Numbers = dict[str, Any]


def constitution(folder: Path, noise: float) -> str:
    """A file with the three dimensions behind this noise."""
    file = folder / f"noise{noise}.yaml"
    file.write_text(CONSTITUTION.format(noise=noise))
    return str(file)


def world(folder: Path, seed: int, prompts: int) -> Run:
    """A run on the sandbox with that seed."""
    data = {"format": "sandbox", "writer": "sloppy", "prompts": prompts, "test_prompts": 4}
    return session("sandbox", data, folder, seed=seed)


def revision(folder: Path, seed: int) -> Numbers:
    """Violations by round, needless revisions, edits and helpfulness of first answers and accepted revisions."""
    run = world(folder, seed, 800)
    stage = {"use": "critique_revise", "constitution": constitution(folder, 0.1), "reviser": "simulated"}
    run.train({**stage, "rounds": ROUNDS, "prompts": 600}, name="revise")
    rows = [json.loads(line) for line in (run.folder / "revise/revisions.jsonl").read_text().splitlines()]
    gold = run.data.gold
    assert gold is not None
    by_round = [[gold(row["prompt"], after_round(row, n)) for row in rows] for n in range(-1, ROUNDS)]
    before, after = by_round[0], by_round[-1]
    broken = [[worth["harmless"] < 0.5 for worth in worths] for worths in by_round]
    clean = [place for place, worth in enumerate(before) if min(worth.values()) >= 0.99]
    kept = [[row["first"], *(one["text"] for one in row["attempts"] if one["accepted"])] for row in rows]
    steps = [edit(a, b) for texts in kept for a, b in pairwise(texts)]
    whole = [edit(texts[0], texts[-1]) for texts in kept if len(texts) > 1]
    gains = [b["helpful"] - a["helpful"] for a, b in zip(before, after, strict=True)]
    turned = [a - b for a, b in zip(broken[0], broken[-1], strict=True)]
    return {
        "violations before, per 100": 100 * fmean(broken[0]),
        **{f"violations after round {n}, per 100": 100 * fmean(found) for n, found in enumerate(broken[1:], 1)},
        "answers repaired": turned.count(1),
        "answers broken": turned.count(-1),
        "log10 of a sign test's p": log10(stats.binomtest(turned.count(1), sum(map(abs, turned))).pvalue),
        "helpful before": fmean(worth["helpful"] for worth in before),
        "helpful after": fmean(worth["helpful"] for worth in after),
        "helpful gained, lower 95% bound over prompts": fmean(gains) - 1.645 * stdev(gains) / len(gains) ** 0.5,
        "needless revisions, per 100 clean": 100 * fmean(rows[i]["first"] != rows[i]["text"] for i in clean),
        "median edit of a revision": median(steps),
        "median edit of an answer": median(whole),
    }


def after_round(row: Numbers, last: int) -> str:
    """The text that a draft had after a round; the rounds count from 0."""
    accepted = [one["text"] for one in row["attempts"] if one["accepted"] and one["round"] <= last]
    return str(accepted[-1] if accepted else row["first"])


def labels(folder: Path, seed: int) -> Numbers:
    """Kappa of AI labels with the true reward, of all pairs and after a gap of 0.2."""
    run = world(folder, seed, 400)
    stage = {
        "use": "ai_feedback",
        "constitution": constitution(folder, NOISE),
        "answers": 4,
        "gap": 0.2,
        "prompts": 400,
    }
    result = run.train(stage, name="feedback")
    table = {row["pairs of"]: row for row in result.sections[1].rows}
    raw, kept = table["all"], table["a gap of 0.2"]
    return {
        "pairs": raw["pairs"],
        "kappa": raw["kappa"],
        "pairs after the gap": kept["pairs"],
        "kappa after": kept["kappa"],
    }


def policies(folder: Path, seed: int) -> Numbers:
    """Win rates over the base of DPO on AI labels, DPO on true labels, and supervised revisions."""
    judged, true = constitution(folder, NOISE), constitution(folder, 0.0)
    feedback = {"stage": "ai_feedback", "answers": 4, "gap": 0.2, "prompts": 800}
    revise = {"stage": "critique_revise", "constitution": judged, "reviser": "simulated", "prompts": 400}
    stages = [
        {**feedback, "name": "ai", "constitution": judged},
        {**DPO, "name": "rlaif", "data": {"format": "stage", "stage": "ai"}},
        {**feedback, "name": "truth", "constitution": true, "from": "base"},
        {**DPO, "name": "rl_gold", "data": {"format": "stage", "stage": "truth"}},
        revise,
        {"stage": "sft", "from": "base", "data": {"format": "stage", "stage": "critique_revise"}, "trainer": SFT},
        {"stage": "evaluate", "prompts": 256, "max_new_tokens": 48, "best_of": 1, "ceiling": 2},
    ]
    data = {"format": "sandbox", "writer": "sloppy", "prompts": 1000, "test_prompts": 256}
    recipe = {"base": "sandbox", "adapter": ADAPTER, "data": data, "seed": seed, "stages": stages}
    record = open_run(run_recipe({**recipe, "output_dir": str(folder / "run")}, say=print, overwrite=True).folder)
    scores = record.finished[-1].evaluation
    assert scores is not None
    base = scores.scores["base"]

    def wins(name: str) -> float:
        pairs = zip(scores.scores[name], base, strict=True)
        return fmean((a > b) + 0.5 * (a == b) for a, b in pairs)

    return {f"win rate of {name}": wins(name) for name in ("sft", "rlaif", "rl_gold")}


def rlaif(folder: Path, seed: int) -> Numbers:
    """Supervised on revisions, then DPO on AI labels of the supervised policy's own answers, beside true labels."""
    judged, true = constitution(folder, NOISE), constitution(folder, 0.0)
    feedback = {"stage": "ai_feedback", "from": "sft", "answers": 4, "gap": 0.2, "prompts": 1000}
    dpo = {**DPO, "from": "sft"}
    stages = [
        {"stage": "critique_revise", "constitution": judged, "reviser": "simulated", "prompts": 400},
        {"stage": "sft", "data": {"format": "stage", "stage": "critique_revise"}, "trainer": SFT},
        {**feedback, "name": "ai", "constitution": judged},
        {**dpo, "name": "rlaif", "data": {"format": "stage", "stage": "ai"}},
        {**feedback, "name": "truth", "constitution": true},
        {**dpo, "name": "rl_gold", "data": {"format": "stage", "stage": "truth"}},
        {"stage": "evaluate", "reference": "sft", "prompts": 256, "max_new_tokens": 48, "best_of": 1, "ceiling": 2},
    ]
    data = {"format": "sandbox", "writer": "sloppy", "prompts": 1000, "test_prompts": 256}
    recipe = {"base": "sandbox", "adapter": ADAPTER, "data": data, "seed": seed, "stages": stages}
    record = open_run(run_recipe({**recipe, "output_dir": str(folder / "run")}, say=print, overwrite=True).folder)
    scores = record.finished[-1].evaluation
    assert scores is not None
    found: Numbers = {}
    for one, other in (("rlaif", "sft"), ("rl_gold", "sft"), ("rlaif", "rl_gold")):
        gains = [a - b for a, b in zip(scores.scores[one], scores.scores[other], strict=True)]
        found[f"gain of {one} over {other}"] = fmean(gains)
        found[f"its standard error over prompts, {one} over {other}"] = stdev(gains) / len(gains) ** 0.5
        found[f"win rate of {one} over {other}"] = fmean((gain > 0) + 0.5 * (gain == 0) for gain in gains)
    wins = [found[f"win rate of {name} over sft"] for name in ("rlaif", "rl_gold")]
    return {**found, "the first win rate less the second": wins[0] - wins[1]}


def loop(folder: Path, seed: int) -> Numbers:
    """Scores and variety of the rounds of a loop whose constitution is right, and its gain with fresh answers."""
    feedback = {"stage": "ai_feedback", "constitution": constitution(folder, NOISE), "gap": 0.2, "prompts": 300}
    feedback |= {"explorer": "base", "sampling": {"exploration": 0.1, "max_new_tokens": 48}}
    training = {name: value for name, value in DPO.items() if name != "from"}
    return improved(folder / "run", seed, {"rounds": 4}, [feedback, training])


SHORT = "principles: [{use: length_band, low: 1, high: 1}]"
PEOPLE = {"use": "imitation", "data": {"format": "sandbox", "prompts": 400, "test_prompts": 64}}
VARIANTS: dict[str, tuple[bool, Numbers]] = {
    "without gates": (False, {}),
    "supervised loss on people's data": (False, {"regularizers": [PEOPLE]}),
    "with gates": (True, {}),
}


def collapse(folder: Path, seed: int) -> Numbers:
    """A loop whose constitution is wrong, the shorter an answer, the better: without gates, regularized, with gates."""
    found: Numbers = {}
    (folder / "short.yaml").write_text(SHORT)
    feedback = {"stage": "ai_feedback", "constitution": str(folder / "short.yaml"), "gap": 0.02, "prompts": 300}
    feedback |= {"sampling": {"max_new_tokens": 48}, "soft": False}
    trainer = {**TRAINER, "learning_rate": 2e-3}
    for place, (word, (gates, more)) in enumerate(VARIANTS.items()):
        training = {"stage": "preference", "loss": {"use": "dpo", "beta": 0.1}, "trainer": trainer, **more}
        options = {"rounds": 2, "gates": gates, "easy_first": False, "held_out": 48}
        one = improved(folder / f"variant-{place}", seed, options, [feedback, training])
        found |= {f"{name}, {word}": value for name, value in one.items()}
    return found


def improved(folder: Path, seed: int, options: Numbers, stages: list[Numbers]) -> Numbers:
    """A loop's rounds and gain."""
    improve = {"stage": "self_improve", "held_out": 128, "max_new_tokens": 48, **options, "stages": stages}
    data = {"format": "sandbox", "writer": "sloppy", "prompts": 400, "test_prompts": 128}
    recipe = {"base": "sandbox", "adapter": ADAPTER, "data": data, "seed": seed, "stages": [improve]}
    record = open_run(run_recipe({**recipe, "output_dir": str(folder)}, say=print, overwrite=True).folder)
    (result,) = record.finished
    rows = result.sections[0].rows
    found = {f"true reward, {name_of(row['round'])}": row["score"] for row in rows}
    found |= {f"effective answers, {name_of(row['round'])}": row["effective answers"] for row in rows}
    return {**found, "gain": result.metrics["gain"], "its standard error": result.metrics["gain_error"]}


def name_of(row: object) -> str:
    """Of a row of the loop's table."""
    return row if isinstance(row, str) else f"round {row}"


PARTS: dict[str, Callable[[Path, int], Numbers]] = {
    "revision": revision,
    "labels": labels,
    "policies": policies,
    "rlaif": rlaif,
    "loop": loop,
    "collapse": collapse,
}


def main() -> None:
    """Makes what is missing, and prints a table of each part over seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    for part in asked.parts:
        rows = [measured(asked.folder, part, seed) for seed in range(asked.seeds)]
        head = "| | mean | deviation | 95% interval | by seed |\n|---|---|---|---|---|"
        print(f"\n{part}, {asked.seeds} seeds\n\n{head}")
        for name in rows[0]:
            values = [float(row[name]) for row in rows]
            each = ", ".join(f"{value:.3f}" for value in values)
            print(f"| {name} | {fmean(values):.3f} | {' | '.join(spread(values))} | {each} |")


def spread(values: list[float]) -> tuple[str, str]:
    """The standard deviation over seeds, and Student's 95% interval of the mean; a seed has prompts of its own."""
    if len(values) < 2:
        return "-", "-"
    half = stats.t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{stdev(values):.3f}", f"{fmean(values) - half:.3f} to {fmean(values) + half:.3f}"


def measured(folder: Path, part: str, seed: int) -> Numbers:
    """A part with one seed, made once."""
    file = folder / f"{part}-{seed}.json"
    if not file.exists():
        own = folder / f"{part}-{seed}"
        own.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(PARTS[part](own, seed)))
    found: Numbers = json.loads(file.read_text())
    return found


if __name__ == "__main__":
    main()
