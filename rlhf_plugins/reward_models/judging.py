"""A reward as what compares two responses: both are scored in one call, each pair by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from rlhf_plugins.contract.records import Verdict
from rlhf_plugins.data.turns import as_response
from rlhf_plugins.reward_models.ensemble import preferred

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Samples, Text
    from rlhf_plugins.contract.run_kinds import JudgeFunction
    from rlhf_plugins.reward_models.handle import RewardHandle

ABSTAINED = Verdict(None, "abstained", "the reward abstains")


def judge_by(score: RewardHandle, encode: Callable[..., Samples]) -> JudgeFunction:
    """A judge that gives `preferred` of a pair, and abstains where the reward does.

    Args:
        score: the reward.
        encode: prompts and responses to them as it reads them.
    """

    def judge(prompts: Sequence[Text], first: Sequence[str], second: Sequence[str]) -> Sequence[Verdict]:
        count, places = len(prompts), torch.arange(len(prompts))
        one, other = (encode(prompts, [*map(as_response, prompts, side)]) for side in (first, second))
        found = score(one.beside(other))
        likely = preferred(found, places, places + count).tolist()
        silent = [False] * count if found.abstained is None else found.abstained.view(2, count).any(0).tolist()
        return [ABSTAINED if none else Verdict(p) for p, none in zip(likely, silent, strict=True)]

    return judge
