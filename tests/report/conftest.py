"""A report as a quickstart would leave it, built in code from worked numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import exp, sin
from typing import Any

import pytest

from rlhf_plugins.report.page import page
from rlhf_plugins.report.schema import Report

_STARTED = datetime(2025, 6, 1, 9, 30, tzinfo=UTC)
_SAID = {
    "sft": "The heron is a wading bird. It is a bird. The heron is a bird that wades.",
    "best_of_16": "The heron is a wading bird that eats fish. I am not sure how high it flies.",
    "dpo": "The heron is a wading bird. It eats fish and nests in trees.",
    "ipo": "The heron wades and eats fish.",
    "ppo": "The heron is a wading bird: it eats fish, and nests in trees near water.",
}


def _around(mean: float, half: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _policy(gold: float, kl: float, wins: float | None, seconds: float, **more: Any) -> dict[str, Any]:
    grades = {"helpful": gold + 0.05, "harmless": gold + 0.15, "honest": gold - 0.04, "concise": gold - 0.2}
    return {
        "gold": _around(gold, 0.02),
        "n": 256,
        "length": 30 + 10 * gold,
        "distinct_1": 0.31,
        "distinct_2": 0.62,
        "dimensions": grades,
        "normalised": 100 * (gold - 0.45) / (0.85 - 0.45),
        "kl": kl,
        "win_rate": None if wins is None else _around(wins, 0.05),
        "win_p_value": None if wins is None else 0.0004,
        "out_of_distribution": _around(gold - 0.06, 0.03),
        "seconds": seconds,
        "peak_bytes": 900 * 2**20,
        **more,
    }


def _curves(steps: int) -> dict[str, Any]:
    points = range(1, steps + 1)
    curves = {
        "loss": [(step, 0.69 * exp(-step / 40) + 0.03 * sin(step)) for step in points],
        "rewards/accuracies": [(step, 0.5 + 0.3 * (1 - exp(-step / 30)) + 0.02 * sin(3 * step)) for step in points],
        "kl": [(step, 0.08 * step + 0.2 * sin(step) ** 2) for step in points],
        "entropy": [(step, 2.1 - 0.008 * step) for step in points],
        "reward": [(step, 0.4 + 0.004 * step) for step in points],
    }
    return {name: {"points": line, "better": "lower" if name == "loss" else None} for name, line in curves.items()}


def _reward_model() -> dict[str, Any]:
    edges = [0.5 + index / 20 for index in range(10)]
    bins = [
        {
            "low": low,
            "high": low + 0.05,
            "confidence": low + 0.025,
            "accuracy": low - 0.01,
            "count": 20 + 8 * index,
        }
        for index, low in enumerate(edges)
    ]
    return {
        "accuracy": 0.742,
        "accuracy_interval": _around(0.742, 0.035),
        "ece": 0.035,
        "auc": 0.81,
        "spearman": 0.66,
        "kendall": 0.49,
        "length_correlation": 0.28,
        "longer_response_accuracy": 0.571,
        "reliability": bins,
        "n": 560,
    }


def reward_models() -> dict[str, Any]:
    """Two measured reward models, of which only the second was tried out of distribution."""
    first = _reward_model() | {
        "mce": 0.08,
        "brier": 0.17,
        "cross_entropy": 0.51,
        "latency": 0.0123,
        "seconds": 58.3,
        "metrics": {"certificate_lower_bound": 0.711, "accuracy_by_topic_worst": 0.6, "accuracy_by_topic/tea": 0.6},
    }
    elsewhere = {"accuracy": 0.65, "accuracy_interval": _around(0.65, 0.05), "ece": 0.1, "n": 300}
    second = first | {"accuracy": 0.701, "accuracy_interval": _around(0.701, 0.04), "metrics": {"mine": 12.5}}
    return {"plain": first, "gaussian": second | {"out_of_distribution": elsewhere}}


def _section() -> dict[str, Any]:
    rows: list[dict[str, Any]] = [{"principle": "brief", "kept": 0.75, "n": 1200}, {"principle": "kind", "gate": True}]
    return {"title": "Principles", "text": "Of the constitution.\n\nJudged by the policy itself.", "rows": rows}


def _fields() -> dict[str, Any]:
    policies = {
        "sft": _policy(0.45, 0.0, None, 41.0, normalised=0.0),
        "best_of_16": _policy(0.73, 1.835, 0.79, 63.2, gain=_around(0.28, 0.02), line=True),
        "dpo": _policy(0.68, 6.2, 0.81, 72.8, gain=_around(0.23, 0.025), behind=_around(0.03, 0.01)),
        "ipo": _policy(0.64, 4.1, 0.77, 71.9, gain=_around(0.19, 0.025), behind=_around(0.07, 0.01)),
        "ppo": _policy(0.71, 9.4, 0.86, 128.4, gain=_around(0.26, 0.025), kl_interval=_around(9.4, 0.3)),
    }
    said = {
        name: {"text": text, "gold": policies[name]["gold"]["mean"], "reward": 1.25} for name, text in _SAID.items()
    }
    return {
        "title": "Quickstart: PPO, DPO and IPO in the sandbox",
        "started": _STARTED,
        "finished": _STARTED + timedelta(seconds=402),
        "status": "finished",
        "recipe": {
            "base": "sandbox",
            "seed": 0,
            "stages": [{"stage": "reward", "head": "scalar"}, {"stage": "evaluate"}],
        },
        "versions": {"python": "3.12.4", "torch": "2.13.0", "trl": "1.16.0", "transformers": "5.23.0"},
        "hardware": {
            "cpu": "AMD EPYC 9654",
            "cores": 2,
            "memory_bytes": 24 * 2**30,
            "platform": "Linux-6.1-x86_64",
        },
        "plugins": [{"name": "focal", "distribution": "rlhf-plugins-focal", "version": "0.2.0"}],
        "data": {
            "train": 4096,
            "test": 256,
            "dropped": {"both responses equal": 31, "longer than 256 tokens": 4},
            "annotators": "Bradley-Terry, length bias 0.3",
        },
        "stages": [
            {
                "name": "reward",
                "stage": "reward",
                "cost": {"seconds": 58.3, "peak_bytes": 700 * 2**20, "flops": 3.2e12, "trained_tokens": 41000},
                "curves": _curves(120),
            },
            {
                "name": "ppo",
                "stage": "online",
                "cost": {"seconds": 128.4, "peak_bytes": 900 * 2**20, "generated_tokens": 90000, "reward_calls": 5120},
                "opened": ["reward.rewards.reward"],
                "start": "sft",
                "reference": "base",
                "curves": _curves(80),
            },
            {"name": "evaluate", "stage": "evaluate", "cost": {"seconds": 44.0}, "sections": [_section()]},
        ],
        "policies": policies,
        "reference": "sft",
        "ceiling": {"n": 64, "gold": 0.85},
        "reward_model": _reward_model(),
        "samples": [{"prompt": f"Tell me about herons ({index}).", "responses": said} for index in range(6)],
        "notes": ["KL of best-of-16 is the analytic log n - (n - 1)/n."],
    }


@pytest.fixture
def fields() -> dict[str, Any]:
    """The fields of a whole report, to be changed and validated."""
    return _fields()


@pytest.fixture
def rewards(fields: dict[str, Any]) -> Report:
    """The report of a run that evaluated reward models alone."""
    no_policy = {"policies": {}, "reference": None, "ceiling": None, "samples": [], "reward_model": None}
    return Report.model_validate(fields | no_policy | {"reward_models": reward_models()})


@pytest.fixture
def report(fields: dict[str, Any]) -> Report:
    return Report.model_validate(fields)


@pytest.fixture(scope="module")
def html() -> str:
    """The page of the whole report."""
    return page(Report.model_validate(_fields()))
