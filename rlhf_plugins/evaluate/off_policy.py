"""How far the responses of rows are from what a policy itself would write."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_plugins.arithmetic.intervals import mean_interval
from rlhf_plugins.contract.handles import Policy
from rlhf_plugins.contract.rows import Data, Samples, Text
from rlhf_plugins.data.batches.tokens import RowEncoder
from rlhf_plugins.data.fields import key
from rlhf_plugins.errors import DataError, RunError
from rlhf_plugins.evaluate.statistics import finite
from rlhf_plugins.report.words import FEWEST

PROMPTS, TOKENS = 64, 128  # that are looked at; and of each response, its first ones
DRAWN = 10 * PROMPTS  # at most, to find so many

Ids = Sequence[int]


class _Row(NamedTuple):
    """A prompt and all its responses as token ids."""

    prompt: Text
    answers: list[tuple[Ids, Ids]]  # of each response, what is before it and its own first tokens


def off_policy(policy: Policy, data: Data, encoder: RowEncoder, seed: int = 0) -> dict[str, Any]:
    """The fields of `Features` that need a policy; of fewer than 10 prompts with room for a response only their number.

    For each of 64 training prompts at most, drawn by the seed: the mean log-probability of a token of one response
    that the policy samples at temperature 1, minus that of a token of the prompt's rows, whose responses count
    alike. Both are of the first 128 tokens of a response. The interval is that of `mean_interval` over prompts. For a
    prompt with rows that the policy cannot read, or without room, another one is drawn, 640 in all at most; those are
    counted.

    Raises:
        RunError: the policy cannot be sampled, or a log-probability is not finite.
    """
    rows, left_out = _drawn(data, encoder, seed)
    if len(rows) < FEWEST:
        return {"off_policy_prompts": len(rows), "off_policy_left_out": left_out}
    own = policy.sample([row.prompt for row in rows], max_new_tokens=TOKENS, seed=seed)
    of_own, of_rows = per_token(policy, own), per_token(policy, _as_samples(rows))
    ends = np.cumsum([len(row.answers) for row in rows])[:-1]
    gaps = of_own - np.array([part.mean() for part in np.split(of_rows, ends)])
    mean, low, high = mean_interval(finite(list(gaps), "log-probability gap"), seed)
    found = {"off_policy": mean, "off_policy_low": low, "off_policy_high": high}
    return {**found, "off_policy_prompts": len(rows), "off_policy_left_out": left_out}


def tried(look: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """What `off_policy` found, and in words why it found nothing: a policy that fails here leaves one feature unseen.

    Args:
        look: opens a policy, perhaps, and calls `off_policy`.
    """
    try:
        own = look()
    except (RunError, OSError, ValueError) as error:
        return {}, [f"not seen: off_policy: {error}"]
    if "off_policy" in own:
        return own, []
    usable, left_out = own["off_policy_prompts"], own["off_policy_left_out"]
    few = f"{usable} prompts with two responses leave room for another, fewer than {FEWEST}"
    return own, [f"not seen: off_policy: {few}; {left_out} do not"]


def per_token(policy: Policy, samples: Samples) -> np.ndarray:
    """The mean log-probability of each response's tokens, (B,)."""
    lengths = np.array([len(ids) for ids in samples.response_ids])
    return policy.log_probs(samples).double().sum(1).cpu().numpy() / lengths


def _drawn(data: Data, encoder: RowEncoder, seed: int) -> tuple[list[_Row], int]:
    """Prompts that have two responses or more, and leave room for one that is sampled; how many do not."""
    texts: dict[str, tuple[Text, dict[str, Text]]] = {}
    for group in data.train:
        if len(group.responses) > 1:
            _, responses = texts.setdefault(key(group.prompt), (group.prompt, {}))
            responses |= {key(response): response for response in group.responses}
    rows, left_out = list[_Row](), 0
    for prompt, responses in random.Random(seed).sample(list(texts.values()), min(DRAWN, len(texts))):
        row = _encoded(prompt, list(responses.values()), encoder)
        rows, left_out = ([*rows, row], left_out) if row else (rows, left_out + 1)
        if len(rows) == PROMPTS:
            break
    return rows, left_out


def _encoded(prompt: Text, responses: Sequence[Text], encoder: RowEncoder) -> _Row | None:
    """None where a response cannot be rendered, or the model does not take the prompt with `TOKENS` more."""
    try:
        ids = [encoder.encode_within_limit(prompt, response) for response in responses]
        asked = encoder.encode_start(prompt)
    except DataError:
        return None
    if not asked or len(asked) + TOKENS > (encoder.fit.most or float("inf")):
        return None
    return _Row(prompt, [(before, answer[:TOKENS]) for before, answer in ids])


def _as_samples(rows: Sequence[_Row]) -> Samples:
    prompts = [row.prompt for row in rows for _ in row.answers]
    pairs = [pair for row in rows for pair in row.answers]
    return Samples(prompts, [""] * len(pairs), [before for before, _ in pairs], [answer for _, answer in pairs])
