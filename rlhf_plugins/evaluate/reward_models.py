"""A reward model on held-out pairs: its scores, its metrics and its reliability. It knows no training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from rlhf_plugins.data.groups import pairs
from rlhf_plugins.evaluate.statistics import finite, mean_interval, wins
from rlhf_plugins.interfaces import Group, Metric, RewardFunction, Samples, ScoredPairs
from rlhf_plugins.models.sampling import written_ids


def score_pairs(reward: RewardFunction, groups: Sequence[Group], tokenizer: Any) -> ScoredPairs:
    """Rewards, lengths and, where known, gold of every strictly ordered pair of the groups; there is at least one.

    Raises:
        RunError: a reward is NaN or infinite.
    """
    ordered = list(pairs(groups))
    prompts = [pair.prompt for pair in ordered for _ in range(2)]
    responses = [response for pair in ordered for response in pair.responses]
    ids = [written_ids(tokenizer, p, r) for p, r in zip(prompts, responses, strict=True)]
    texts = [r if isinstance(r, str) else r[-1]["content"] for r in responses]
    samples = Samples(prompts, texts, *map(list, zip(*ids, strict=True)))
    rewards = finite(reward(samples), "reward model score").reshape(-1, 2)
    lengths = np.array([len(i) for i in samples.response_ids]).reshape(-1, 2)
    known = all(pair.gold for pair in ordered)
    gold = np.array([pair.gold for pair in ordered]).T if known else (None, None)
    return ScoredPairs(*rewards.T, *lengths.T, *gold)


def measure(scored: ScoredPairs, metrics: Sequence[Metric]) -> tuple[dict[str, Any], dict[str, float]]:
    """The reward model's row of a report, as `report.schema.RewardModelReport` has it, and what the metrics said."""
    found = {name: value for metric in metrics for name, value in metric(scored).items()}
    right = wins(scored.chosen, scored.rejected)
    row = {
        "accuracy": float(right.mean()),
        "accuracy_interval": mean_interval(right)._asdict(),
        "n": len(right),
        "ece": found.get("calibration_ece"),
        "auc": _auc(scored),
        "spearman": found.get("rank_correlation_spearman"),
        "kendall": found.get("rank_correlation_kendall"),
        "length_correlation": found.get("length_bias"),
        "longer_response_accuracy": float(wins(scored.chosen_length, scored.rejected_length).mean()),
        "reliability": reliability(scored),
    }
    return row, found


def reliability(scored: ScoredPairs, bins: int = 10) -> list[dict[str, float]]:
    """Pairs by the probability that the model gives to the response it prefers, in equal-width bins of [1/2, 1]."""
    p = expit(np.abs(scored.chosen - scored.rejected))
    right = wins(scored.chosen, scored.rejected)
    edges = np.linspace(0.5, 1.0, bins + 1)
    which = np.clip(np.digitize(p, edges) - 1, 0, bins - 1)
    return [
        {
            "low": float(edges[b]),
            "high": float(edges[b + 1]),
            "confidence": float(p[which == b].mean()),
            "accuracy": float(right[which == b].mean()),
            "count": int((which == b).sum()),
        }
        for b in range(bins)
        if (which == b).any()
    ]


def _auc(scored: ScoredPairs) -> float:
    """Area under the ROC curve of reward as a classifier of chosen against rejected, pairs torn apart."""
    rewards = np.concatenate([scored.chosen, scored.rejected])
    return float(roc_auc_score(np.repeat([1, 0], len(scored.chosen)), rewards))
