"""Whether a revision reads as well as the first answer to the policy: a limit of how far its perplexity may rise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rlhf_constitution.texts import Text
from rlhf_plugins import DataError, Policy, Run


def perplexities(policy: Policy, prompt: Text, responses: Sequence[str]) -> list[float]:
    """exp(-mean log-probability of its tokens) of each response; infinite where it has none."""
    with policy:
        samples = policy.encode([prompt] * len(responses), responses)
        sums = policy.log_probs(samples).sum(1).tolist()
    counts = [len(ids) for ids in samples.response_ids]
    return [math.exp(-total / count) if count else math.inf for total, count in zip(sums, counts, strict=True)]


def fluent(run: Run, most: float) -> Callable[[Text, str, str], str]:
    """A check of a revision: why it is rejected, or nothing."""
    policy = run.policy()

    def check(prompt: Text, first: str, revision: str) -> str:
        try:
            before, after = perplexities(policy, prompt, [first, revision])
        except DataError as error:
            return f"the policy cannot read it: {error}"
        if after <= most * before:
            return ""
        return f"its perplexity is {after / before:.1f} times the first answer's, more than {most:g}"

    return check
