"""A reward model on held-out responses that have a label each, with no other to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from rlhf_plugins.arithmetic.intervals import wilson_interval
from rlhf_plugins.arithmetic.scored import larger
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.contract.run_kinds import RewardFunction
from rlhf_plugins.data.batches.tokens import RowEncoder, samples_of
from rlhf_plugins.reward_models.handle import Predict


def labelled(groups: Sequence[Group]) -> list[Group]:
    """The groups of one response whose label is known."""
    return [group for group in groups if group.label is not None]


def measure_labels(judge: Predict | RewardFunction, groups: Sequence[Group], encoder: RowEncoder) -> dict[str, Any]:
    """How well rewards agree with labels, as `report.schema.LabelsReport` has it.

    Args:
        judge: a function from samples to rewards or a `Prediction`.
        groups: the groups of one labelled response each, at least one; they count as independent.
        encoder: the encoder of the reward model.

    Raises:
        RunError: the judge leaves out a response, or gives NaN or infinity.
    """
    from rlhf_plugins.evaluate.reward_models import checked_rewards

    reward, _ = checked_rewards(judge(samples_of(groups, encoder)), len(groups))
    return agreement(reward, np.array([bool(group.label) for group in groups]))


def agreement(reward: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    """Accuracy at reward 0 with Wilson's 95% interval (1927), cross-entropy, and the area under the ROC curve.

    A reward of 0 counts one half, and so does a tie in the area, which is None where all labels are equal.

    Args:
        reward: (n,), the logit of the label.
        label: (n,) whether the response is desirable.
    """
    signed, n = np.where(label, reward, -reward), len(reward)
    right = larger(signed, np.zeros(n))
    low, high = wilson_interval(float(right.mean()), n)
    good, bad = reward[label], reward[~label]
    above = stats.mannwhitneyu(good, bad, method="asymptotic").statistic if len(good) and len(bad) else None
    return {
        "accuracy": {"mean": float(right.mean()), "low": low, "high": high},
        "cross_entropy": float(np.logaddexp(0, -signed).mean()),
        "auc": None if above is None else float(above) / (len(good) * len(bad)),
        "desirable": float(label.mean()),
        "n": n,
    }
