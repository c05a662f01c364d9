"""`rlhf watch shift`: two files of prompts, and with a reward model their responses. Reads, measures, says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_plugins import DataError
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

    @classmethod
    def read(cls, file: Path) -> Texts:
        """JSON lines with `prompt`, and `response` or `chosen`. Raises DataError for a row without a prompt."""
        pairs, names = [], ("response", "chosen")
        rows = [(row["prompt"], row) for row in parsed(file, _with_prompt, "a row should be an object with a `prompt`")]
        for prompt, row in rows:
            pairs += [(prompt, row[name]) for name in names if name in row][:1]
        prompts = [prompt if isinstance(prompt, str) else json.dumps(prompt) for prompt, _ in one_each(rows)]
        return cls(file, prompts, one_each(pairs))


def _with_prompt(row: dict[str, Any]) -> dict[str, Any]:
    row["prompt"]
    return row


def lines(train: Path, deployed: Path, model: str | None, rate: float) -> Iterator[str]:
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
    beyond, count, p = strange(ours, theirs, model, rate)
    yield (
        f"responses: {beyond} of {count}, one of each prompt, are farther than all but {rate:.1%} of the training's "
        f"(p {p:.2g})"
    )
    if p > 0.01:
        yield f"{model} knows responses like these: its rewards may be trusted as far as they may on its held-out data"
    else:
        yield f"{model} was not trained on responses like {beyond / count:.0%} of these: do not trust its rewards there"


def strange(ours: Texts, theirs: Texts, model: str, rate: float) -> tuple[int, int, float]:
    """How many responses are beyond the threshold, of how many, and the p-value. Raises DataError without any."""
    from rlhf_plugins import load_reward_model

    judge = load_reward_model(model)
    features = []
    for texts in (ours, theirs):
        if not texts.pairs:
            raise DataError(f"{texts.file}: no row has a `response` or `chosen`, which a reward model reads")
        found = judge.predict(judge.encode(*map(list, zip(*texts.pairs, strict=True)))).features
        if found is None:
            raise DataError(f"{model}: this reward model gives no features")
        features.append(found.double().cpu().numpy())
    distance = Distance.of(features[0])
    beyond, count = int(np.sum(distance(features[1]) > distance.threshold(rate))), len(features[1])
    return beyond, count, distance.chance(beyond, count, rate)
