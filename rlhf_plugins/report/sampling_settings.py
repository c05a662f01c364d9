"""How policies were sampled in training, and how they are measured, as a recipe writes both; it knows no numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

EVALUATE, ONLINE = "evaluate", "online"
PLAIN = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}  # where they do nothing

Spec = Mapping[str, Any]


def otherwise(trained: Spec, evaluation: Spec) -> str:
    """How a stage sampled otherwise than an evaluation, with what to write where that helps; empty where it did not.

    Args:
        trained: the words of the stage that trained a policy.
        evaluation: those of the stage that measures it; it samples from the policy itself, at a temperature.
    """
    own, at, found = _of_training(trained), float(evaluation.get("temperature", 1.0)), list[str]()
    if not own:
        return ""
    if own["temperature"] != at:
        path = f"stages.{evaluation.get('name', EVALUATE)}.temperature={own['temperature']:g}"
        found.append(f"at temperature {own['temperature']:g}, and it is measured at {at:g}: `{path}` measures it there")
    if cut := [f"{name} {own[name]:g}" for name in PLAIN if name != "temperature" and own[name] != PLAIN[name]]:
        found.append(f"with {', '.join(cut)}, and it is measured without")
    return f"its training sampled {'; and '.join(found)}" if found else ""


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
    if spec.get("stage") != ONLINE and not asked.keys() & PLAIN.keys():
        return {}
    return {name: plain if asked.get(name) is None else float(asked[name]) for name, plain in PLAIN.items()}
