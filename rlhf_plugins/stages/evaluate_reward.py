"""The stage `evaluate_reward`: measures every reward model of a run on held-out judgements; no policy is needed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import Metric
from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.contract.run import Adapter, ReportParts, Run, StageResult
from rlhf_plugins.contract.run_kinds import DataFormat, Stage
from rlhf_plugins.contract.workload import PLENTY, PROMPT_TOKENS, Work, Workload
from rlhf_plugins.errors import RunError

logger = logging.getLogger(__name__)
METRICS = [
    "accuracy",
    "calibration",
    "temperature_scaling",
    "cross_entropy",
    "auc",
    "rank_correlation",
    "accuracy_by_topic",
    "agreement_by_annotator",
    "length_bias",
    "uncertainty",
    "certificate",
]


class Measured(NamedTuple):
    """A reward model's row, and how many held-out responses it cannot read, by reason."""

    row: dict[str, Any]
    left_out: dict[str, int]


@dataclass(frozen=True)
class EvaluateReward(Stage, takes={"reward"}, processes="several"):
    """Measures every reward model of the run on the held-out pairs and labelled responses and, where there are any, on
    those unlike training.

    The metrics `consistency`, `robustness` and `speed` score all pairs again, 4, 3 and 1 more times: a recipe asks for
    them.
    """

    metrics: tuple[Metric, ...] = uses("metric", METRICS)
    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    tokens_per_batch: Annotated[int, Field(ge=1, description="tokens in memory at once, in any pass")] = 8_192
    name: str = "evaluate_reward"

    def fits_data(self, data: Data) -> None:
        """Raises ValueError where no held-out pair is strictly ordered and no held-out response has a label."""
        from rlhf_plugins.evaluate.labelled import labelled
        from rlhf_plugins.evaluate.reward_models import UNMEASURABLE, strict

        if not strict(data.test) and not labelled(data.test):
            raise ValueError(UNMEASURABLE)

    def workload(self, adapter: Adapter | None) -> Workload:
        """Scores of pairs."""
        work = Work("scoring", "score", PLENTY, 2, None, PROMPT_TOKENS, self.tokens_per_batch, rewards=True)
        return Workload([work])

    def run(self, run: Run) -> StageResult:
        """Leaves nothing but its result: `reward_models` in the shape of `report.schema`.

        Raises:
            RunError: no reward model was trained before, or no held-out pair is strictly ordered and no held-out
                response has a label.
        """
        from rlhf_plugins.engine.token_budget import room

        trained = [name for result in run.finished for name in result.rewards]
        if not trained:
            raise RunError("evaluate_reward: there is no reward model to measure: no earlier stage trained one")
        with room(self.tokens_per_batch):
            measured = {name: self._measured(run, name) for name in trained}
        rows = {name: found.row for name, found in measured.items()}
        return StageResult(report=ReportParts(reward_models=rows, left_out=_left_out(measured)))

    def _measured(self, run: Run, name: str) -> Measured:
        """One reward model; it is loaded here and gone when the row is made."""
        from rlhf_plugins.data.batches.ranked import encodable
        from rlhf_plugins.evaluate.labelled import labelled, measure_labels
        from rlhf_plugins.evaluate.reward_models import UNPAIRED, latency, measure, score_pairs, strict
        from rlhf_plugins.reward_models.handle import reward_handle
        from rlhf_plugins.reward_models.opening import row_encoder_of

        logger.info("evaluating %s", name)
        judge = reward_handle(run.reward(name))
        encoder = row_encoder_of(judge, run.base)
        (test, left_out), (strange, also) = (
            encodable(groups, encoder) for groups in (run.data.test, run.data.out_of_distribution)
        )

        def scored(groups: Sequence[Group]) -> dict[str, Any]:
            known, row = labelled(groups), dict(UNPAIRED)
            if strict(groups) or not known:
                pairs = score_pairs(judge, groups, encoder.tokenizer, run.seed, encoder.fit.most, encoder.lengths)
                row = measure(pairs, self.metrics)
            return {**row, "labels": measure_labels(judge, known, encoder)} if known else row

        row = scored(test)
        if strict(test):
            row["latency"] = latency(judge, test, encoder.tokenizer)
        if strict(strange) or labelled(strange):
            row["out_of_distribution"] = scored(strange)
        unread = Counter(left_out) + Counter(also)
        return Measured(row, {f"held out, {reason}": count for reason, count in unread.items()})


def _left_out(measured: Mapping[str, Measured]) -> dict[str, int]:
    """The responses that no model can read, once; of models with unlike tokens those that each of them cannot read."""
    each = {name: found.left_out for name, found in measured.items()}
    first, *others = each.values()
    if all(other == first for other in others):
        return first
    return {f"{reason}, by {name}": count for name, found in each.items() for reason, count in found.items()}


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"evaluate_reward": EvaluateReward}
