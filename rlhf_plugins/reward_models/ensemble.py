"""Several reward models that score as one.

On disk an ensemble is a folder with `reward_ensemble.json` and one folder per member, each a reward model of its own.
Members that are adapters of one base share one copy of it in memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn

from rlhf_plugins.contract.interfaces import Aggregation
from rlhf_plugins.contract.records import MemberScores, Prediction
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.data.file_names import ENSEMBLE
from rlhf_plugins.data.files import read_json
from rlhf_plugins.engine.backbone import Backbone
from rlhf_plugins.engine.weights.loading import load_row_encoder, load_trunk
from rlhf_plugins.errors import RunError
from rlhf_plugins.reward_models.handle import Predict, RewardHandle
from rlhf_plugins.reward_models.reward_model import load_reward_model, open_reward_model, read_description

FEWEST = 2  # members that must agree before the others are left out
INSTEAD = "score two or more together, or take an aggregation that scores each alone, such as mean"

Open = Callable[[str, Mapping[str, Any]], Any]  # a component of a kind, from a recipe's words


@dataclass(frozen=True)
class Ensemble:
    """Reward models called in order.

    With `early_exit`, once the members called so far all order the responses of a prompt in the same way, the others do
    not score that prompt; `members` of the prediction is NaN there. The aggregation is `called` so in a recipe.
    """

    members: tuple[Predict, ...]
    aggregation: Aggregation
    accuracy: tuple[float, ...]  # of each member
    early_exit: bool = False
    by_topic: Mapping[str, Sequence[float]] = field(default_factory=dict)  # accuracies of the members
    called: str = "of this ensemble"

    @property
    def compares(self) -> str:
        """See `RewardHandle`."""
        return self.called if self.aggregation.compares_siblings else ""

    def __call__(self, samples: Samples) -> Prediction:
        """`reward` by the aggregation, `members` (B, M), `variance` the mean of those that members predict.

        Raises RunError where the aggregation compares responses and one has none to be compared with.
        """
        if self.aggregation.compares_siblings:
            refuse_alone(samples, self.called)
        group, topics = torch.tensor(samples.groups()), self._accuracies(samples)
        rewards = torch.full((len(samples.responses), len(self.members)), torch.nan)
        variances = torch.full_like(rewards, torch.nan)
        open_rows = torch.arange(len(rewards))
        for m, member in enumerate(self.members):
            prediction = member(samples.take(open_rows.tolist()))
            rewards[open_rows, m] = prediction.reward
            if prediction.variance is not None:
                variances[open_rows, m] = prediction.variance
            if self.early_exit and m + 1 >= FEWEST:
                open_rows = open_rows[disputed(rewards[open_rows, : m + 1], group[open_rows])]
            if not len(open_rows):
                break
        variance = None if variances.isnan().all() else variances.nanmean(1)
        reward, by = self._aggregated(rewards, group, topics), self.aggregation
        return Prediction(reward, variance=variance, members=rewards, shares=by.shares, compared=by.compares_siblings)

    def _accuracies(self, samples: Samples) -> Tensor | None:
        """(B, M) on the topic of each response; None where the aggregation reads none."""
        if not self.aggregation.reads_topics:
            return None
        topics = samples.columns.get("topic", [None] * len(samples.responses))
        return torch.tensor([list(self.by_topic.get(str(topic), self.accuracy)) for topic in topics])

    def _aggregated(self, rewards: Tensor, group: Tensor, topics: Tensor | None) -> Tensor:
        """Over the members that scored a response, which are the first few of them, (B,)."""
        reward, count = torch.zeros(len(rewards)), (~rewards.isnan()).sum(1)
        for n in count.unique().tolist():
            rows = count == n
            by_topic = None if topics is None else topics[rows, :n].T
            scores = MemberScores(rewards[rows, :n].T, torch.tensor(self.accuracy[:n]), group[rows], by_topic)
            reward[rows] = self.aggregation(scores)
        return reward


def epistemic(prediction: Prediction) -> Tensor:
    """Population variance of the members' rewards, (B,): the uncertainty that more data could reduce."""
    assert prediction.members is not None
    mean = prediction.members.nanmean(1, keepdim=True)
    return ((prediction.members - mean) ** 2).nanmean(1)


def preferred(prediction: Prediction, first: Tensor, second: Tensor) -> Tensor:  # (pairs,)
    """P(first is better) of responses at these places, (pairs,) each: sigmoid(r_1 - r_2) (Bradley and Terry 1952).

    Where rewards are shares of votes it is the share of members that give the first the higher reward, a tie one half.
    Where they are shares of siblings by another rule it is 1/2 + (r_1 - r_2)/2: that of two that are compared alone.
    """
    if not prediction.shares or prediction.members is None:
        gap = (prediction.reward[first] - prediction.reward[second]).double()
        return 0.5 + gap / 2 if prediction.compared else gap.sigmoid()
    gap = prediction.members[first] - prediction.members[second]  # (pairs, M)
    votes = (gap > 0).double() + 0.5 * (gap == 0)
    return votes.masked_fill(gap.isnan(), torch.nan).nanmean(1)


def disputed(rewards: Tensor, group: Tensor) -> Tensor:
    """Whether the members (B, M) order the responses of a row's group (B,) differently, or it has only one, (B,)."""
    answer = torch.ones(len(rewards), dtype=torch.bool)
    for code in group.unique():
        rows = (group == code).nonzero().squeeze(1)
        sign = torch.sign(rewards[rows].unsqueeze(0) - rewards[rows].unsqueeze(1))  # (K, K, M)
        answer[rows] = len(rows) == 1 or bool((sign != sign[..., :1]).any())
    return answer


def refuse_alone(samples: Samples, called: str) -> None:
    """Raises RunError where a response has none to be compared with by the aggregation that a recipe calls so."""
    groups = samples.groups()
    counts = Counter(groups)
    alone = [row for row, group in enumerate(groups) if counts[group] == 1]
    if alone:
        prompt = str(samples.prompts[alone[0]])
        raise RunError(
            f"aggregation {called} compares the responses to a prompt, and {len(alone)} of {len(groups)} have no other "
            f"to be compared with, such as that to {prompt[:60]!r}: {INSTEAD}"
        )


def describe(folder: Path, members: Sequence[str], aggregation: Mapping[str, Any], **rest: Any) -> None:
    """Writes the file that `open_ensemble` reads: the members' folders and accuracy, and the aggregation's spec."""
    text = json.dumps({"members": list(members), "aggregation": dict(aggregation), **rest}, indent=2)
    (folder / ENSEMBLE).write_text(text + "\n")


def read_ensemble(folder: Path) -> dict[str, Any]:
    """What `describe` wrote. Raises RunError where the folder holds no ensemble."""
    try:
        found: dict[str, Any] = read_json(folder / ENSEMBLE)
        missing = {"members", "aggregation", "accuracy", "early_exit"} - found.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{folder}: holds no ensemble ({ENSEMBLE}: {error})") from error
    if missing:
        raise RunError(f"{folder}: holds no ensemble ({ENSEMBLE}: lacks {', '.join(sorted(missing))})")
    return found


def open_ensemble(
    folder: Path, component: Open, trust_remote_code: bool, backbone: Backbone | None, quantization: str | None = None
) -> RewardHandle:
    """A saved ensemble, as `open_reward` opens it. Raises RunError when its description or a member does not load."""
    described = read_ensemble(folder)
    try:
        folders = [folder / name for name in described["members"]]
        aggregation = component("aggregation", described["aggregation"])
        accuracy, early_exit = tuple(described["accuracy"]), bool(described["early_exit"])
        by_topic = dict(described.get("accuracy_by_topic", {}))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder}: holds no ensemble ({ENSEMBLE}: {error})") from error
    members = tuple(_members(folders, component, trust_remote_code, backbone, quantization))
    modules = nn.ModuleList(member.module for member in members if member.module is not None)
    first = members[0].encoder
    predicts = tuple(member if first is None else member.given(first) for member in members)
    asked = Ensemble(predicts, aggregation, accuracy, early_exit, by_topic, described["aggregation"]["use"])
    return RewardHandle(asked, modules, first, compares=asked.compares)


def _members(
    folders: Sequence[Path],
    component: Open,
    trust_remote_code: bool,
    backbone: Backbone | None,
    quantization: str | None,
) -> Iterator[RewardHandle]:
    for folder in folders:
        parts = read_description(folder, trust_remote_code, quantization)
        if parts.on_base and (backbone is None or not backbone.matches(parts.base)):
            backbone = Backbone(load_trunk(parts.base), parts.base)  # which the next members share
        yield open_member(folder, component, trust_remote_code, backbone, quantization)


def open_member(
    folder: Path, component: Open, trust_remote_code: bool, backbone: Backbone | None, quantization: str | None = None
) -> RewardHandle:
    """A saved reward model that is no ensemble, as `open_reward` opens it."""
    parts = read_description(folder, trust_remote_code, quantization)
    encoder = load_row_encoder(parts.base)
    pad_id = int(encoder.tokenizer.pad_token_id)
    if not parts.on_base or backbone is None or not backbone.matches(parts.base):
        alone = open_reward_model(folder, component, trust_remote_code, quantization)
        return RewardHandle(
            lambda samples: alone.predict(samples, pad_id),
            alone,
            encoder,
            with_grad=lambda samples: alone.predict(samples, pad_id, grad=True),
            with_tokens=lambda samples: alone.by_token(samples, pad_id),
        )
    pooling, head = component("pooling", parts.pooling), component("reward_head", parts.head)
    adapter = None if parts.frozen else backbone.load(folder)
    with ExitStack() as failed:
        if adapter is not None:
            failed.callback(backbone.remove, adapter)
        with backbone.using(adapter):
            model = load_reward_model(folder, parts.base, pooling, head, backbone.trunk)
        finalize(model, failed.pop_all().close)

    def predict(samples: Samples) -> Prediction:
        with backbone.using(adapter):
            return model.predict(samples, pad_id)

    def by_token(samples: Samples) -> Prediction:
        with backbone.using(adapter):
            return model.by_token(samples, pad_id)

    return RewardHandle(predict, model, encoder, with_tokens=by_token)
