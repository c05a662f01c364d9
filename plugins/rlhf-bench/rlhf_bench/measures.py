"""The numbers of a finished run as one row. It knows runs, not how rows are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_bench.runs import folder_of
from rlhf_bench.suite import BASE, Cell, Suite
from rlhf_plugins import Curve, RunError, StageResult, open_run

Row = dict[str, Any]
OF_POLICY = ("kl", "length", "distinct_2", "normalised")  # as the report has them
REWARDS = ("reward", "rewards/margins", "accuracy")  # curves of a training that rise, the first one that it has
MOVING = 5  # logged steps of a moving mean
CONVERGED = 0.9


def measure(suite: Suite, root: Path) -> list[Row]:
    """Every run of a suite, in its order."""
    return [measured(cell, root, suite.budget) for cell in suite.cells]


def measured(cell: Cell, root: Path, budget: Mapping[str, float]) -> Row:
    """One run as a row. A run that failed, or is missing, has a status and no numbers."""
    row: Row = {"task": cell.task, "algorithm": cell.algorithm, "seed": cell.seed, "run": cell.digest}
    try:
        record = open_run(folder_of(root, cell))
    except RunError:
        return {**row, "status": "missing"}
    if record.status != "finished":
        return {**row, "status": record.status, "message": record.message}
    results = [result for result in record.finished if result.name in cell.trained]
    name = next(name for result in reversed(results) for name in result.policies)
    evaluation = next(result.evaluation for result in reversed(record.finished) if result.evaluation)
    report = record.report
    policy = report.policies[name]
    own = evaluation.scores[name]
    reference = evaluation.scores[evaluation.reference]
    return {
        **row,
        "status": "finished",
        "judge": evaluation.judge,
        "scores": list(own),
        BASE: list(reference),
        **{key: getattr(policy, key) for key in OF_POLICY},
        "win_rate": policy.win_rate.mean if policy.win_rate else None,
        "out_of_distribution": policy.out_of_distribution.mean if policy.out_of_distribution else None,
        **_cost(results, budget),
        **_convergence(results[-1]),
        "versions": report.versions,
        "hardware": report.hardware.model_dump(),
    }


def _cost(results: Sequence[StageResult], budget: Mapping[str, float]) -> Row:
    """What the algorithm's stages used together, and which part of the budget that was."""
    costs = [result.cost for result in results]
    used = {unit: sum(float(getattr(cost, unit)) for cost in costs) for unit in ("flops", "seconds")}
    peaks = [cost.peak_bytes for cost in costs if cost.peak_bytes is not None]
    ((unit, amount),) = budget.items()
    return {
        **used,
        "spent": used[unit] / amount,
        "trained_tokens": sum(cost.trained_tokens for cost in costs),
        "generated_tokens": sum(cost.generated_tokens for cost in costs),
        "reward_calls": sum(cost.reward_calls for cost in costs),
        "peak_bytes": max(peaks, default=None),
    }


def _convergence(result: StageResult) -> Row:
    """The step, and the share of the stage's seconds, at which its reward had made 90% of its way."""
    curve = next((result.curves[name] for name in REWARDS if name in result.curves), None)
    step = None if curve is None else converged(curve)
    if curve is None or step is None:
        return {"converged_step": None, "converged_seconds": None}
    last = curve.points[-1][0]
    return {"converged_step": step, "converged_seconds": result.cost.seconds * step / last}


def converged(curve: Curve) -> int | None:
    """The first step at which the moving mean has made 90% of its way to its last value; None if it never rose."""
    values = [value for _, value in curve.points]
    smooth = [sum(part) / len(part) for i in range(len(values)) if (part := values[max(0, i + 1 - MOVING) : i + 1])]
    if len(smooth) < 2 or smooth[-1] <= smooth[0]:
        return None
    goal = smooth[0] + CONVERGED * (smooth[-1] - smooth[0])
    return next(step for (step, _), value in zip(curve.points, smooth, strict=True) if value >= goal)
