"""A reward model on held-out pairs: its scores, its metrics and its reliability."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.special import expit

from rlhf_plugins.arithmetic.scored import larger
from rlhf_plugins.contract.interfaces import Metric
from rlhf_plugins.contract.records import Prediction, ScoredPairs
from rlhf_plugins.contract.reward_rows import Wrong, scores_of
from rlhf_plugins.contract.rows import Comparison, Group, Rewrite, Text
from rlhf_plugins.contract.run import Lengths
from rlhf_plugins.contract.run_kinds import RewardFunction
from rlhf_plugins.data.batches.tokens import RowEncoder, cut_responses, samples_of
from rlhf_plugins.errors import RunError
from rlhf_plugins.evaluate.statistics import finite
from rlhf_plugins.reward_models.ensemble import epistemic, preferred
from rlhf_plugins.reward_models.handle import Predict, rewards

Side = tuple[Group, int]  # a response, by its group and its place in it

# The metric behind each field of a report's row; all other metrics keep their own names.
FIELDS = {
    "ece": "calibration_ece",
    "mce": "calibration_mce",
    "brier": "calibration_brier",
    "cross_entropy": "cross_entropy",
    "auc": "auc",
    "spearman": "rank_correlation_spearman",
    "kendall": "rank_correlation_kendall",
    "length_correlation": "length_bias",
}
ACCURACY = ("accuracy", "accuracy_low", "accuracy_high", "accuracy_longer_response")
UNPAIRED: Mapping[str, Any] = {"accuracy": None, "ece": None, "n": 0}  # the row of a model that was given no pair
UNMEASURABLE = (
    "no held-out pair is strictly ordered and no held-out response has a label: there is nothing to measure a reward "
    "model on"
)
TIMED = 16  # pairs that are scored one by one


def strict(groups: Sequence[Group]) -> list[tuple[Group, Comparison]]:
    """Every comparison in which one response is better, with its group."""
    return [(group, found) for group in groups for found in group.comparisons if not found.tied]


def score_pairs(
    judge: Predict | RewardFunction,
    groups: Sequence[Group],
    tokenizer: Any,
    seed: int = 0,
    longest: int | None = None,
    lengths: Lengths = Lengths(),  # noqa: B008
) -> ScoredPairs:
    """The scores of every strictly ordered pair of the groups, with people's ratings and the gold reward.

    A response is scored once, however many pairs it is in.

    Args:
        judge: a function from samples to rewards or a `Prediction`.
        groups: judged responses to held-out prompts.
        tokenizer: the tokenizer of the reward model's base.
        seed: the seed of rewrites that are random.
        longest: the most tokens that the model takes, at which a rewritten response is cut before its last.
        lengths: the lengths of the recipe: rows that are cut in training are cut here.

    Raises:
        RunError: no pair is strictly ordered, or the judge leaves out a response, or gives NaN or infinity.
    """
    pairs = strict(groups)
    if not pairs:
        raise RunError(UNMEASURABLE)
    sides = [(group, place) for group, c in pairs for place in (c.better, c.worse)]
    keys = [(_key(group.prompt), _key(group.responses[place], group.columns)) for group, place in sides]
    distinct: dict[tuple[str, str], Side] = {}
    for key, side in zip(keys, sides, strict=True):
        distinct.setdefault(key, side)
    number = {key: i for i, key in enumerate(distinct)}
    code = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompt for prompt, _ in keys))}
    return _Pairs(
        judge,
        tokenizer,
        [Group(g.prompt, (g.responses[place],), columns=g.columns) for g, place in distinct.values()],
        np.array([number[key] for key in keys]).reshape(-1, 2).T,
        {
            **_known(sides),
            "prompt": np.array([code[prompt] for prompt, _ in keys[::2]]),
            "annotator": _texts([comparison.annotator for _, comparison in pairs]),
        },
        seed,
        longest,
        lengths if lengths.truncation == "cut" else Lengths(),
    ).scored()


@dataclass(frozen=True)
class _Pairs:
    """Pairs to score, with what is known of them before."""

    judge: Predict | RewardFunction
    tokenizer: Any
    alone: Sequence[Group]  # distinct prompts and responses, one response each
    pairs: np.ndarray  # (2, pairs) which of them are chosen and rejected
    known: Mapping[str, Any]
    seed: int
    longest: int | None
    lengths: Lengths

    def scored(self, rewrite: Rewrite | None = None) -> ScoredPairs:
        """The pairs, with every response rewritten where `rewrite` is given."""
        rng = np.random.default_rng(self.seed)
        texts = [r if rewrite is None else _rewritten(r, rewrite, rng) for g in self.alone for r in g.responses]
        alone = [replace(group, responses=(response,)) for group, response in zip(self.alone, texts, strict=True)]
        samples = samples_of(alone, RowEncoder(self.tokenizer, None, self.lengths))
        if rewrite is not None and self.longest is not None:
            samples = cut_responses(samples, self.longest)
        found = self.judge(samples)
        reward, doubts = checked_rewards(found, len(alone))
        length = np.array([len(ids) for ids in samples.response_ids])
        chosen, rejected = self.pairs
        sides = (("chosen", chosen), ("rejected", rejected))
        return ScoredPairs(
            chosen=reward[chosen],
            rejected=reward[rejected],
            chosen_length=length[chosen],
            rejected_length=length[rejected],
            **{f"{side}_{name}": doubt[which] for name, doubt in doubts.items() for side, which in sides},
            probability=voted(found, chosen, rejected),
            again=self.scored if rewrite is None else None,
            **self.known,
        )


def voted(answer: Prediction | Sequence[Any], chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray | None:
    """The probability of each pair by an ensemble that compares responses; None where that is sigmoid of a gap."""
    if not isinstance(answer, Prediction) or not (answer.shares or answer.compared):
        return None
    found: np.ndarray = preferred(answer, torch.from_numpy(chosen), torch.from_numpy(rejected)).numpy()
    return found


def latency(judge: Predict | RewardFunction, groups: Sequence[Group], tokenizer: Any) -> float:
    """Median seconds to score one pair alone, tokenisation included, over the first few."""
    seconds = []
    for group, comparison in strict(groups)[:TIMED]:
        began = time.perf_counter()
        score_pairs(judge, [replace(group, compared=(comparison,))], tokenizer)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def measure(scored: ScoredPairs, metrics: Sequence[Metric]) -> dict[str, Any]:
    """The reward model's row of a report, as `report.schema.RewardModelReport` has it.

    Raises:
        RunError: two metrics give a number the same name.
    """
    found: dict[str, float] = {}
    for metric in metrics:
        numbers = metric(scored)
        if twice := found.keys() & numbers.keys():
            raise RunError(f"two metrics both measure {', '.join(sorted(twice))}; leave one out")
        found |= numbers
    accuracy, low, high, longer = map(found.get, ACCURACY)
    return {
        "accuracy": float(larger(scored.chosen, scored.rejected).mean()),
        "accuracy_interval": None if accuracy is None else {"mean": accuracy, "low": low, "high": high},
        "n": len(scored.chosen),
        "longer_response_accuracy": longer,
        **{field: found.get(name) for field, name in FIELDS.items()},
        "reliability": reliability(scored),
        "metrics": {name: value for name, value in found.items() if name not in {*FIELDS.values(), *ACCURACY}},
    }


def reliability(scored: ScoredPairs, bins: int = 5) -> list[dict[str, float]]:
    """Pairs by the probability that the model gives to the response it prefers, in equal-width bins of [1/2, 1].

    Where no pair ties, five are the ten of [0, 1] into which the metric `calibration` puts each pair both ways round.
    """
    p, right = expit(np.abs(scored.chosen - scored.rejected)), larger(scored.chosen, scored.rejected)
    if (likely := scored.probability) is not None:
        p, right = np.maximum(likely, 1 - likely), larger(likely, np.full_like(likely, 0.5))
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


def _known(sides: Sequence[Side]) -> dict[str, Any]:
    """Gold rewards, ratings and topics of the pairs, given as alternating sides; None where unknown."""
    gold = [group.gold[place] for group, place in sides if group.gold]
    rated = [_rating(group, place) for group, place in sides]
    found = {
        "gold": np.array(gold, dtype=float) if len(gold) == len(sides) else None,
        "rating": None if np.isnan(rated).all() else np.array(rated),
    }
    sides_of = {
        f"{side}_{name}": None if values is None else values[start::2]
        for name, values in found.items()
        for start, side in enumerate(("chosen", "rejected"))
    }
    return {**sides_of, "topic": _texts([group.topic for group, _ in sides[::2]])}


def _texts(found: Sequence[str | None]) -> np.ndarray | None:
    """A text of each pair, empty where it has none; None where none has one."""
    return np.array([text or "" for text in found], dtype=object) if any(found) else None


def _rating(group: Group, place: int) -> float:
    """The mean over the dimensions in which people rated the response; NaN where they rated it in none."""
    rated = [values[place] for values in group.ratings.values()]
    known = [value for value in rated if value is not None]
    return float(np.mean(known)) if known else float("nan")


def checked_rewards(answer: Prediction | Sequence[Any], n: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rewards of n responses, and the variances and features that are known, by the names that `ScoredPairs` has."""
    doubts = {}
    if isinstance(answer, Prediction):
        if answer.variance is not None:
            doubts["variance"] = finite(answer.variance.tolist(), "predicted variance")
        if answer.members is not None:
            doubts["epistemic"] = finite(epistemic(answer).tolist(), "epistemic variance")
        if answer.features is not None:
            doubts["features"] = answer.features.float().numpy()
        answer = rewards(answer)
    try:
        answer, _ = scores_of(answer, [""] * n)
    except Wrong as wrong:
        raise RunError(f"the reward {wrong}") from wrong
    if silent := sum(one is None for one in answer):
        raise RunError(
            f"the reward gave no number to {silent} of {n} held-out responses: it cannot be measured on them"
        )
    reward = finite([one for one in answer if one is not None], "reward model score")
    if reward.shape != (n,):
        raise RunError(f"{n} responses were given {len(reward)} reward model scores")
    return reward, doubts


def _rewritten(response: Text, rewrite: Rewrite, rng: np.random.Generator) -> Text:
    """The text, or the last message's, rewritten."""
    if isinstance(response, str):
        return rewrite(response, rng)
    return [*response[:-1], {**response[-1], "content": rewrite(response[-1]["content"], rng)}]


def _key(text: Text, columns: Mapping[str, Any] | None = None) -> str:
    plain = text if isinstance(text, str) else repr(text)
    return f"{plain}\0{sorted(columns.items())}" if columns else plain
