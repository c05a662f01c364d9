"""Several reward models that judge as one. It knows how members are asked and joined, not how they were trained.

On disk an ensemble is a folder with `reward_ensemble.json` and one folder a member, each a reward model of its own.
Members that are adapters of one base are asked with one copy of the base in memory.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_plugins.contract.guards import named
from rlhf_plugins.contract.interfaces import Aggregation
from rlhf_plugins.contract.records import MemberScores, Prediction
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.data.fields import key
from rlhf_plugins.engine.backbone import Backbone
from rlhf_plugins.engine.loading import load_tokenizer, load_trunk
from rlhf_plugins.errors import RunError
from rlhf_plugins.reward_models.reward_model import load_reward_model, open_reward_model, read_description

logger = logging.getLogger(__name__)
DESCRIPTION = "reward_ensemble.json"
FEWEST = 2  # members that must agree before the others are not asked

Judge = Callable[[Samples], Prediction]
Making = Callable[[str, Mapping[str, Any]], Any]  # a component of a kind, from a recipe's words


@dataclass(frozen=True)
class Ensemble:
    """Reward models asked in order.

    Where `early_exit` is set, the responses of a prompt that the members asked so far all put in one order are not
    shown to the others; `members` of the prediction is NaN there.
    """

    members: tuple[Judge, ...]
    aggregation: Aggregation
    accuracy: tuple[float, ...]  # of each member
    early_exit: bool = False

    def __call__(self, samples: Samples) -> Prediction:
        """`reward` as the aggregation has it, `members` (B, M), `variance` the mean of what members predict."""
        group = prompt_codes(samples)
        rewards = torch.full((len(samples.responses), len(self.members)), torch.nan)
        variances = torch.full_like(rewards, torch.nan)
        open_rows = torch.arange(len(rewards))
        for m, member in enumerate(self.members):
            said = member(samples.take(open_rows.tolist()))
            rewards[open_rows, m] = said.reward
            if said.variance is not None:
                variances[open_rows, m] = said.variance
            if self.early_exit and m + 1 >= FEWEST:
                open_rows = open_rows[disputed(rewards[open_rows, : m + 1], group[open_rows])]
            if not len(open_rows):
                break
        variance = None if variances.isnan().all() else variances.nanmean(1)
        return Prediction(self._joined(rewards, group), variance=variance, members=rewards)

    def _joined(self, rewards: Tensor, group: Tensor) -> Tensor:
        """Aggregated over the members that were asked, which are the first few of them, (B,)."""
        if self.aggregation.compares_siblings and len(group.unique()) == len(group):
            logger.warning("%s compares the responses to a prompt, and each has but one", named(self.aggregation))
        reward, count = torch.zeros(len(rewards)), (~rewards.isnan()).sum(1)
        for n in count.unique().tolist():
            rows = count == n
            scores = MemberScores(rewards[rows, :n].T, torch.tensor(self.accuracy[:n]), group[rows])
            reward[rows] = self.aggregation(scores)
        return reward


def epistemic(prediction: Prediction) -> Tensor:
    """Population variance of the members that were asked, (B,): what more data could settle."""
    assert prediction.members is not None
    mean = prediction.members.nanmean(1, keepdim=True)
    return ((prediction.members - mean) ** 2).nanmean(1)


def disputed(rewards: Tensor, group: Tensor) -> Tensor:
    """Whether the members (B, M) order the responses of a row's group (B,) differently, or it has no other, (B,)."""
    answer = torch.ones(len(rewards), dtype=torch.bool)
    for code in group.unique():
        rows = (group == code).nonzero().squeeze(1)
        sign = torch.sign(rewards[rows].unsqueeze(0) - rewards[rows].unsqueeze(1))  # (K, K, M)
        answer[rows] = len(rows) == 1 or bool((sign != sign[..., :1]).any())
    return answer


def prompt_codes(samples: Samples) -> Tensor:
    """(B,) equal for responses to one prompt."""
    codes: dict[str, int] = {}  # not by ids, of which a response may take the last where both merge
    return torch.tensor([codes.setdefault(key(prompt), len(codes)) for prompt in samples.prompts])


def describe(folder: Path, members: Sequence[str], aggregation: Mapping[str, Any], **rest: Any) -> None:
    """Writes what `open_ensemble` reads: the members' folders, the aggregation in a recipe's words, their accuracy."""
    text = json.dumps({"members": list(members), "aggregation": dict(aggregation), **rest}, indent=2)
    (folder / DESCRIPTION).write_text(text + "\n")


def open_ensemble(folder: Path, component: Making, trust_remote_code: bool, backbone: Backbone | None) -> Ensemble:
    """A saved ensemble, as `open_judge` opens it. Raises RunError when its description or a member does not load."""
    try:
        described = json.loads((folder / DESCRIPTION).read_text())
        folders = [folder / name for name in described["members"]]
        aggregation = component("aggregation", described["aggregation"])
        accuracy, early_exit = tuple(described["accuracy"]), bool(described["early_exit"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder}: holds no ensemble ({DESCRIPTION}: {error})") from error
    members = tuple(_members(folders, component, trust_remote_code, backbone))
    return Ensemble(members, aggregation, accuracy, early_exit)


def _members(
    folders: Sequence[Path], component: Making, trust_remote_code: bool, backbone: Backbone | None
) -> Iterator[Judge]:
    for folder in folders:
        parts = read_description(folder, trust_remote_code)
        if parts.stands and (backbone is None or not backbone.matches(parts.base)):
            backbone = Backbone(load_trunk(parts.base), parts.base)  # which the next members find
        yield open_member(folder, component, trust_remote_code, backbone)


def open_member(folder: Path, component: Making, trust_remote_code: bool, backbone: Backbone | None) -> Judge:
    """A saved reward model that is no ensemble, as `open_judge` opens it."""
    parts = read_description(folder, trust_remote_code)
    pad_id = int(load_tokenizer(parts.base).pad_token_id)
    if not parts.stands or backbone is None or not backbone.matches(parts.base):
        alone = open_reward_model(folder, component, trust_remote_code)
        return lambda samples: alone.judge(samples, pad_id)
    adapter = None if parts.frozen else backbone.load(folder)
    pooling, head = component("pooling", parts.pooling), component("reward_head", parts.head)
    with backbone.using(adapter):
        model = load_reward_model(folder, parts.base, pooling, head, backbone.trunk)

    def judge(samples: Samples) -> Prediction:
        with backbone.using(adapter):
            return model.judge(samples, pad_id)

    return judge
