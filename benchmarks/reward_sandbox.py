"""What each loss, head and ensemble is good for, where the truth is known: docs/benchmarks/reward_sandbox.md.

    python benchmarks/reward_sandbox.py [--only clean,flips,ranking,implied,uncertainty,frozen] [--seeds 3]

The sandbox's sloppy writer writes, simulated annotators judge, and a reward model is trained whole from the sandbox's
policy. The world is cut to the first four topics, whose facts a model of this size can learn in a minute; held out are
other phrasings of the same questions. Rewards are measured on held-out pairs by the annotators' own labels and by the
gold reward. Results are kept in reward_sandbox.json part by part, so that a part can be run again alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import trl

from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rows import Comparison, Data, Group, Samples
from rlhf_plugins.contract.run import Base, StageResult
from rlhf_plugins.data.batches.ranked import ranked_rows
from rlhf_plugins.data.batches.tokens import encode
from rlhf_plugins.engine.weights.loading import load_tokenizer, load_trunk
from rlhf_plugins.evaluate.reward_models import measure, score_pairs
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.report.machine import hardware
from rlhf_plugins.reward_models.opening import open_reward
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.run.stage.stage_run import StageRun
from rlhf_plugins.sandbox import POLICY, AnnotatedGroup, Annotator, annotate, draft, prompts
from rlhf_plugins.sandbox.world import TOPICS
from rlhf_plugins.stages.reward_model import row_features
from rlhf_plugins.trainers.arguments import arguments
from rlhf_plugins.trainers.reward.trainer import RewardTrainer

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
BASE = Base(str(POLICY))
TRAINER = {
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 8,
    "warmup_steps": 20,
    "lr_scheduler_type": "cosine",
    "num_train_epochs": 1,
    "logging_steps": 1000,
}
METRICS = ["accuracy", "calibration", "temperature_scaling", "uncertainty"]
DOUBT = ("uncertainty_auroc_variance", "uncertainty_auroc_gap", "uncertainty_auroc_rating")
Row = dict[str, Any]


def main() -> None:
    """Runs the parts that are asked for and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    file = OUT / "reward_sandbox.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for part in options.only.split(","):
        started = time.perf_counter()
        rows = list(PARTS[part](options.seeds))
        machine = hardware(None)
        where = f"{machine.cores} cores ({machine.cpu}), Python {platform.python_version()}, torch {torch.__version__}"
        found[part] = {"rows": rows, "seconds": time.perf_counter() - started, "machine": where}
        file.write_text(json.dumps(found, indent=1) + "\n")
        (OUT / "reward_sandbox.md").write_text(page(found))
        print(table(rows))


# ---- data ------------------------------------------------------------------------------------------------
def judged(split: Any, rounds: int, k: int, annotator: Annotator, seed: int, topics: int = 4) -> list[AnnotatedGroup]:
    """`rounds` drafts of K responses to each prompt of the first topics, judged by one annotator."""
    named = set(TOPICS[:topics])
    asked = [prompt for prompt in prompts(split) if named & set(re.findall(r"\w+", prompt))]
    drafts = [(asked, draft(asked, k, 1000 * seed + n)) for n in range(rounds)]
    return [g for n, (a, texts) in enumerate(drafts) for g in annotate(a, texts, [annotator], 1000 * seed + n)]


def compared(group: AnnotatedGroup) -> Group:
    """All pairs of a group with the strength of each preference as its margin, ties kept."""
    places = range(len(group.responses))
    return replace(group.ranking(), compared=tuple(_comparison(group, i, j) for i, j in combinations(places, 2)))


def _comparison(group: AnnotatedGroup, i: int, j: int) -> Comparison:
    better, worse = (i, j) if group.impressions[i] > group.impressions[j] else (j, i)
    strength = group.strength(i, j)
    return Comparison(better, worse, tied=strength == 0, margin=float(strength))


def one_pair(group: AnnotatedGroup, rng: np.random.Generator) -> Group:
    """A ranking of which two random responses are known to be compared."""
    i, j = rng.permutation(len(group.responses))[:2].tolist()
    return group.pair(i, j)


def by_gold(groups: Sequence[Group]) -> list[Group]:
    """The same responses in the order of the true reward; those of equal worth tie."""
    return [
        replace(g, ranks=tuple(sum(o > w for o in g.gold or ()) for w in g.gold or ()), compared=None) for g in groups
    ]


def held_out(annotator: Annotator, topics: int = 4) -> list[Group]:
    """Strictly ordered pairs of other phrasings of the training questions."""
    rng = np.random.default_rng(7)
    groups = judged("test", 40 // topics, 4, annotator, seed=99, topics=topics)
    drawn = [group.pair(*rng.permutation(4)[:2].tolist()) for group in groups for _ in range(4)]
    return [pair for pair in drawn if pair.ranks == (0, 1) and pair.responses[0] != pair.responses[1]]


def bayes(pairs: Sequence[Group]) -> float:
    """How often the order of the true reward, which is the most likely one, is the annotators'."""
    gaps = np.array([g.gold[0] - g.gold[1] for g in pairs if g.gold])
    return float(np.mean(np.where(gaps == 0, 0.5, gaps > 0)))


# ---- training --------------------------------------------------------------------------------------------
def trained(groups: Sequence[Group], test: Sequence[Group], seed: int = 0, **options: Any) -> Row:
    """A reward model's row of numbers on held-out pairs."""
    with TemporaryDirectory() as folder:
        run = StageRun(BASE, Data(tuple(groups), (), {}), seed, Path(folder))
        block = {"use": "reward_model", **options, "trainer": {**TRAINER, **options.get("trainer", {})}}
        started = time.perf_counter()
        result: StageResult = component("stage", block).run(run)
        seconds = time.perf_counter() - started
        (model,) = result.rewards.values()
        return {**scored(open_reward(Path(model["path"]), component), test), "seconds": seconds}


def implied(groups: Sequence[Group], test: Sequence[Group], seed: int, beta: float) -> Row:
    """The same of the reward beta log pi / pi_ref of a policy that DPO trained."""
    with TemporaryDirectory() as folder:
        run = StageRun(BASE, Data(tuple(groups), (), {}), seed, Path(folder))
        loss, trainer = {"use": "dpo", "beta": beta}, {**TRAINER, "precompute_ref_log_probs": False}
        started = time.perf_counter()
        result = component("stage", {"use": "preference", "name": "dpo", "loss": loss, "trainer": trainer}).run(run)
        seconds = time.perf_counter() - started
        judge = replace(run, earlier=(result,)).open("reward", {"use": "implicit", "policy": "dpo", "beta": beta})
        return {**scored(judge, test), "seconds": seconds}


def scored(judge: Callable[[Samples], Any], test: Sequence[Group]) -> Row:
    """What the metrics say of rewards on held-out pairs, by the annotators' labels and by the gold reward."""
    tokenizer, metrics = load_tokenizer(BASE), [component("metric", name) for name in METRICS]
    row = measure(score_pairs(judge, test, tokenizer), metrics)
    gold = measure(score_pairs(judge, by_gold(test), tokenizer), metrics)
    found = {"accuracy": row["accuracy"], "gold": gold["accuracy"], "ece": row["ece"]}
    found["ece_after"] = row["metrics"].get("temperature_scaling_ece_after")
    return found | {name: gold["metrics"][name] for name in DOUBT if name in gold["metrics"]}


def averaged(name: str, rows: Sequence[Row]) -> Row:
    """The mean over seeds, with the accuracies of each."""
    keys = [key for key in rows[0] if all(isinstance(row.get(key), int | float) for row in rows)]
    means = {key: float(np.mean([row[key] for row in rows])) for key in keys}
    return {"model": name, **means, "gold_by_seed": [row["gold"] for row in rows]}


# ---- parts -----------------------------------------------------------------------------------------------
def clean(_: int) -> Iterator[Row]:
    """Every pairwise loss beside the best that any reward model could do on these annotators' labels."""
    plain, shrugging = Annotator(), Annotator(tie_margin=0.5)
    for annotator, losses in ((plain, PAIRWISE), (shrugging, TIES)):
        groups = [compared(group) for group in judged("train", 40, 8, annotator, seed=0, topics=2)]
        test = held_out(annotator, topics=2)
        for name, options in losses.items():
            row = trained(groups, test, **options)
            yield {"model": name, **row, "bayes": bayes(test), "short_of_bayes": bayes(test) - row["accuracy"]}


def flips(seeds: int) -> Iterator[Row]:
    """A quarter of all votes turned round: majorities of three, and what knows of the votes or of the noise."""
    test, data = held_out(Annotator()), [voted(seed) for seed in range(seeds)]
    for name, options in NOISY.items():
        options = {"trainer": {"num_train_epochs": 5}, **options}
        yield averaged(name, [trained(data[seed], test, seed, **options) for seed in range(seeds)])


def voted(seed: int, voters: int = 3, share: float = 0.25) -> list[Group]:
    """Groups of four with all pairs judged by a majority of votes, and the weight (n1 - n2) / n of the votes."""
    rng = np.random.default_rng(seed)

    def turned(c: Comparison) -> Comparison:
        against = int((rng.random(voters) < share).sum())
        weight = abs(voters - 2 * against) / voters
        better, worse = (c.worse, c.better) if 2 * against > voters else (c.better, c.worse)
        return Comparison(better, worse, weight=weight)

    groups = [group.ranking() for group in judged("train", 2, 4, Annotator(), seed)]
    return [replace(g, compared=tuple(map(turned, g.comparisons))) for g in groups]


def ranking(seeds: int) -> Iterator[Row]:
    """Four-way rankings under Plackett-Luce and one pair of each under Bradley-Terry, at equal steps."""
    test = held_out(Annotator())
    groups = [judged("train", 12, 4, Annotator(), seed) for seed in range(seeds)]
    whole = [trained([g.ranking() for g in groups[s]], test, s, loss="plackett_luce") for s in range(seeds)]
    yield averaged("plackett_luce on rankings of 4", whole)
    rng = np.random.default_rng(0)
    pairs = [[p for p in (one_pair(g, rng) for g in gs) if p.responses[0] != p.responses[1]] for gs in groups]
    yield averaged("bradley_terry on one pair of each", [trained(pairs[s], test, s) for s in range(seeds)])


def of_policies(seeds: int) -> Iterator[Row]:
    """The rewards that policies trained by DPO imply, beside a reward model of the same pairs, at equal steps."""
    test = held_out(Annotator())
    groups = [[g.pair(0, 1) for g in judged("train", 6, 2, Annotator(), seed)] for seed in range(seeds)]
    pairs = [[g for g in of if len(set(g.ranks or ())) == 2 and len(set(g.responses)) == 2] for of in groups]
    yield averaged("bradley_terry", [trained(pairs[seed], test, seed) for seed in range(seeds)])
    for beta in (0.1, 0.5):
        rows = [implied(pairs[seed], test, seed, beta) for seed in range(seeds)]
        yield averaged(f"implied by DPO, beta {beta:g}", rows)


def uncertainty(_: int) -> Iterator[Row]:
    """Whether a predicted variance ranks errors; the whole world, of which a model of this size knows a part."""
    test = [group.ranking() for group in judged("test", 2, 4, Annotator(), seed=99, topics=22)]
    groups = [compared(group) for group in judged("train", 3, 8, Annotator(), seed=0, topics=22)]
    for loss in ("gaussian_nll", "thurstone"):
        yield {"model": f"gaussian head, {loss}", **trained(groups, test, head="gaussian", loss=loss)}
    yield {"model": "scalar head, bradley_terry", **trained(groups, test)}


def frozen(_: int) -> Iterator[Row]:
    """Three epochs of a head on features computed once, of the same head in the loop, and of the whole model."""
    test = held_out(Annotator())
    groups = [group.ranking() for group in judged("train", 4, 8, Annotator(), seed=0)]
    for name in ("whole model", "head alone, trunk in the loop", "head alone, features once"):
        yield {"model": name, **_three_epochs(groups, test, name)}


def _three_epochs(groups: Sequence[Group], test: Sequence[Group], how: str) -> Row:
    """Seconds an epoch, seconds to compute the features, and accuracy."""
    torch.manual_seed(0)
    loss, tokenizer, trunk = component("reward_loss", "bradley_terry"), load_tokenizer(BASE), load_trunk(BASE)
    model = RewardModel(
        trunk.requires_grad_(how == "whole model"), component("pooling", "mean"), component("reward_head", "scalar")
    )
    rows = ranked_rows(groups, lambda p, r: encode(tokenizer, p, r), None, loss.learns_from)
    started = time.perf_counter()
    features = row_features(model, rows, tokenizer.pad_token_id) if how.endswith("once") else None
    once = time.perf_counter() - started
    with TemporaryDirectory() as folder:
        rate = 1e-3 if how == "whole model" else 3e-2
        args = arguments(trl.RewardConfig, Path(folder), 0, {**TRAINER, "num_train_epochs": 3, "learning_rate": rate})
        trainer = RewardTrainer(
            model, args, train_dataset=rows, processing_class=tokenizer, loss=loss, features=features
        )
        started = time.perf_counter()
        trainer.train()
        seconds = (time.perf_counter() - started) / 3

    def judge(samples: Samples) -> Prediction:
        return model.predict(samples, tokenizer.pad_token_id)

    row = measure(score_pairs(judge, test, tokenizer), [component("metric", "accuracy")])
    return {"seconds_an_epoch": seconds, "seconds_for_features": once, "accuracy": row["accuracy"]}


PAIRWISE: dict[str, dict[str, Any]] = {
    "bradley_terry": {},
    "bradley_terry_margin": {"loss": "bradley_terry_margin"},
    "margin": {"loss": "margin"},
    "weighted, by difficulty": {"loss": {"use": "weighted", "by": "difficulty"}},
    "weighted, by margin": {"loss": {"use": "weighted", "by": "margin"}},
    "label_smoothed": {"loss": {"use": "label_smoothed", "epsilon": 0.05}},
    "thurstone": {"loss": "thurstone", "head": "gaussian"},
    "plackett_luce": {"loss": "plackett_luce"},
}
TIES: dict[str, dict[str, Any]] = {
    "ties_rao_kupper": {"loss": {"use": "ties_rao_kupper", "threshold": 0.5}},
    "ties_davidson": {"loss": {"use": "ties_davidson", "nu": 1.0}},
}
NOISY: dict[str, dict[str, Any]] = {
    "bradley_terry": {},
    "weighted, by votes": {"loss": "weighted"},
    "label_smoothed": {"loss": {"use": "label_smoothed", "epsilon": 0.16}},
    "ensemble of 5 heads": {"head": {"use": "ensemble", "members": 5}},
    "ensemble of 4 models": {"use": "reward_ensemble", "members": 4, "bootstrap": False},
    "ensemble of 4 models, resampled": {"use": "reward_ensemble", "members": 4},
}
PARTS: dict[str, Callable[[int], Iterator[Row]]] = {
    "clean": clean,
    "flips": flips,
    "ranking": ranking,
    "implied": of_policies,
    "uncertainty": uncertainty,
    "frozen": frozen,
}


# ---- the page --------------------------------------------------------------------------------------------
def page(found: dict[str, Any]) -> str:
    """Every part with what it asks, its table, and the machine that it ran on."""
    lines = ["# Reward models on the sandbox", "", "`python benchmarks/reward_sandbox.py`. " + WORDS["all"]]
    for part in PARTS:
        if part in found:
            seconds, machine = found[part]["seconds"], found[part]["machine"]
            lines += ["", f"## {TITLES[part]}", "", WORDS[part], "", table(found[part]["rows"])]
            lines += ["", f"{seconds:.0f} s on {machine}."]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown, with the columns that any of them has."""
    names = [name for name in COLUMNS if any(name in row for row in rows)]
    head = f"| {' | '.join(COLUMNS[name] for name in names)} |"
    body = [f"| {' | '.join(_cell(row.get(name)) for name in names)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(names), *body])


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_cell(item) for item in value)
    return f"{value:.3f}" if isinstance(value, float) else str(value if value is not None else "-")


COLUMNS = {
    "model": "model",
    "accuracy": "accuracy",
    "bayes": "best possible",
    "short_of_bayes": "short of it",
    "gold": "accuracy by gold",
    "gold_by_seed": "by seed",
    "ece": "ECE",
    "ece_after": "ECE, scaled",
    "uncertainty_auroc_variance": "AUROC of the variance, order",
    "uncertainty_auroc_rating": "AUROC of the variance, rating",
    "uncertainty_auroc_gap": "AUROC of the gap, order",
    "seconds_for_features": "s, features",
    "seconds_an_epoch": "s an epoch",
    "seconds": "s",
}
TITLES = {
    "clean": "Clean annotators: every loss beside the best possible",
    "flips": "A quarter of all votes turned round",
    "ranking": "Rankings of four, and one pair of each",
    "implied": "What a policy that DPO trained implies",
    "uncertainty": "Does a predicted variance rank errors?",
    "frozen": "A frozen trunk",
}
WORDS = {
    "all": "Reward models trained whole from the sandbox's policy, on the first four topics of its world unless said "
    "otherwise; accuracy is on held-out phrasings, by the annotators' labels or by the gold reward.",
    "clean": "Two topics, so that every fact is met often enough to be learned in a minute. The best possible is the "
    "accuracy of the true reward's own order on the same labels, pairs of equal worth counting one half, so that "
    "chance may pass it. The last two rows have annotators who call responses a tie when they hardly differ.",
    "flips": "Three votes a pair, each turned round with probability 1/4, so that 16% of the majorities are wrong; "
    "five epochs on all six pairs of four responses. `epsilon` of label_smoothed is that 16%. Resampled models see "
    "groups drawn with replacement, as the heads of one trunk always do.",
    "ranking": "The same groups, steps and batch size.",
    "implied": "The reward beta log pi / pi_ref (`reward: {use: implicit, policy: dpo}`) of policies trained whole on "
    "the same pairs, with the learning rate and steps of the reward model.",
    "uncertainty": "The whole world, of which the model learns only a part. How well doubt tells the pairs that the "
    "model orders otherwise than the true reward does (the pair's summed variance; the nearness of its two rewards), "
    "and, of ratings, the responses whose reward is farther from their rating than the median.",
    "frozen": "Batches of 8 groups of 8 responses, three epochs; the features are computed once before them.",
}


if __name__ == "__main__":
    main()
