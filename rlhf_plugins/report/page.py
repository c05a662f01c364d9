"""The page of a report: the order of its parts; plots, tables and words come from their own files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import yaml
from pydantic import TypeAdapter

from rlhf_plugins.report import words
from rlhf_plugins.report.curves import reliability, stage_curves
from rlhf_plugins.report.document import document
from rlhf_plugins.report.plots import policy_plots
from rlhf_plugins.report.recommendation import taken
from rlhf_plugins.report.reward_table import sections
from rlhf_plugins.report.schema import CostReport, CurveReport, EvaluationReport, Report, RolloutReport, SectionReport
from rlhf_plugins.report.summary import summary
from rlhf_plugins.report.svg import Plot
from rlhf_plugins.report.table import Cell, cells, columns, headers

_CURVES = TypeAdapter(dict[str, CurveReport])
COSTS: dict[str, Callable[[CostReport], str]] = {
    "time": lambda cost: words.duration(cost.seconds),
    "FLOPs": lambda cost: words.flops(cost.flops),
    "tokens trained": lambda cost: words.count(cost.trained_tokens),
    "tokens generated": lambda cost: words.count(cost.generated_tokens),
    "reward calls": lambda cost: words.count(cost.reward_calls),
    "peak memory": lambda cost: words.memory(cost.peak_bytes),
    "forecast": lambda cost: words.memory(cost.forecast_bytes),
}


def page(report: Report) -> str:
    """One HTML document with no external request; all text of the report is escaped."""
    return document(
        "page.html.j2",
        report.title,
        report=report,
        summary=summary(report),
        winner=taken(report),
        headers=headers(report),
        rows=_rows(report),
        evaluations={name: (headers(one), _rows(one)) for name, one in report.evaluations.items()},
        costs=_costs(report),
        policy_plots=policy_plots(report),
        reward_models=list(report.measured_reward_models),
        reward_sections=sections(report.measured_reward_models),
        reliability=reliability(report.measured_reward_models),
        curves=_curves(report),
        nested=_nested,
        parts_of=partial(_names_of, "parts"),
        extra_of=partial(_names_of, "extra"),
        recipe=yaml.safe_dump(report.recipe, sort_keys=False, allow_unicode=True),
    )


def _rows(judged: Report | EvaluationReport) -> dict[str, list[Cell]]:
    found = columns(judged)
    return {name: cells(policy, found) for name, policy in judged.policies.items()}


def _nested(value: Mapping[str, Any]) -> SectionReport:
    """Nested numbers as a table: whose they are, `answers, dpo`, and a column for each."""
    return SectionReport(title="numbers", rows=list(_rows_of(value)))


def _rows_of(value: Mapping[str, Any], of: str = "") -> Iterator[dict[str, Any]]:
    plain = {name: one for name, one in value.items() if not isinstance(one, Mapping)}
    if plain:
        yield {"of": of, **plain}
    for name, one in value.items():
        if isinstance(one, Mapping):
            yield from _rows_of(one, f"{of}, {name}" if of else name)


def _names_of(what: str, rollouts: Sequence[RolloutReport]) -> list[str]:
    """The names of the parts of rewards, or of what else was logged, in the order of the responses."""
    return list(dict.fromkeys(name for row in rollouts for name in getattr(row, what)))


def _costs(report: Report) -> dict[str, Callable[[CostReport], str]]:
    """The columns of costs that hold a number of any stage."""
    return {
        header: show for header, show in COSTS.items() if any(show(stage.cost) != words.NONE for stage in report.stages)
    }


def _curves(report: Report) -> list[Plot]:
    plots = (
        _drawn(stage.name, _CURVES.dump_json(stage.curves), f"plot-stage-{index}")
        for index, stage in enumerate(report.stages)
    )
    return [plot for plot in plots if plot is not None]


@lru_cache(maxsize=64)  # while a run goes on, its page is written again with the curves of finished stages
def _drawn(stage: str, curves: bytes, key: str) -> Plot | None:
    return stage_curves(stage, _CURVES.validate_json(curves), key)
