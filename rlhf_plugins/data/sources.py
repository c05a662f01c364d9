"""The options that formats share: the source of the rows, what is held out, and the names of columns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from rlhf_plugins.contract.on_disk import OnDisk

Column = Annotated[str, Field(min_length=1)]
PLACE = re.compile(r"\[\d*\]")  # in a path to a column
RESPONSES = ("response", "responses", "chosen", "rejected", "response_a", "response_b")  # columns of the formats below


@dataclass(frozen=True)
class Sources:
    """The source of the rows, and which of them are held out."""

    source: Annotated[
        str,
        OnDisk(),
        Field(
            min_length=1, description="a JSON lines, JSON, CSV, Parquet or Arrow file, a folder, or a name on the hub"
        ),
    ]
    split: Annotated[str, Field(description="to train on, of a hub data set or of a folder; a file has none")] = "train"
    test_source: Annotated[
        str | None, OnDisk(), Field(min_length=1, description="held-out rows; without it they are chosen by hash")
    ] = None
    test_fraction: Annotated[float, Field(gt=0, lt=1, description="share of prompts or topics held out")] = 0.1
    hold_out: Annotated[
        Literal["prompt", "topic"] | dict[Literal["topic"], Annotated[list[str], Field(min_length=1)]],
        Field(
            description="what is held out whole: prompts, or topics with their prompts; {topic: [NAMES]} keeps these "
            "topics apart as out of distribution, and holds out prompts of the others"
        ),
    ] = "prompt"
    out_of_distribution: Annotated[
        str | None, OnDisk(), Field(min_length=1, description="rows unlike those of training, which are measured apart")
    ] = None
    as_messages: Annotated[
        bool,
        Field(description="text becomes messages, of the user and the assistant, so that the chat template renders it"),
    ] = False


@dataclass(frozen=True)
class PairSources(Sources):
    """`Sources` whose rows are pairs, which may be put together again by prompt."""

    group_prompts: Annotated[
        bool, Field(description="one group per prompt: a response in several pairs is computed once")
    ] = False
    max_responses: Annotated[
        int | None,
        Field(ge=2, description="most responses of such a group; a larger one is cut into blocks that keep every pair"),
    ] = None


@dataclass(frozen=True)
class Columns:
    """Columns that any format may have. `null` reads none; one of another name than the default must be there."""

    prompt: Column = "prompt"
    weight: Annotated[str | None, Field(description="how much a row counts, 0 or more")] = "weight"
    topic: Annotated[str | None, Field(description="accuracy is reported by it; it may be held out whole")] = "topic"
    difficulty: Annotated[str | None, Field(description="how hard a row is to judge")] = "difficulty"
    keep: Annotated[
        list[str] | None,
        Field(description="further columns that rows keep, for rewards, heads and losses; null is all"),
    ] = None

    def __post_init__(self) -> None:
        """Raises ValueError where the prompt is read from a column of responses."""
        for name in RESPONSES:
            column = getattr(self, name, None)
            if column is not None and PLACE.sub("[]", column) == PLACE.sub("[]", self.prompt):
                raise ValueError(f"prompt and {name} are both {column!r}, so that the prompt would be the answer")


@dataclass(frozen=True)
class SupervisedColumns(Columns):
    """Columns of one response and what is known of it."""

    response: Annotated[
        str | None, Field(description="null takes completion, output or response, or the last turn of a conversation")
    ] = None
    label: Annotated[str | None, Field(description="whether the response is desirable, true or false")] = "label"


@dataclass(frozen=True)
class PairColumns(Columns):
    """Columns of pairs; the defaults are TRL's."""

    chosen: Column = "chosen"
    rejected: Column = "rejected"
    margin: Annotated[str | None, Field(description="how much better the chosen one is")] = "margin"
    probability: Annotated[str | None, Field(description="soft label: how likely the chosen one is better, 0 to 1")] = (
        "probability"
    )
    annotator: Annotated[str | None, Field(description="who judges")] = "annotator"


@dataclass(frozen=True)
class ComparisonColumns(Columns):
    """Columns of two responses and the judgements of one or several annotators."""

    response_a: Column = "response_a"
    response_b: Column = "response_b"
    label: Annotated[str, Field(description="a word for a, b or a tie; of a row or of each annotation")] = "label"
    strength: Annotated[str, Field(description="number in favour of a, 0 a tie; of a row or of each annotation")] = (
        "strength_a_minus_b"
    )
    probability: Annotated[
        str | None,
        Field(description="soft label, in place of a label: how likely a is better, 0 to 1; of a row or an annotation"),
    ] = "probability"
    annotations: Annotated[str | None, Field(description="list of annotations with label, strength or probability")] = (
        "annotations"
    )
    annotator: Annotated[
        str | None, Field(description="who judges; rows of one pair by several annotators are put together")
    ] = "annotator"


@dataclass(frozen=True)
class RatingColumns(Columns):
    """Columns of rated responses: one `response` a row, or a list of `responses`."""

    response: Column = "response"
    responses: Column = "responses"
    text: Annotated[str, Field(description="field of an element of the list that holds its text")] = "text"


@dataclass(frozen=True)
class RankingColumns(Columns):
    """Columns of ranked responses; a row has one of the last three."""

    responses: Column = "responses"
    text: Annotated[str, Field(description="field of an element of the list that holds its text")] = "text"
    ranking: Annotated[str | None, Field(description="numbers of the responses from 0, best first")] = "ranking"
    ranks: Annotated[
        str | None, Field(description="place of each response, the lowest best, equal ones tied, null not placed")
    ] = "ranks"
    pairwise: Annotated[
        str | None,
        Field(
            description="list of {i, j, winner}, winner null for a tie; margin, weight, probability, annotator if known"
        ),
    ] = "pairwise"


Verdict = Literal["a", "b", "tie"]
Words = Annotated[
    dict[Annotated[str, BeforeValidator(lambda word: str(word) if isinstance(word, int) else word)], Verdict],
    Field(min_length=1, description="what each word or number of a label means"),
]


def words() -> dict[str, Verdict]:
    """The default words of a label."""
    return {
        "a": "a",
        "a1": "a",
        "model_a": "a",
        "response_a": "a",
        "model_1": "a",
        "response_1": "a",
        "b": "b",
        "a2": "b",
        "model_b": "b",
        "response_b": "b",
        "model_2": "b",
        "response_2": "b",
        "tie": "tie",
        "equal": "tie",
        "tie (bothbad)": "tie",
        "both bad": "tie",
        "both_bad": "tie",
        "bothbad": "tie",
    }


Dimensions = Annotated[
    list[str] | dict[str, str],
    Field(
        min_length=1,
        description="ratings by name, or by name and dotted path, such as {overall: reviews.overall}; a path through "
        "a list is averaged",
    ),
]


def score() -> list[str]:
    """The one dimension of a rating that has no other name."""
    return ["score"]
