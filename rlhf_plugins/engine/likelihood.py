"""How likely a policy finds given responses."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_plugins.contract.handles import Policy
from rlhf_plugins.contract.rows import Text
from rlhf_plugins.errors import DataError

AT_ONCE = 64  # responses whose log-probabilities are held at once


def mean_losses(policy: Policy, rows: Sequence[tuple[Text, Text | None]]) -> list[float | None]:
    """-1/T sum_t log p_t of each response of T tokens to its prompt, in nats; None where it cannot be read."""
    found: list[float | None] = [None] * len(rows)
    with policy:
        readable = [place for place, row in enumerate(rows) if _is_readable(policy, *row)]
        for start in range(0, len(readable), AT_ONCE):
            part = readable[start : start + AT_ONCE]
            samples = policy.encode([rows[i][0] for i in part], [rows[i][1] or "" for i in part])
            sums = policy.log_probs(samples).sum(1).tolist()
            for i, ids, total in zip(part, samples.response_ids, sums, strict=True):
                found[i] = -total / len(ids)
    return found


def _is_readable(policy: Policy, prompt: Text, response: Text | None) -> bool:
    if response is None:
        return False
    try:
        policy.encode([prompt], [response])
    except DataError:
        return False
    return True
