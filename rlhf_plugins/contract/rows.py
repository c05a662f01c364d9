"""Rows of data: prompts, responses and the judgements of people, and the samples of a policy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

if TYPE_CHECKING:
    import numpy as np

Text = str | list[dict[str, Any]]  # plain text, or messages with `role` and `content` (text, or content parts)
LEARNED = "train"  # field of an assistant's message: whether `sft` learns it
Rewrite = Callable[[str, "np.random.Generator"], str]  # a response and a random generator -> the changed response
GoldReward = Callable[[str, str], Mapping[str, float]]  # (prompt, response) -> dimensions and their `total`


@dataclass(frozen=True)
class Comparison:
    """A judgement of two responses of a group, by their places in it."""

    better: int
    worse: int
    tied: bool = False  # then neither is better
    margin: float | None = None  # how much better, in the annotators' unit
    weight: float = 1.0  # how much it counts, such as the annotators' agreement
    probability: float | None = None  # soft label: how likely `better` is better, in [0, 1]; None is certain
    annotator: str | None = None  # who judged

    def __post_init__(self) -> None:
        """Raises DataError for a judgement that nothing can be learned from."""
        if self.better == self.worse:
            _refuse(f"a comparison of response {self.better} with itself")
        if self.probability is not None and not 0 <= self.probability <= 1:
            _refuse(f"probability should be between 0 and 1, got {self.probability}")
        _check_numbers(self.weight, self.margin)


@dataclass(frozen=True)
class Origin:
    """Where a row comes from: a file and its row, or a stage and the rows that it was made from."""

    source: str
    row: int | None = None  # 1-based line or row of the source
    parents: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.source if self.row is None else f"{self.source}:{self.row}"


@dataclass(frozen=True)
class Group:
    """A prompt and its K >= 0 responses: the one record that every data format becomes.

    K = 0 is a prompt, K = 1 a completion (with `label`, a rated one), K >= 2 a pair or a ranking. People may have
    ranked the responses (`ranks[i]` is the place of `responses[i]`, 0 the best, equal ranks tied, None where nobody
    placed it), compared some pairs of them (`compared`, which then is all that is known of pairs), rated them
    (`ratings[dimension][i]`, higher is better, None where missing), or any of these.
    """

    prompt: Text
    responses: tuple[Text, ...] = ()
    ranks: tuple[int | None, ...] | None = None
    margin: float | None = None  # how much better the best of a ranked pair is, in the annotators' unit
    gold: tuple[float, ...] | None = None  # the true rewards, if known
    weight: float = 1.0  # how much the group's ranks count
    compared: tuple[Comparison, ...] | None = None
    ratings: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    topic: str | None = None  # accuracy is reported by topic
    difficulty: float | None = None  # how hard the group is to judge, for a curriculum; higher is harder
    label: bool | None = None  # whether a single response is desirable
    columns: Mapping[str, Any] = field(default_factory=dict)  # further columns of the row, as they were written
    origin: Origin | None = None

    def __post_init__(self) -> None:
        """Raises DataError where a field does not fit the responses."""
        count = len(self.responses)
        each = {"ranks": self.ranks, "gold": self.gold, **{f"ratings of {k!r}": v for k, v in self.ratings.items()}}
        for name, values in each.items():
            if values is not None and len(values) != count:
                _refuse(f"{name} should have {count} values, one per response, got {len(values)}")
        if any(rank is not None and rank < 0 for rank in self.ranks or ()):
            _refuse(f"ranks should be None or at least 0, got {list(self.ranks or ())}")
        for name, values in each.items():
            if any(value is not None and not abs(value) < float("inf") for value in values or ()):
                _refuse(f"{name} should be finite numbers, None where one is missing")
        if wrong := [c for c in self.compared or () if not (0 <= c.better < count and 0 <= c.worse < count)]:
            _refuse(f"a comparison of responses {wrong[0].better} and {wrong[0].worse} of {count}")
        if wrong_type := [text for text in self.responses if not isinstance(text, str | list)]:
            _refuse(f"a response should be text or messages, got {type(wrong_type[0]).__name__}")
        _check_numbers(self.weight, self.margin)

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """`compared`, or every pair that the ranks order or tie."""
        if self.compared is not None or self.ranks is None:
            return self.compared or ()
        placed = [(rank, i) for i, rank in enumerate(self.ranks) if rank is not None]
        both = combinations(sorted(placed), 2)
        return tuple(Comparison(i, j, a == b, self.margin, self.weight) for (a, i), (b, j) in both)

    @property
    def prompt_words(self) -> str:
        """The prompt without case and with single spaces: prompts with the same words are held out together.

        Letters that Unicode can spell in two ways (NFC, NFD) are the same.
        """
        plain = _plain(self.prompt)
        return plain if isinstance(plain, str) else json.dumps(plain)


def _plain(value: Any) -> Any:
    """Every text in it without case and with single spaces."""
    if isinstance(value, str):
        return normalize("NFC", " ".join(value.split()).casefold())
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items() if name != LEARNED}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _check_numbers(weight: float, margin: float | None) -> None:
    if not 0 <= weight < float("inf"):
        _refuse(f"weight should be a finite number of at least 0, got {weight}")
    if margin is not None and not abs(margin) < float("inf"):
        _refuse(f"margin should be a finite number, got {margin}")


def _refuse(message: str) -> None:
    from rlhf_plugins.errors import DataError

    raise DataError(message)


@dataclass(frozen=True)
class Data:
    """What a `data_format` loads or a stage writes: groups to train and test on, prompts, and what was left out."""

    train: tuple[Group, ...]
    test: tuple[Group, ...] = ()
    prompts: Mapping[str, tuple[Group, ...]] = field(
        default_factory=dict
    )  # K = 0, by split: train, test, out_of_distribution
    dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> rows
    gold: GoldReward | None = None
    out_of_distribution: tuple[Group, ...] = ()  # judged groups unlike those of training

    def __post_init__(self) -> None:
        """Raises DataError where a row is no Group: a plugin may have written text."""
        judged = {name: getattr(self, name) for name in ("train", "test", "out_of_distribution")}
        for name, rows in {**judged, **{f"prompts[{split!r}]": rows for split, rows in self.prompts.items()}}.items():
            for row in rows:
                if not isinstance(row, Group):
                    _refuse(f"{name} should hold groups, such as Group(prompt), not {type(row).__name__}")

    @property
    def groups(self) -> tuple[Group, ...]:
        """All groups: to train on, to test on, and out of distribution."""
        return (*self.train, *self.test, *self.out_of_distribution)


FAILED = "failed"  # a column of samples that a server wrote: why a response is empty or cut; None where it is whole
EMPTY, CUT_SHORT, FILTERED = "an empty response", "cut at max_new_tokens", "stopped by a content filter"  # such reasons


@dataclass(frozen=True)
class Samples:
    """B responses that a policy wrote, as text and as the token ids that it really emitted (EOS included)."""

    prompts: Sequence[Text]
    responses: Sequence[str]
    prompt_ids: Sequence[Sequence[int]]
    response_ids: Sequence[Sequence[int]]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # columns of the prompts' rows, of length B
    siblings: Sequence[int] | None = None  # (B,) equal for responses that are compared; None: for those to one prompt

    def __post_init__(self) -> None:
        """Raises DataError where the parts differ in length."""
        parts = {name: getattr(self, name) for name in ("prompts", "prompt_ids", "response_ids")}
        if self.siblings is not None:
            parts["siblings"] = self.siblings
        for name, values in {**parts, **self.columns}.items():
            if len(values) != len(self.responses):
                _refuse(f"{name} should have {len(self.responses)} values, one per response, got {len(values)}")

    def take(self, places: Iterable[int]) -> Samples:
        """The responses at these places, in this order."""
        picked = list(places)

        def some(values: Sequence[Any]) -> list[Any]:
            return [values[i] for i in picked]

        columns = {name: some(values) for name, values in self.columns.items()}
        texts = some(self.prompts), some(self.responses)
        siblings = None if self.siblings is None else some(self.siblings)
        return Samples(*texts, some(self.prompt_ids), some(self.response_ids), columns, siblings)

    def __add__(self, other: Samples) -> Samples:
        """These, then the others; columns that both have. Where either has `siblings`, none is compared across."""
        own = self.groups()
        both = self.columns.keys() & other.columns.keys()
        return Samples(
            [*self.prompts, *other.prompts],
            [*self.responses, *other.responses],
            [*self.prompt_ids, *other.prompt_ids],
            [*self.response_ids, *other.response_ids],
            {name: [*self.columns[name], *other.columns[name]] for name in both},
            None if self.siblings is other.siblings is None else [*own, *(len(own) + one for one in other.groups())],
        )

    def groups(self) -> list[int]:
        """(B,) numbers from 0, equal for responses that are compared with one another.

        Those to one text are, whatever its tokens: where prompt and response merge, a response takes the last of them.
        """
        named = map(repr, self.prompts) if self.siblings is None else map(str, self.siblings)
        numbers: dict[str, int] = {}
        return [numbers.setdefault(name, len(numbers)) for name in named]

    def beside(self, other: Samples) -> Samples:
        """These, then the others: each is compared with the one in its place alone, whatever other rows there are.

        Raises:
            DataError: there are not as many.
        """
        count = len(self.responses)
        if len(other.responses) != count:
            _refuse(f"{count} responses and {len(other.responses)} are no pairs")
        return replace(self + other, siblings=[*range(count), *range(count)])
