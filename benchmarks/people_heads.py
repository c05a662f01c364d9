"""Heads on frozen features of people's ratings, rankings and dialogues, by stock TRL and by each of our losses.

The encoder runs once over every response. Stock TRL's RewardTrainer is given a model whose frozen table holds these
features, so that each row trains on the same numbers: of the [CLS] token through the encoder's own pooler, as stock has
them, or of the mean over the response's tokens by the root of its length, as ours. It writes no page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any, NamedTuple

import numpy as np
import torch
import trl
from datasets import Dataset
from paired_units import Numbers
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel, set_seed
from transformers.modeling_outputs import SequenceClassifierOutput

from rlhf_plugins import Base, Data, Group, RewardTrainer, component
from rlhf_plugins.data.batches.ranked import ranked_rows
from rlhf_plugins.data.convert import compare_ratings
from rlhf_plugins.engine.weights.loading import load_tokenizer, load_trunk
from rlhf_plugins.reward_models.reward_model import RewardModel

MOST = 600  # rows of a file, the first ones
FOLDS, LONGEST, SCALE = 3, 512, 7.0  # of the mean by the root of the length, as in reward_arguments.py
RATED = {name: f"reviews.{name}-rating" for name in ("correctness", "selection", "overall")}
TRAINER: dict[str, Any] = {
    "learning_rate": 1e-2,
    "num_train_epochs": 5,
    "lr_scheduler_type": "linear",
    "use_cpu": True,
    "bf16": False,
    "save_strategy": "no",
    "report_to": [],
    "logging_steps": 1000,
    "disable_tqdm": True,
    "gradient_checkpointing": False,
}
Options = Mapping[str, Any]
Fit = Callable[[Sequence[Group]], Numbers]  # training groups -> rewards of all responses


class Kind(NamedTuple):
    """One data set: how it is read, what is held out together, groups and pairs of a batch, and our rows."""

    file: str
    format: dict[str, Any]
    unit: Callable[[Group], str]
    batch: tuple[int, int]  # so that stock, which reads pairs, takes as many steps
    rows: Mapping[str, Options]


def by_prompt(group: Group) -> str:
    """A question is held out with all its answers."""
    return str(group.prompt)


def by_story(group: Group) -> str:
    """The summaries of a story are held out together: `squality/STORY/QUESTION`."""
    return str(group.columns["id"]).split("/")[1]


KINDS = {
    "ratings of summaries": Kind(
        "summaries_rated",
        {"use": "ratings", "dimensions": RATED},
        by_story,
        (8, 24),
        {
            "bradley_terry": {},
            "bradley_terry_margin": {"loss": "bradley_terry_margin"},
            "plackett_luce": {"loss": {"use": "plackett_luce", "ties": "split"}},
            "regression, overall rating": {"loss": "regression", "head": {"use": "multi", "dimensions": ["overall"]}},
            "regression, three ratings": {"loss": "regression", "head": {"use": "multi", "dimensions": list(RATED)}},
        },
    ),
    "four-way rankings of answers": Kind(
        "answers_four_way",
        {"use": "rankings"},
        by_prompt,
        (8, 26),
        {
            "bradley_terry": {},
            "plackett_luce": {"loss": {"use": "plackett_luce", "ties": "split"}},
            "ties_rao_kupper": {"loss": "ties_rao_kupper"},
            "ties_davidson": {"loss": "ties_davidson"},
            "ensemble of 5 heads": {"head": {"use": "ensemble", "members": 5}},
        },
    ),
    "dialogues": Kind(
        "dialogues_harmless_pairs",
        {"use": "preference"},
        by_prompt,
        (32, 32),
        {
            "bradley_terry": {},
            "label_smoothed": {"loss": {"use": "label_smoothed", "epsilon": 0.2}},
            "margin": {"loss": "margin"},
            "ensemble of 5 heads": {"head": {"use": "ensemble", "members": 5}},
        },
    ),
}


class Rows(NamedTuple):
    """A data set with its features, (responses, width), and the place of every response in them."""

    groups: list[Group]
    units: list[str]  # of each group
    place: Mapping[tuple[str, str], int]
    pooler: Tensor
    mean: Tensor


# ---- data ------------------------------------------------------------------------------------------------
def read(kind: Kind, folder: Path, base: Base) -> Rows:
    """The groups of a file and the features of their responses."""
    words = {**kind.format, "source": str(folder / f"{kind.file}.jsonl.gz")}
    data: Data = component("data_format", words.pop("use"), **words).load(base, 0)
    groups = [_judged(group) for group in (*data.train, *data.test)[:MOST]]
    place = {text: n for n, text in enumerate(dict.fromkeys(each for group in groups for each in _texts(group)))}
    return Rows(groups, [kind.unit(group) for group in groups], place, *features(base, list(place)))


def _judged(group: Group) -> Group:
    """Ratings of 0 to 100 about 0, in steps of 25; their pairs by the overall rating, with margins."""
    if not group.ratings:
        return group
    scaled = {n: tuple(None if v is None else v / 25 - 2 for v in values) for n, values in group.ratings.items()}
    return compare_ratings(replace(group, ratings=scaled, compared=None, ranks=None), by=["overall"], margins=True)


def _texts(group: Group) -> list[tuple[str, str]]:
    return [(str(group.prompt), str(response)) for response in group.responses]


@torch.no_grad()
def features(base: Base, texts: Sequence[tuple[str, str]], at_once: int = 16) -> tuple[Tensor, Tensor]:
    """Of every prompt and response: the pooler's output, and sum h_t / sqrt(T) / SCALE over the response's T tokens."""
    tokenizer, model = AutoTokenizer.from_pretrained(base.path), AutoModel.from_pretrained(base.path).eval()
    order = sorted(range(len(texts)), key=lambda i: sum(map(len, texts[i])))
    found: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(texts), at_once):
        pairs = [texts[i] for i in order[start : start + at_once]]
        prompts, responses = map(list, zip(*pairs, strict=True))
        given = tokenizer(prompts, responses, return_tensors="pt", padding=True, truncation=True, max_length=LONGEST)
        with torch.autocast("cpu", torch.bfloat16):
            states = model(**given)
        mask = (given["token_type_ids"] * given["attention_mask"]).unsqueeze(-1)
        mean = (states.last_hidden_state.float() * mask).sum(1) / mask.sum(1).clamp(min=1).sqrt() / SCALE
        found.append((states.pooler_output.float(), mean))
    back = torch.tensor(order).argsort()
    pooler, means = (torch.cat(each)[back] for each in zip(*found, strict=True))
    return pooler, means


def folds(units: Sequence[str]) -> dict[str, int]:
    """The fold of every unit."""
    names = np.random.default_rng(0).permutation(sorted(set(units)))
    return {str(name): number % FOLDS for number, name in enumerate(names)}


def held_out(rows: Rows, fold: int) -> tuple[list[Group], list[Group]]:
    """The groups to train on and to test on."""
    of = folds(rows.units)
    parts: tuple[list[Group], list[Group]] = ([], [])
    for group, unit in zip(rows.groups, rows.units, strict=True):
        parts[of[unit] == fold].append(group)
    return parts


def strict(rows: Rows, groups: Iterable[Group]) -> list[tuple[int, int]]:
    """The places of the better and the worse response of every pair that is no tie."""
    named = [(_texts(group), c) for group in groups for c in group.comparisons if not c.tied]
    return [(rows.place[texts[c.better]], rows.place[texts[c.worse]]) for texts, c in named]


def measured(kind: Kind, folder: Path, base: Base) -> dict[str, Any]:
    """The unit of every held-out pair, fold by fold, and of each row the gaps of these pairs and its CPU seconds."""
    started = process_time()
    rows = read(kind, folder, base)
    seconds = process_time() - started
    groups, pairs = kind.batch
    fits: dict[str, Fit] = {
        "stock TRL, [CLS]": lambda train: stock(rows, train, rows.pooler, pairs, base),
        "stock TRL, mean": lambda train: stock(rows, train, rows.mean, pairs, base),
    }
    fits |= {name: partial(ours, rows, options=options, batch=groups, base=base) for name, options in kind.rows.items()}
    parts = [held_out(rows, fold) for fold in range(FOLDS)]
    unit = {id(group): name for group, name in zip(rows.groups, rows.units, strict=True)}
    units = [unit[id(group)] for _, test in parts for group in test for _ in strict(rows, [group])]
    lengths = np.array([len(response) for _, response in rows.place], dtype=float)
    found = {"the longer response": {"gaps": _gaps(rows, parts, [lengths] * FOLDS), "seconds": 0.0}}
    for name, fit in fits.items():
        began = process_time()
        rewards = [fit(train) for train, _ in parts]
        found[name] = {"gaps": _gaps(rows, parts, rewards), "seconds": process_time() - began}
    return {"units": units, "rows": found, "features": seconds}


def _gaps(rows: Rows, parts: Sequence[tuple[list[Group], list[Group]]], rewards: Sequence[Numbers]) -> list[float]:
    """r_better - r_worse of the pairs of each fold's test groups, by the rewards of its own model."""
    of = zip(parts, rewards, strict=True)
    return [float(each[better] - each[worse]) for (_, test), each in of for better, worse in strict(rows, test)]


# ---- training --------------------------------------------------------------------------------------------
class Table(PreTrainedModel):
    """A classifier whose tokens are responses: a frozen feature of each, and a linear head."""

    config_class = PretrainedConfig

    def __init__(self, config: PretrainedConfig, table: Tensor) -> None:
        super().__init__(config)
        self.table = nn.Embedding.from_pretrained(table, freeze=True)
        self.score = nn.Linear(table.shape[1], 1)

    def forward(self, input_ids: Tensor, **_: Any) -> SequenceClassifierOutput:
        """Rewards (B, 1) of one response a row."""
        return SequenceClassifierOutput(logits=self.score(self.table(input_ids[:, 0])))


def stock(rows: Rows, train: Sequence[Group], table: Tensor, batch: int, base: Base) -> Numbers:
    """Rewards of all responses by TRL's RewardTrainer on the strict pairs."""
    set_seed(0)
    pairs = [{"chosen_ids": [better], "rejected_ids": [worse]} for better, worse in strict(rows, train)]
    model, tokenizer = Table(PretrainedConfig(num_labels=1, pad_token_id=0), table), load_tokenizer(base)
    with TemporaryDirectory() as folder:
        args = trl.RewardConfig(folder, per_device_train_batch_size=batch, **TRAINER)
        trl.RewardTrainer(model, args, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer).train()
    with torch.no_grad():
        rewards: Numbers = model.eval().score(table).squeeze(-1).double().numpy()
    return rewards


def ours(rows: Rows, train: Sequence[Group], options: Options, batch: int, base: Base) -> Numbers:
    """Rewards of all responses by our RewardTrainer, for which the place of a response is its only token."""
    set_seed(0)
    loss, head = _part("reward_loss", options, "loss"), _part("reward_head", options, "head")
    trunk = load_trunk(base).requires_grad_(False)
    model = RewardModel(trunk, component("pooling", "mean"), head)
    ranked = ranked_rows(train, lambda p, r: ([0], [rows.place[str(p), str(r)]]), None, loss.learns_from)
    places = [ids[0] for row in ranked.dataset for ids in row["branch_ids"]]
    with TemporaryDirectory() as folder:
        args = trl.RewardConfig(folder, per_device_train_batch_size=batch, **TRAINER)
        RewardTrainer(
            model,
            args,
            train_dataset=ranked,
            processing_class=load_tokenizer(base),
            loss=loss,
            features=rows.mean[places],
        ).train()
    with torch.no_grad():
        rewards: Numbers = model.eval()(rows.mean).reward.double().numpy()
    return rewards


def _part(kind: str, options: Options, name: str) -> Any:
    words = options.get(name, {"loss": "bradley_terry", "head": "scalar"}[name])
    words = {"use": words} if isinstance(words, str) else dict(words)
    return component(kind, words.pop("use"), **words)
