"""Word problems of arithmetic with known answers, in the manner of GSM8K, and how they are worked.

A problem takes two steps on numbers from 1 to 9, such as 4 + 5 - 2; a pair (form, numbers) is a *cell*, and each cell
is one problem. `train` and `test` are two random parts of the cells of the same forms; `out_of_distribution` has forms
of its own.

A text has an author whose care is drawn from Beta(0.6, 0.2). With probability 1 - care the author guesses the answer,
near the right one, else works it out, and slips in a step with probability `SLIP`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import get_args

from rlhf_plugins.errors import DataError, nearest
from rlhf_plugins.sandbox.world import Split, words

SEED = 31
TEST_SHARE = 0.2
SLIP = 0.05  # of the steps of a careful author
FAR = 3  # a slip and a guess are at most so far from the truth
LARGEST = 30

NAMES = ("ada", "ben", "eva", "ida", "leo", "max", "mia", "tom")
THINGS = ("apples", "books", "coins", "eggs", "pens", "shells")
# text and the operators between its numbers, worked from left to right
_FORMS = (
    ("{name} has {a} {thing} and buys {b} more. then {name} loses {c}. how many {thing} does {name} have now?", "+-"),
    ("{name} had {a} {thing} and lost {b}. then {name} found {c} more. how many {thing} does {name} have now?", "-+"),
    ("there are {a} {thing} in a box, {b} {thing} in a bag, and {c} more. how many {thing} does {name} see?", "++"),
)
_OOD_FORMS = (
    ("how many {thing} are {a} and {b} without {c}, asks {name}?", "+-"),
    ("{name} sees {a} {thing}, then {b} more, then {c} more. how many {thing} are there now?", "++"),
)


@dataclass(frozen=True)
class Problem:
    """A question, ending with a newline, and the sum that it asks for."""

    prompt: str
    numbers: tuple[int, ...]
    operators: str

    @property
    def results(self) -> tuple[int, ...]:
        """The right result of each step; the last one is the answer."""
        found = [self.numbers[0]]
        for operator, number in zip(self.operators, self.numbers[1:], strict=True):
            found.append(_apply(operator, found[-1], number))
        return tuple(found[1:])

    @property
    def answer(self) -> int:
        """The right answer."""
        return self.results[-1]

    def worked(self, slips: tuple[int, ...] = (0, 0)) -> str:
        """The steps and the answer: `4 + 5 = 9. 9 - 2 = 7. the answer is 7.`, each result off by its slip."""
        sentences, so_far = [], self.numbers[0]
        for operator, number, slip in zip(self.operators, self.numbers[1:], slips, strict=True):
            result = _near(_apply(operator, so_far, number), slip)
            sentences.append(f"{so_far} {operator} {number} = {result}.")
            so_far = result
        return " ".join((*sentences, _said(so_far)))


def problems(split: str) -> tuple[Problem, ...]:
    """All problems of a split, in one fixed shuffled order.

    Raises:
        DataError: there is no such split.
    """
    if split not in get_args(Split):
        raise DataError(f"no split {split!r} of the sandbox's arithmetic {nearest(split, get_args(Split))}")
    return tuple(problem for problem, place in _catalogue() if place == split)


def attempt(problem: Problem, rng: random.Random, care: float | None = None) -> str:
    """A response by an author of the given care in [0, 1] (None draws one)."""
    if rng.random() >= (rng.betavariate(0.6, 0.2) if care is None else care):
        return _said(_near(problem.answer, rng.randint(-FAR, FAR)))
    first, second = (_slip(rng) for _ in range(2))
    return problem.worked((first, second))


def draw(rng: random.Random, care: float | None = None) -> tuple[str, str]:
    """A problem of any split but `test` and an attempt at it: what the policy is pretrained on."""
    problem = rng.choice(_written_about())
    return problem.prompt, attempt(problem, rng, care)


def vocabulary() -> tuple[str, ...]:
    """Every word, number and mark of all problems and attempts, sorted."""
    texts = [text for text, _ in (*_FORMS, *_OOD_FORMS)]
    slots = {word for text in texts for word in words(re.sub(r"\{\w+\}", " ", text))}
    numbers = map(str, range(LARGEST + 1))
    return tuple(sorted({*slots, *NAMES, *THINGS, *numbers, *words(_said(0)), *"+-="}))


def _apply(operator: str, first: int, second: int) -> int:
    return first + second if operator == "+" else first - second


def _near(number: int, by: int) -> int:
    return min(max(number + by, 0), LARGEST)


def _slip(rng: random.Random) -> int:
    return rng.choice((-1, 1)) * rng.randint(1, FAR) if rng.random() < SLIP else 0


def _said(answer: int) -> str:
    return f"the answer is {answer}."


@cache
def _written_about() -> tuple[Problem, ...]:
    return (*problems("train"), *problems("out_of_distribution"))


@cache
def _catalogue() -> tuple[tuple[Problem, Split], ...]:
    rng = random.Random(SEED)
    rows = list(_placed(rng))
    rng.shuffle(rows)
    return tuple(rows)


def _placed(rng: random.Random) -> Iterator[tuple[Problem, Split]]:
    for text, operators in (*_FORMS, *_OOD_FORMS):
        for a, b, c in product(range(1, 10), repeat=3):
            asked = text.format(a=a, b=b, c=c, name=rng.choice(NAMES), thing=rng.choice(THINGS)) + "\n"
            problem = Problem(asked, (a, b, c), operators)
            if min(problem.results) < 0:
                continue
            strange = (text, operators) in _OOD_FORMS
            yield problem, "out_of_distribution" if strange else "test" if rng.random() < TEST_SHARE else "train"
