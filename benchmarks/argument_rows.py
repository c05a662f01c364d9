"""What reward models may learn from the votes on arguments, and how stock TRL and we train on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any, NamedTuple

import torch
import trl
from datasets import Dataset
from reward_arguments import STAGE
from rlhf_collect.aggregate.dawid_skene import fit
from rlhf_collect.aggregate.votes import Vote
from scipy.special import expit
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from rlhf_plugins import Base, Comparison, Data, Group, component
from rlhf_plugins.data.changes.merge import merged
from rlhf_plugins.data.convert import preference_rows
from rlhf_plugins.reward_models.opening import open_reward
from rlhf_plugins.run.stage.stage_run import StageRun

Response = tuple[str, str]  # prompt and argument

LABELS = {"a1": "a", "a2": "b", "equal": "tie"}
EPOCHS = 1  # of stock TRL, which computes an argument again for each of its pairs
SHARE = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.5, 0.5)}


# ---- the pairs, with all votes on each -------------------------------------------------------------------
def read_pairs(file: str, base: Base) -> list[Group]:
    """The judged pairs, with the votes of their annotators as comparisons, and `gold` and `in_strict` as columns."""
    words: dict[str, Any] = {"source": file, "votes": "apart", "labels": LABELS}
    data: Data = component("data_format", "comparisons", **words).load(base, 0)
    return [*data.train, *data.test]


def learned(pair: Group) -> bool:
    """Whether a pair is of the half of all pairs that models train on; whichever response is named first."""
    texts = "\0".join(sorted(map(str, (pair.prompt, *pair.responses))))
    return blake2b(texts.encode()).digest()[0] % 2 == 0


# ---- what is learned from them ---------------------------------------------------------------------------
def strict(pairs: Sequence[Group]) -> Iterator[Group]:
    """The pairs that the authors kept, with the label that they estimated."""
    return (pair for pair in with_ties(pairs) if pair.columns["in_strict"] and not pair.comparisons[0].tied)


def with_ties(pairs: Sequence[Group]) -> Iterator[Group]:
    """All pairs that the authors gave a label, which may be a tie."""
    for pair in pairs:
        if gold := pair.columns["gold"]:
            better, worse = (1, 0) if gold == "a2" else (0, 1)
            yield replace(pair, compared=(Comparison(better, worse, tied=gold == "equal"),))


def weighted(pairs: Sequence[Group]) -> Iterator[Group]:
    """As `strict`, with the weight (n1 - n2) / n of the votes, at least 0."""
    votes = {pair.responses: _shares(pair) for pair in pairs}
    for pair in strict(pairs):
        (one,) = pair.comparisons
        lead = votes[pair.responses][one.better] - votes[pair.responses][one.worse]
        yield replace(pair, compared=(replace(one, weight=max(lead, 0.0)),))


def voted(pairs: Sequence[Group]) -> Iterator[Group]:
    """All pairs, with the share of the votes as a soft label; a vote for a tie is half a vote for each."""
    return (soft(pair, _shares(pair)[0]) for pair in pairs)


def dawid_skene(pairs: Sequence[Group]) -> Iterator[Group]:
    """All pairs, with a soft label that weighs each vote by how its annotator errs, estimated on these pairs alone."""
    people = {name: n for n, name in enumerate(sorted({str(c.annotator) for pair in pairs for c in pair.comparisons}))}
    votes = [
        Vote(item, people[str(c.annotator)], label, label)
        for item, pair in enumerate(pairs)
        for c in pair.comparisons
        for label in [_label(c)]
    ]
    fitted = fit(votes)
    likely = fitted.posterior @ torch.tensor([SHARE[label][0] for label in fitted.labels]).double().numpy()
    for (item, _), p in zip(fitted.items, likely.tolist(), strict=True):
        yield soft(pairs[item], min(p, 1.0))


def taught(pairs: Sequence[Group], teacher: dict[Response, float]) -> Iterator[Group]:
    """As `strict`, with the probability that a teacher's rewards give as a soft label."""
    for pair in strict(pairs):
        first, second = (teacher[str(pair.prompt), str(response)] for response in pair.responses)
        yield soft(pair, float(expit(first - second)))


def soft(pair: Group, probability: float) -> Group:
    """The pair with one comparison: the first response is better with this probability."""
    return replace(pair, compared=(Comparison(0, 1, probability=probability),))


def _label(vote: Comparison) -> str:
    return "tie" if vote.tied else "ab"[vote.better]


def _shares(pair: Group) -> tuple[float, float]:
    """The share of the votes that each response has."""
    each = [SHARE[_label(vote)] for vote in pair.comparisons]
    return sum(a for a, _ in each) / len(each), sum(b for _, b in each) / len(each)


# ---- training --------------------------------------------------------------------------------------------
class Scored(NamedTuple):
    """The rewards of responses by a model that learned from pairs, and the CPU seconds of learning and of scoring."""

    rewards: list[float]
    training: float
    scoring: float


def ours(base: Base, pairs: Sequence[Group], options: dict[str, Any], seed: int, responses: list[Response]) -> Scored:
    """The stage of reward_arguments.py with other options; all pairs of a topic are one group."""
    stage, started = {**STAGE, **options}, process_time()
    with TemporaryDirectory() as folder:
        run = StageRun(base, Data(tuple(merged(pairs))), seed, Path(folder))
        result = component("stage", stage.pop("use"), **stage).run(run)
        (model,) = result.rewards.values()
        trained = process_time()
        judge = open_reward(Path(model["path"]), run.open)
        prompts, texts = zip(*responses, strict=True)
        rewards = judge.predict(judge.encode(prompts, texts)).reward.tolist()
    return Scored(rewards, trained - started, process_time() - trained)


def stock(base: Base, pairs: Sequence[Group], seed: int, responses: list[Response]) -> Scored:
    """TRL's RewardTrainer with its defaults, but for the epochs and batches of like length, which save time."""
    started = process_time()
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    tokenizer.eos_token = tokenizer.sep_token  # TRL asks for one
    model = AutoModelForSequenceClassification.from_pretrained(base.path, num_labels=1)
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in preference_rows(pairs)]
    rows = [{**row, "prompt": row["prompt"] + "\n", "length": sum(map(len, row.values()))} for row in rows]
    with TemporaryDirectory() as folder:
        args = trl.RewardConfig(
            folder,
            seed=seed,
            num_train_epochs=EPOCHS,
            train_sampling_strategy="group_by_length",
            remove_unused_columns=False,  # `length`
            gradient_checkpointing=False,
            bf16=True,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            logging_steps=50,
            disable_tqdm=True,
        )
        trainer = trl.RewardTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        trainer.train()
    trained = process_time()
    rewards = _scores(model.eval(), tokenizer, [f"{prompt}\n{text}{tokenizer.eos_token}" for prompt, text in responses])
    return Scored(rewards, trained - started, process_time() - trained)


@torch.no_grad()
def _scores(model: Any, tokenizer: Any, texts: list[str], at_once: int = 32) -> list[float]:
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rewards = [0.0] * len(texts)
    for start in range(0, len(texts), at_once):
        places = order[start : start + at_once]
        given = tokenizer([texts[i] for i in places], return_tensors="pt", padding=True, truncation=True)
        for place, reward in zip(places, model(**given).logits.squeeze(-1).tolist(), strict=True):
            rewards[place] = reward
    return rewards
