"""The stage `probe`: what a reward of the run does when one property of a response is changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from rlhf_plugins import DataFormat, Reward, Run, RunError, Section, Stage, StageResult, hookimpl, uses
from rlhf_watch.explain.stage import Explain
from rlhf_watch.probe.interventions import FILLERS, OPENERS, interventions
from rlhf_watch.probe.probing import probe
from rlhf_watch.probe.reward import Asked
from rlhf_watch.probe.wording import record, rows, sentence

ABOUT = (
    "Each response is scored with a property and without, all else equal (do(X = x), Pearl 2009); beside it, how the "
    "reward goes with the property over the responses as they are, where whatever else differs counts too. "
)


@dataclass(frozen=True)
class Probe(Stage):
    """The effect of length, politeness, markdown, order and position on a reward, beside their correlations with it.

    Effects and slopes are per unit, with 95% intervals over prompts (`rlhf_watch.probe`).
    """

    reward: Reward = uses("reward", "model")
    fillers: Annotated[
        list[str], Field(min_length=1, description="sentences that say nothing; `length` puts one at the end")
    ] = field(default_factory=lambda: list(FILLERS))
    openers: Annotated[
        list[str], Field(min_length=1, description="polite sentences; `politeness` puts one at the start")
    ] = field(default_factory=lambda: list(OPENERS))
    rows: Annotated[int, Field(ge=2, description="held-out groups of responses, at most")] = 256
    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    name: str = "probe"
    scored_alone = "a probe changes one"

    def run(self, run: Run) -> StageResult:
        """Leaves its table in the report, and its numbers among the metrics.

        Raises:
            RunError: no held-out group has a response.
            DataError: fewer than two of their prompts have a response with a reward.
        """
        from rlhf_plugins import fitting

        groups = [group for group in run.data.test if group.responses][: self.rows]
        if not groups:
            raise RunError("probe: no held-out group has a response")
        judge: Any = fitting(self, "reward", run.open("reward", run.spec(self.reward)))
        own = getattr(judge, "encoder", None)
        reader: Any = judge if own is not None else run.policy()
        tokenizer = own.tokenizer if own is not None else None  # a function reads text
        asked = Asked(judge, reader.encode, tokenizer)
        found = probe(groups, asked, interventions(self.fillers, self.openers), asked.reads, run.seed)
        text = f"{ABOUT}The rewards have a deviation of {found.deviation:.3g}. {sentence(found).capitalize()}."
        return StageResult(sections=[Section("What causes the reward", text, rows(found))], metrics=record(found))


@hookimpl
def register_stage() -> dict[str, type]:
    """The stages that say what makes a reward."""
    return {"explain": Explain, "probe": Probe}
