"""Annotated data from the sandbox: one record, and the pairs, rankings and ratings that are views of it.

Knows who judges and how, not who wrote the responses (a policy, or the sloppy writer through `draft`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_plugins.contract.rows import Group
from rlhf_plugins.errors import DataError
from rlhf_plugins.sandbox.annotators import Annotator
from rlhf_plugins.sandbox.gold import Gold, gold
from rlhf_plugins.sandbox.writer import write


@dataclass(frozen=True)
class AnnotatedGroup:
    """A prompt, its K responses, their gold rewards, and one annotator's judgement."""

    prompt: str
    responses: tuple[str, ...]
    gold: tuple[Gold, ...]
    annotator: Annotator
    utilities: tuple[float, ...]
    impressions: tuple[float, ...]  # noisy utilities; ranks and strengths follow from them
    ranks: tuple[int, ...]  # 0 the best, equal ranks tied
    ratings: tuple[Mapping[str, int], ...]  # 1 to 5 in each dimension

    def strength(self, first: int, second: int) -> int:
        """How strongly one of two responses was preferred: 0 a tie, 1 slightly, and so on."""
        return self.annotator.strength(self.impressions[first] - self.impressions[second])

    def ranking(self) -> Group:
        """All K responses, with their ranks and their ratings in each dimension."""
        truth = tuple(worth.total for worth in self.gold)
        ratings = {name: tuple(float(rated[name]) for rated in self.ratings) for name in self.ratings[0]}
        return Group(self.prompt, self.responses, self.ranks, gold=truth, ratings=ratings)

    def pair(self, first: int, second: int, flipped: bool = False) -> Group:
        """Two of the responses, the preferred one first, or the other if flipped; `margin` is the strength."""
        if (self.impressions[first] < self.impressions[second]) is not flipped:
            first, second = second, first
        strength = self.strength(first, second)
        return Group(
            prompt=self.prompt,
            responses=(self.responses[first], self.responses[second]),
            ranks=(0, int(strength > 0)),
            margin=float(strength),
            gold=(self.gold[first].total, self.gold[second].total),
        )


def draft(prompts: Sequence[str], responses_per_prompt: int, seed: int) -> list[list[str]]:
    """Responses by the sloppy writer: for when no policy is at hand.

    Raises:
        DataError: a prompt is not one of the sandbox's world.
    """
    rng = random.Random(seed)
    return [[write(prompt, rng) for _ in range(responses_per_prompt)] for prompt in prompts]


def annotate(
    prompts: Sequence[str],
    responses: Sequence[Sequence[str]],
    annotators: Sequence[Annotator] = (Annotator(),),
    seed: int = 0,
) -> list[AnnotatedGroup]:
    """One record a prompt, each by an annotator drawn evenly from `annotators`.

    Raises:
        DataError: prompts and responses are not equally many, or there is no annotator.
    """
    if len(prompts) != len(responses):
        raise DataError(f"{len(prompts)} prompts but {len(responses)} lists of responses")
    if not annotators:
        raise DataError("at least one annotator is needed")
    rng = np.random.default_rng(seed)
    return [
        _annotate(prompt, tuple(texts), annotators[int(rng.integers(len(annotators)))], rng)
        for prompt, texts in zip(prompts, responses, strict=True)
    ]


def _annotate(prompt: str, texts: tuple[str, ...], annotator: Annotator, rng: np.random.Generator) -> AnnotatedGroup:
    worths = tuple(gold(prompt, text) for text in texts)
    utilities = tuple(annotator.utility(text, worth) for text, worth in zip(texts, worths, strict=True))
    impressions = annotator.impressions(utilities, rng)
    return AnnotatedGroup(
        prompt=prompt,
        responses=texts,
        gold=worths,
        annotator=annotator,
        utilities=utilities,
        impressions=tuple(impressions.tolist()),
        ranks=annotator.rank(impressions),
        ratings=tuple(annotator.rate(worth, rng) for worth in worths),
    )


def pairs(groups: Sequence[AnnotatedGroup], per_group: int = 1, seed: int = 0) -> list[Group]:
    """Up to `per_group` different random pairs of each group, ties included, equal texts left out; some flipped."""
    rng, wrong = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    drawn = [(group, places) for group in groups for places in _draw(group.responses, per_group, rng)]
    return [group.pair(*places, bool(wrong.random() < group.annotator.flips)) for group, places in drawn]


def _draw(texts: Sequence[str], number: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    places = [(i, j) for j in range(len(texts)) for i in range(j) if texts[i] != texts[j]]
    return [places[at] for at in rng.permutation(len(places))[:number]]
