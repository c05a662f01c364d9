"""The numbers of a finished run as one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from rlhf_bench import climbs, judges
from rlhf_bench.ratings import Ratings
from rlhf_bench.runs import computes_prompts_once, folder_of
from rlhf_bench.suite import BASE, Cell, Suite
from rlhf_plugins import Curve, RunError, StageResult, open_run

Row = dict[str, Any]
OF_POLICY = (
    "kl",
    "length",
    "distinct_1",
    "distinct_2",
    "normalised",
    "perplexity",
    "dimensions",
)  # as the report has them
REWARDS = ("reward", "rewards/margins", "accuracy")  # curves of a training that rise, the first one that it has
MOVING = 5  # logged steps of a moving mean
CONVERGED = 0.9


def measure(suite: Suite, root: Path, ratings: Ratings | None = None) -> list[Row]:
    """Every run of a suite, in its order, with what people gave its last policy where ratings are given.

    Raises:
        RunError: none of the rated policies is of this suite.
    """
    known: dict[str, list[int] | None] = {}
    rows = [measured(cell, root, suite.budget, known) for cell in suite.cells]
    last = {cell.digest: cell.trained[-1] for cell in suite.cells}
    if ratings and not ratings.keys() & last.items():
        rated = ", ".join("#".join(policy) for policy in list(ratings)[:3])
        raise RunError(f"none of the {len(ratings)} rated policies is of a run of {suite.name}: {rated}, ...")
    return [{**row, "ratings": (ratings or {}).get((row["run"], last[row["run"]]), {})} for row in rows]


def measured(cell: Cell, root: Path, budget: Mapping[str, float], known: dict[str, list[int] | None]) -> Row:
    """One run as a row; `known` is as in `judges.measured`. A run that failed, or is missing, has no numbers."""
    row: Row = {"task": cell.task, "algorithm": cell.algorithm, "seed": cell.seed, "run": cell.digest}
    try:
        record = open_run(folder_of(root, cell))
    except RunError:
        return {**row, "status": "missing"}
    if record.status != "finished":
        return {**row, "status": record.status, "message": record.message}
    results = [result for result in record.finished if result.name in cell.trained]
    name = next(name for result in reversed(results) for name in result.policies)
    judged = next(result for result in reversed(record.finished) if result.evaluation)
    evaluation, tasks = judged.evaluation, judged.metrics.get("tasks", {})
    assert evaluation is not None
    report = record.report
    policy = report.policies[name]
    own = evaluation.scores[name]
    reference = evaluation.scores[evaluation.reference]
    return {
        **row,
        "status": "finished",
        **judges.measured(record, known),
        "prompts": sha256("\0".join(map(str, evaluation.prompts)).encode()).hexdigest()[:16],
        "scores": list(own),
        BASE: list(reference),
        **{key: getattr(policy, key) for key in OF_POLICY},
        "win_rate": policy.win_rate.mean if policy.win_rate else None,
        "out_of_distribution": policy.out_of_distribution.mean if policy.out_of_distribution else None,
        **_cost(results, budget),
        "prompts_once": computes_prompts_once(root, cell),
        **_convergence(results),
        "climb": climbs.read(results[-1]),
        "tasks": {task: of[name]["mean"] for task, of in tasks.items()},
        "versions": report.versions,
        "hardware": report.hardware.model_dump(),
    }


def _cost(results: Sequence[StageResult], budget: Mapping[str, float]) -> Row:
    """What the algorithm's stages used together, and which part of the budget that was."""
    costs = [result.cost for result in results]
    used = {unit: sum(float(getattr(cost, unit)) for cost in costs) for unit in ("flops", "seconds")}
    peaks = [cost.peak_bytes for cost in costs if cost.peak_bytes is not None]
    ((unit, amount),) = budget.items()
    trained, generated = (sum(getattr(cost, f"{kind}_tokens") for cost in costs) for kind in ("trained", "generated"))
    return {
        **used,
        "spent": used[unit] / amount,
        "trained_tokens": trained,
        "generated_tokens": generated,
        "tokens_per_second": (trained + generated) / used["seconds"],
        "reward_calls": sum(cost.reward_calls for cost in costs),
        "peak_bytes": max(peaks, default=None),
    }


def _convergence(results: Sequence[StageResult]) -> Row:
    """The last stage's step at which its reward had made 90% of its way, and the seconds until then.

    Seconds are those of the stages before it, such as its reward model's, and a share of its own.
    """
    result, before = results[-1], sum(one.cost.seconds for one in results[:-1])
    curve = next((result.curves[name] for name in REWARDS if name in result.curves), None)
    step = None if curve is None else converged(curve)
    if curve is None or step is None:
        return {"converged_step": None, "converged_seconds": None}
    last = curve.points[-1][0]
    return {"converged_step": step, "converged_seconds": before + result.cost.seconds * step / last}


def converged(curve: Curve) -> int | None:
    """The first step at which the moving mean has made 90% of its way to its last value; None if it never rose."""
    values = [value for _, value in curve.points]
    smooth = [sum(part) / len(part) for i in range(len(values)) if (part := values[max(0, i + 1 - MOVING) : i + 1])]
    if len(smooth) < 2 or smooth[-1] <= smooth[0]:
        return None
    goal = smooth[0] + CONVERGED * (smooth[-1] - smooth[0])
    return next(step for (step, _), value in zip(curve.points, smooth, strict=True) if value >= goal)
