"""The principle `classifier`: a reward model, or any other reward, as a value from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from rlhf_constitution.outcome import Abstain, Ok, Outcome
from rlhf_constitution.principle import JudgedAsWritten, Principle
from rlhf_constitution.texts import Text
from rlhf_plugins import Prediction, Reward, Run, hookimpl, uses


@dataclass(frozen=True)
class Classifier(Principle, as_written=True):
    """sigmoid((r(x, y) - center) / scale) of a reward r, which is that of `rlhf score`; it abstains where r does."""

    reward: Reward = uses("reward", "model")
    center: Annotated[float, Field(description="the reward that has the value 1/2")] = 0.0
    scale: Annotated[float, Field(gt=0, description="how fast the value changes with the reward")] = 1.0
    scored_alone = "a principle judges one"

    def build(self, run: Run) -> JudgedAsWritten:
        """Raises RunError as the reward does."""
        from rlhf_plugins import fitting

        score, policy = fitting(self, "reward", run.open("reward", run.spec(self.reward))), run.policy()

        def judge(prompts: Sequence[Text], responses: Sequence[Text]) -> list[Outcome]:
            with policy:
                samples = policy.encode(list(prompts), list(responses))
            found = score(samples)
            return [self.outcome(found, place) for place in range(len(responses))]

        return judge

    def outcome(self, found: Prediction, place: int) -> Outcome:
        """The value of the response at a place, or `Abstain` where its reward abstains."""
        if found.abstained is not None and bool(found.abstained[place]):
            return Abstain("the reward abstains")
        value = float(((found.reward[place].double() - self.center) / self.scale).sigmoid())
        return Ok(value, why=f"its reward is {float(found.reward[place]):.2f}", fix="answer better")


@hookimpl
def register_components() -> dict[str, dict[str, type]]:
    """The principle of this file."""
    return {"principle": {"classifier": Classifier}}
