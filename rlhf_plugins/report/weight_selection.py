"""Whether the held-out rows that measure a policy also chose its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Spec = Mapping[str, Any]


def on_the_same(trained: Spec, evaluation: Spec) -> str:
    """How the evaluations of a training chose what a later one measures on the same rows; empty where they did not.

    Args:
        trained: the words of the stage that trained a policy.
        evaluation: those of the stage that measures it.
    """
    given, patience = trained.get("trainer"), trained.get("early_stopping_patience")
    if not isinstance(given, Mapping) or trained.get("data") != evaluation.get("data"):
        return ""
    best = str(given.get("metric_for_best_model") or "loss").removeprefix("eval_")
    tasks = [one for one in trained.get("tasks") or () if isinstance(one, Mapping) and one.get("name") == best]
    if any(one.get("data") for one in tasks):  # rows of its own
        return ""
    if given.get("load_best_model_at_end"):
        what = "its weights are those of the step that had the best"
    elif patience:
        what = "its training was ended by"
    else:
        return ""
    return f"{what} eval_{best} on held-out rows that are measured here too, which favours it"
