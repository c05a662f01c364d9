"""The rows of an evaluation in a report: each policy with what it cost, and beside its start and the best one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlhf_plugins.contract.run import Evaluation, StageResult

Makers = Mapping[str, StageResult]  # the stage that made each policy and reward model, by its name


def policies(result: StageResult, makers: Makers) -> dict[str, Any]:
    """The policies that one stage measured, in the shape of `report.schema.EvaluationReport`."""
    judged, rows = result.evaluation, dict(result.report.policies)
    if judged is None:
        return {"policies": with_costs(rows, makers)}
    rows = {**{name: _row(judged, name) for name in judged.scores}, **rows}
    own = {name: {**row, **_made(makers.get(name)), **_to_start(judged, name, makers)} for name, row in rows.items()}
    return {
        "policies": with_costs(_to_best(judged, own), makers),
        "reference": judged.reference,
        "score_name": judged.judge,
        "judge": result.report.judge,
    }


def with_costs(rows: Mapping[str, Mapping[str, Any]], makers: Makers) -> dict[str, dict[str, Any]]:
    """Rows of policies or reward models, each with the cost of the stage that made it."""
    own = {name: {"seconds": made.cost.seconds, "peak_bytes": made.cost.peak_bytes} for name, made in makers.items()}
    return {name: {**row, **own.get(name, {})} for name, row in rows.items()}


def _made(by: StageResult | None) -> dict[str, Any]:
    return {} if by is None else {"stage": by.name, "start": by.start}


def _to_start(judged: Evaluation, name: str, makers: Makers) -> dict[str, Any]:
    """The paired difference from the policy that it was trained from, where that was judged too."""
    made = makers.get(name)
    if made is None or name == judged.reference or made.start in (name, judged.reference):
        return {}
    return {"start_gain": _difference(judged, name, made.start)} if made.start in judged.scores else {}


def _to_best(judged: Evaluation, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows with how far each trained policy is behind the best of them."""
    trained = [name for name in judged.scores if name != judged.reference and not rows[name].get("line")]
    if len(trained) < 2:
        return {name: dict(row) for name, row in rows.items()}
    best = max(trained, key=lambda name: float(np.mean(_finite(judged, name))))
    return {
        name: {**row, "behind": _difference(judged, best, name)} if name in trained and name != best else dict(row)
        for name, row in rows.items()
    }


def _finite(judged: Evaluation, name: str) -> np.ndarray:
    from rlhf_plugins.evaluate.statistics import finite

    return finite(judged.scores[name], judged.judge)


def _difference(judged: Evaluation, name: str, other: str) -> dict[str, float]:
    """The mean paired difference of the first from the second on the same prompts."""
    from rlhf_plugins.arithmetic.intervals import mean_interval

    return mean_interval(_finite(judged, name) - _finite(judged, other))._asdict()


def _row(evaluation: Evaluation, name: str) -> dict[str, Any]:
    """A policy's row from scores alone, as `report.schema.PolicyReport` has it."""
    from rlhf_plugins.arithmetic.intervals import mean_interval
    from rlhf_plugins.evaluate.statistics import paired

    scores, reference = (_finite(evaluation, who) for who in (name, evaluation.reference))
    row = {"gold": mean_interval(scores)._asdict(), "n": len(scores)}
    return row if name == evaluation.reference else row | paired(scores, reference)
