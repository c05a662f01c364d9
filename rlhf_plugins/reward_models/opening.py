"""Opens what a reward stage saved, a reward model or an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from torch import nn

from rlhf_plugins.contract.rows import Group
from rlhf_plugins.contract.run import Base, Run
from rlhf_plugins.data.batches.ranked import encodable
from rlhf_plugins.data.batches.tokens import RowEncoder, samples_of
from rlhf_plugins.data.file_names import ENSEMBLE, REWARD_MODEL
from rlhf_plugins.engine.backbone import Backbone
from rlhf_plugins.engine.prompt_form import noted_prompts
from rlhf_plugins.engine.weights.loading import load_row_encoder
from rlhf_plugins.reward_models.ensemble import Open, open_ensemble, open_member
from rlhf_plugins.reward_models.handle import Predict, RewardHandle, reward_handle, rewards
from rlhf_plugins.reward_models.reward_model import read_description

SHRUNK = 10  # pairs


def open_reward(
    folder: Path,
    component: Open,
    trust_remote_code: bool = False,
    backbone: Backbone | None = None,
    quantization: str | None = None,
) -> RewardHandle:
    """A saved reward model or ensemble. It warns once when it scores prompts in a form that it was not trained on.

    Args:
        folder: where a stage saved it.
        component: makes a component of a kind from a recipe's words.
        trust_remote_code: whether the base may run code of its own.
        backbone: a base in memory; a model that was trained as an adapter of the same base shares it.
        quantization: the quantization of every trunk, `int8` or `nf4`; None is as it was trained.

    Raises:
        RunError: the folder holds neither, does not load, was trained on a quantized base and is to have another, or
            its note of the prompts cannot be read.
    """
    open_saved = open_ensemble if (folder / ENSEMBLE).exists() else open_member
    opened = open_saved(folder, component, trust_remote_code, backbone, quantization)
    return replace(opened, label=str(folder), forms=noted_prompts(folder).forms)


def rated(groups: Sequence[Group], predict: Predict, encoder: RowEncoder) -> tuple[Group, ...]:
    """The groups with a reward's answers as their only ratings, in the dimension `teacher`; None where it abstained.

    A reward that compares responses compares those of a group, whatever other groups there are to its prompt.
    """
    of_group = [place for place, group in enumerate(groups) for _ in group.responses]
    answers = iter(rewards(predict(replace(samples_of(groups, encoder), siblings=of_group))))
    return tuple(replace(g, ratings={"teacher": tuple(next(answers) for _ in g.responses)}) for g in groups)


def pair_accuracy(predict: Predict, groups: Sequence[Group], encoder: RowEncoder) -> float | None:
    """The share of strictly ordered pairs that a reward model orders so, ties one half; None without a pair."""
    reward = predict(samples_of(groups, encoder)).reward.tolist()
    starts = accumulate((len(group.responses) for group in groups), initial=0)
    gaps = [
        reward[start + c.better] - reward[start + c.worse]
        for start, group in zip(starts, groups, strict=False)
        for c in group.comparisons
        if not c.tied
    ]
    return sum((gap > 0) + 0.5 * (gap == 0) for gap in gaps) / len(gaps) if gaps else None


class Accuracies(NamedTuple):
    """The share of strictly ordered pairs that a reward model orders so; None where there is none."""

    whole: float | None
    by_topic: Mapping[str, float]  # that of each topic, drawn towards the whole by `SHRUNK` pairs


def pair_accuracies(predict: Predict, groups: Sequence[Group], encoder: RowEncoder) -> Accuracies:
    """The pair accuracy on all groups and on those of each topic, without responses that the model cannot read."""
    kept, _ = encodable(groups, encoder)
    whole = pair_accuracy(predict, kept, encoder) if kept else None
    if whole is None:
        return Accuracies(None, {})
    found = {}
    for topic in sorted({group.topic for group in kept if group.topic is not None}):
        own = [group for group in kept if group.topic == topic]
        pairs = sum(not c.tied for group in own for c in group.comparisons)
        right = pair_accuracy(predict, own, encoder) or 0.0
        found[topic] = (pairs * right + SHRUNK * whole) / (pairs + SHRUNK)
    return Accuracies(whole, found)


def saved_base(folder: Path, trust_remote_code: bool = False) -> Base:
    """The base of a saved reward model, or of an ensemble's first member. Raises RunError as loading does."""
    members = sorted(path.parent for path in folder.glob(f"*/{REWARD_MODEL}"))
    is_ensemble = (folder / ENSEMBLE).exists() and members
    return read_description(members[0] if is_ensemble else folder, trust_remote_code).base


def columns_read(reward: Predict) -> frozenset[str]:
    """The columns of rows that a saved reward model or an ensemble reads."""
    module = getattr(reward, "module", None)
    modules = module if isinstance(module, nn.ModuleList) else [module]
    own = frozenset[str]().union(*(getattr(each, "columns", ()) for each in modules))
    aggregation = getattr(reward, "aggregation", None)
    return own | ({"topic"} if aggregation and aggregation.reads_topics else set())


def row_encoder_of(reward: RewardHandle, base: Base) -> RowEncoder:
    """What encodes a recipe's rows for a reward: in the tokens of its model, of `base` where it has none."""
    own = reward.encoder
    return load_row_encoder(base) if own is None else replace(own, lengths=base.lengths)


def latest_reward(run: Run) -> RewardHandle | None:
    """The reward model of a run's latest reward stage; None when there was none."""
    return reward_handle(run.reward()) if any(result.rewards for result in run.finished) else None


def reward_function(folder: Path, run: Run) -> RewardHandle:
    """A reward model or ensemble that a stage saved, opened for samples with the tokens of the run's base."""
    opened = open_reward(folder, run.open, run.base.trust_remote_code, run.backbone)
    return opened.given(load_row_encoder(run.base))
