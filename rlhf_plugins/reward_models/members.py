"""How the members of an ensemble order pairs, each beside the others, and which of them drift. It opens no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rlhf_plugins.arithmetic.intervals import difference
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.data.batches.ranked import encodable
from rlhf_plugins.data.batches.tokens import RowEncoder, samples_of
from rlhf_plugins.data.fields import key
from rlhf_plugins.reward_models.handle import Predict

Pair = tuple[str, str, str]  # the prompt, the better response, the worse one
Orders = Mapping[Pair, float]  # 1 where a member orders the pair as people did, 1/2 at a tie, 0 else


def orders(predict: Predict, groups: Sequence[Group], encoder: RowEncoder) -> Orders:
    """How a member orders the strict pairs of the groups whose responses it can read."""
    kept, _ = encodable(groups, encoder)
    if not kept:
        return {}
    texts = [(key(group.prompt), key(response)) for group in kept for response in group.responses]
    reward = dict(zip(texts, predict(samples_of(kept, encoder)).reward.tolist(), strict=True))
    found = {}
    for group in kept:
        for c in group.comparisons:
            if not c.tied:
                asked, better, worse = key(group.prompt), key(group.responses[c.better]), key(group.responses[c.worse])
                gap = reward[asked, better] - reward[asked, worse]
                found[asked, better, worse] = (gap > 0) + 0.5 * (gap == 0)
    return found


class Agreement(NamedTuple):
    """How often each member orders a pair as another member does, and on how many prompts."""

    shares: list[float]
    prompts: int


def agreement(members: Sequence[Orders]) -> Agreement | None:
    """1 - 1/(M - 1) sum_k |o_m - o_k| of each member m, the mean over the pairs that all read; None without a pair."""
    common = sorted(set(members[0]).intersection(*members[1:]))
    if not common:
        return None
    shares = []
    for own in members:
        apart = [abs(own[pair] - other[pair]) for other in members if other is not own for pair in common]
        shares.append(1 - sum(apart) / len(apart))
    return Agreement(shares, len({prompt for prompt, _, _ in common}))


class Share(NamedTuple):
    """A share of pairs, and of how many prompts they are."""

    value: float
    prompts: int


def drifted(name: str, before: Share | None, now: Share) -> str:
    """What to say where a share has fallen beyond chance; empty where it has not, or was not known.

    Prompts are the independent units, so that the interval is rather too wide.
    """
    if before is None or not before.prompts or not now.prompts:
        return ""
    low, high = difference(now.value, now.prompts, before.value, before.prompts)
    if high >= 0:
        return ""
    fell = f"{now.value - before.value:+.1%}, 95% CI {low:+.1%} to {high:+.1%}"
    return f"{name} has fallen from {before.value:.1%} to {now.value:.1%} ({fell})"
