"""A reward model as a function of rows: what it abstains from is None."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlhf_plugins import RunError
from rlhf_serve.batches import Score

if TYPE_CHECKING:
    from rlhf_plugins import RewardModel


def scorer(model: RewardModel) -> Score:
    """Rewards of rows by an opened model, which tokenizes them as in its training.

    Raises RunError where it compares responses: rows of several requests are scored together.
    """
    if compares := getattr(model, "compares", ""):
        raise RunError(
            f"aggregation {compares} compares the responses to a prompt, and a server scores each alone: serve an "
            "ensemble whose aggregation does so, such as mean, or use `rlhf score`"
        )

    def score(prompts: Sequence[Any], responses: Sequence[Any], cut: Sequence[bool] = ()) -> list[float | None]:
        found = model.predict(model.encode(prompts, responses, cut))  # type: ignore[attr-defined]
        silent = found.abstained.tolist() if found.abstained is not None else [False] * len(prompts)
        return [None if out else reward for reward, out in zip(found.reward.tolist(), silent, strict=True)]

    return score
