"""What the settings of a training and its evaluation say: other sampling, or weights chosen on the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

EVALUATE, ONLINE = "evaluate", "online"

Spec = Mapping[str, Any]


def otherwise(trained: Spec, evaluation: Spec) -> str:
    """How a stage sampled otherwise than an evaluation, with what to write where that helps; empty where it did not.

    Args:
        trained: the words of the stage that trained a policy.
        evaluation: those of the stage that measures it.
    """
    own, measured = _of_training(trained), _values(evaluation)
    differ = [name for name in _plain() if own and own[name] != measured[name]]
    if not differ:
        return ""
    words = [", ".join(f"{name} {values[name]:g}" for name in differ) for values in (own, measured)]
    paths = " ".join(f"stages.{evaluation.get('name', EVALUATE)}.{name}={own[name]:g}" for name in differ)
    return f"its training sampled with {words[0]}, and it is measured with {words[1]}: `{paths}` measures it so"


def measured(stages: Sequence[Spec]) -> str:
    """How the last evaluation of a recipe samples, in words; empty where there is none."""
    evaluations = [one for one in stages if one.get("stage") == EVALUATE]
    if not evaluations:
        return ""
    values = _values(evaluations[-1])
    shown = (name for name, plain in _plain().items() if name == "temperature" or values[name] != plain)
    return ", ".join(f"{name} {values[name]:g}" for name in shown)


def chosen_on_the_same(trained: Spec, evaluation: Spec) -> str:
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


def warnings(stages: Sequence[Spec]) -> Iterator[str]:
    """What to say before a run: each policy that a later evaluation samples otherwise than its training did."""
    for place, evaluation in enumerate(stages):
        if evaluation.get("stage") != EVALUATE:
            continue
        for trained in stages[:place]:
            if said := otherwise(trained, evaluation):
                yield f"{evaluation.get('name', EVALUATE)}: policy {trained.get('name')}: {said}"


def _of_training(spec: Spec) -> dict[str, float]:
    """The options by which a stage samples while it trains; empty of one that is not known to sample."""
    given = spec.get("trainer")
    if not isinstance(given, Mapping):
        return {}
    own = {"temperature": spec["temperature"]} if "temperature" in spec else {}  # of a stage that is no `online`
    asked = {**own, **given, **(given.get("generation_kwargs") or {})}
    if spec.get("stage") != ONLINE and not asked.keys() & _plain().keys():
        return {}
    return _values(asked)


def _values(given: Spec) -> dict[str, float]:
    return {name: plain if given.get(name) is None else float(given[name]) for name, plain in _plain().items()}


def _plain() -> dict[str, float]:
    """The options of sampling where they do nothing."""
    from rlhf_plugins.contract.sampling import PLAIN

    return {"temperature": 1.0, **PLAIN}
