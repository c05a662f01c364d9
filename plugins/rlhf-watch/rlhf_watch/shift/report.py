"""`rlhf watch shift`: two files of prompts, and with a reward model their responses. Reads, measures, says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from rlhf_plugins import DataError, wilson_interval
from rlhf_watch.groups.fairness import wins
from rlhf_watch.groups.reading import accuracies, by_prompt, table, worse
from rlhf_watch.rows import parsed
from rlhf_watch.shift.distance import Distance
from rlhf_watch.shift.two_sample import classifier_test
from rlhf_watch.shift.units import one_each


@dataclass(frozen=True)
class Texts:
    """The rows of a file, one of each conversation."""

    file: Path
    prompts: list[str]
    pairs: list[tuple[Any, Any]]  # a prompt and a response, of rows that have both
    judged: list[dict[str, Any]]  # all rows with a chosen and a rejected response

    @classmethod
    def read(cls, file: Path) -> Texts:
        """JSON lines with `prompt`, and `response` or `chosen`. Raises DataError for a row without a prompt."""
        pairs, names = [], ("response", "chosen")
        rows = [(row["prompt"], row) for row in parsed(file, _with_prompt, "a row should be an object with a `prompt`")]
        for prompt, row in rows:
            pairs += [(prompt, row[name]) for name in names if name in row][:1]
        prompts = [_words(prompt) for prompt, _ in one_each(rows)]
        judged = [row for _, row in rows if {"chosen", "rejected"} <= row.keys()]
        return cls(file, prompts, one_each(pairs), judged)


def _words(prompt: Any) -> str:
    """What is said in a prompt, so that messages and text with the same words are alike."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, dict):
        said = prompt["content"] if "content" in prompt else prompt.get("text", "")
        return _words(said) if said else ""
    return "\n".join(map(_words, prompt)) if isinstance(prompt, list) else json.dumps(prompt)


def _with_prompt(row: dict[str, Any]) -> dict[str, Any]:
    row["prompt"]
    return row


def lines(train: Path, deployed: Path, model: str | None, rate: float, topic: str = "topic") -> Iterator[str]:
    """What is known, and a sentence on what follows from it."""
    ours, theirs = Texts.read(train), Texts.read(deployed)
    test = classifier_test(ours.prompts, theirs.prompts)
    yield (
        f"prompts: a classifier tells {test.accuracy:.1%} of {test.texts} held-out prompts apart, where 50% is chance "
        f"(p {test.p:.2g})"
    )
    alike = test.p > 0.01
    if not alike:
        yield f"words that mark {deployed}: {', '.join(test.words)}"
    if model is None:
        yield "the prompts are alike as far as this test can tell" if alike else f"{deployed}: other prompts"
        return
    from rlhf_plugins import load_reward_model

    judge = load_reward_model(model)
    beyond, count, p = strange(ours, theirs, judge, rate)
    yield (
        f"responses: {beyond} of {count}, one of each prompt, are farther than all but {rate:.1%} of the training's "
        f"(p {p:.2g})"
    )
    yield from by_topic(theirs, judge, topic)
    if p > 0.01:
        yield f"{model} knows responses like these: its rewards may be trusted as far as they may on its held-out data"
    else:
        yield f"{model} was not trained on responses like {beyond / count:.0%} of these: do not trust its rewards there"


def strange(ours: Texts, theirs: Texts, judge: Any, rate: float) -> tuple[int, int, float]:
    """How many responses are beyond the threshold, of how many, and the p-value. Raises DataError without any."""
    features = []
    for texts in (ours, theirs):
        if not texts.pairs:
            raise DataError(f"{texts.file}: no row has a `response` or `chosen`, which a reward model reads")
        found = judge.predict(judge.encode(*map(list, zip(*texts.pairs, strict=True)))).features
        if found is None:
            raise DataError("this reward model gives no features, by which responses are compared")
        features.append(found.double().cpu().numpy())
    distance = Distance.of(features[0])
    beyond, count = int(np.sum(distance(features[1]) > distance.threshold(rate))), len(features[1])
    return beyond, count, distance.chance(beyond, count, rate)


def by_topic(texts: Texts, judge: Any, column: str) -> Iterator[str]:
    """The reward model's accuracy by topic where people judged pairs of the file; else what it needs."""
    rows = [row for row in texts.judged if row.get(column) is not None]
    if not rows:
        needs = f"rows with `chosen` and `rejected`, as people judged them, and a column {column!r}, or another `--by`"
        yield f"accuracy by {column}: not known; it needs {needs}"
        return
    prompts = [row["prompt"] for row in rows]
    chosen, rejected = (judge.encode(prompts, [row[name] for row in rows]) for name in ("chosen", "rejected"))
    pairs = judge.predict(chosen.beside(rejected)).reward.view(2, -1).T.tolist()
    scored = [{**row, "rewards": pair} for row, pair in zip(rows, pairs, strict=True)]
    topics = {str(row[column]) for row in rows}
    if len(topics) == 1:
        units = by_prompt(scored, column)
        right = fmean(fmean(wins([row["rewards"] for row in of])) for _, of in units)
        low, high = wilson_interval(right, len(units))
        yield f"accuracy: {right:.3f} [{low:.3f}, {high:.3f}], {len(units)} prompts, all of {column} {topics.pop()}"
        return
    found = accuracies(scored, column)
    yield from table(f"accuracy by {column}", found, "prompts")
    yield worse(found)
