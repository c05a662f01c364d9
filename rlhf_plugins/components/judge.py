"""What compares two responses to a prompt: a reward, or a policy that is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.records import Verdict
from rlhf_plugins.contract.run_kinds import Generator, Judge, Reward
from rlhf_plugins.engine.comparison_prompt import QUESTION, asked, both_orders

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Text
    from rlhf_plugins.contract.run import Run
    from rlhf_plugins.contract.run_kinds import JudgeFunction


@dataclass(frozen=True)
class ByReward(Judge):
    """sigmoid(r_1 - r_2) of a reward's scores, the probability of Bradley and Terry (1952); abstains where it does.

    Of an ensemble that votes it is the share of members that prefer the first, and where responses are compared by
    another rule the share of this pair, 0, 1/2 or 1, that the first wins.
    """

    reward: Reward = uses("reward", "model")

    def build(self, run: Run) -> JudgeFunction:
        """Raises RunError as the reward does."""
        from rlhf_plugins.reward_models.handle import reward_handle
        from rlhf_plugins.reward_models.judging import judge_by

        score = reward_handle(self.reward.build(run))
        encode = run.reference().encode if score.encoder is None else score.encode  # its tokens may be others
        return judge_by(score, encode)


@dataclass(frozen=True)
class ByPolicy(Judge):
    """P(A) / (P(A) + P(B)) of a model asked whether A or B is better, averaged over both orders (Zheng et al. 2023)."""

    policy: Generator = uses("generator", "base")
    question: Annotated[
        str, Field(description="with {prompt}, {first} and {second}; the answer is one of `answers`")
    ] = QUESTION
    answers: Annotated[tuple[str, str], Field(description="for the first, and for the second")] = ("A", "B")

    def __post_init__(self) -> None:
        asked(self.question, "", "", "")

    def build(self, run: Run) -> JudgeFunction:
        """Raises RunError when the policy does not load."""
        policy = self.policy.build(run)

        def prefers_first(prompts: Sequence[Text], first: Sequence[str], second: Sequence[str]) -> list[Verdict]:
            texts = [asked(self.question, *row) for row in zip(prompts, first, second, strict=True)]
            return [Verdict(p) for p in policy.choose(texts, self.answers)[:, 0].exp().tolist()]

        return both_orders(prefers_first)


@hookimpl
def register_judge() -> dict[str, type]:
    """The judges of this file."""
    return {"policy": ByPolicy, "reward": ByReward}
