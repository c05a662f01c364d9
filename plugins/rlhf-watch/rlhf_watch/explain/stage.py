"""The stage `explain`: which tokens and words made the largest rewards of held-out responses, in the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field

from rlhf_plugins import DataFormat, Reward, Run, RunError, Section, Stage, StageResult, uses
from rlhf_watch.explain.wording import Explained

ABOUT = (
    "The held-out responses with the largest rewards, to which a policy will be drawn. The parts of tokens are "
    "integrated gradients (Sundararajan et al. 2017), which sum to the change but for the error; `words` is what the "
    "reward loses without each."
)


@dataclass(frozen=True)
class Explain(Stage):
    """What made the largest rewards of held-out responses: tokens, words and dimensions (`rlhf_watch.explain`)."""

    reward: Reward = uses("reward", "model")
    rows: Annotated[int, Field(ge=1, description="held-out groups of responses, at most")] = 64
    shown: Annotated[int, Field(ge=1, description="of their responses, those with the largest rewards")] = 5
    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    name: str = "explain"

    def run(self, run: Run) -> StageResult:
        """Leaves its table in the report.

        Raises:
            RunError: no held-out group has a response, or the reward is not one network.
        """
        found = [(group.prompt, one) for group in run.data.test[: self.rows] for one in group.responses]
        pairs = [*{str(pair): pair for pair in found}.values()]  # a response may be in several groups
        if not pairs:
            raise RunError("explain: no held-out group has a response")
        judge: Any = run.open("reward", run.spec(self.reward))
        if getattr(judge, "encoder", None) is None:
            raise RunError("explain needs a reward model: a function has no tokens")
        rewards = judge.predict(judge.encode(*map(list, zip(*pairs, strict=True)))).reward
        picked = [pairs[place] for place in rewards.argsort(descending=True)[: self.shown].tolist()]
        rows = [{"prompt": str(p), "response": str(r), **_shown(Explained.of(judge, p, r))} for p, r in picked]
        return StageResult(sections=[Section("What made the largest rewards", ABOUT, rows)])


def _shown(found: Explained) -> dict[str, Any]:
    """The parts that there are."""
    return {name: value for name, value in asdict(found).items() if value != ""}
