"""Rewards that a rule decides, from the response and a column of its prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.run_kinds import Reward
from rlhf_plugins.data.columns import of_prompts
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Group, Samples
    from rlhf_plugins.contract.run import Run
    from rlhf_plugins.contract.run_kinds import RewardFunction

DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?!\d))?"
NUMBER = re.compile(rf"(?:(?<![\w)\]])[-+])?{DECIMAL}(?:\s?/\s?{DECIMAL})?")
FRACTION = re.compile(r"(?P<digit>\d)?\\[dt]?frac\{(?P<above>[^{}]*)\}\{(?P<below>[^{}]*)\}")  # of LaTeX
MINUS = "\N{MINUS SIGN}"
MOST_DIGITS = 400  # of a number that is read
Column = Annotated[str, Field(min_length=1, description="the prompts' column with the right answer")]
Pattern = Annotated[
    str | None,
    Field(
        description="regular expression whose first group is the answer in the response, and whose dot is also a line "
        "break; null is all"
    ),
]


@dataclass(frozen=True)
class _Rule(Reward):
    """1 where the rule holds of a response and 0 where it does not."""

    def build(self, run: Run) -> RewardFunction:
        """A function from B samples to B numbers."""

        def score(samples: Samples) -> Sequence[float | None]:
            pairs = zip(samples.responses, samples.response_ids, strict=True)
            return [float(self.holds(text, len(ids))) for text, ids in pairs]

        return score

    def holds(self, response: str, tokens: int) -> bool:
        """Whether the rule holds."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Answered(Reward):
    """1 where a response gives the answer of its prompt's row, 0 where it does not; it abstains without an answer."""

    column: Column = "answer"
    pattern: Pattern = None

    def __post_init__(self) -> None:
        _compiled(self.pattern or "")

    def reads_columns(self) -> frozenset[str]:
        """The answers."""
        return frozenset({self.column})

    def can_score(self, prompt: Group) -> bool:
        """Whether the row has an answer. Raises RunError for one that cannot be one."""
        answer = prompt.columns.get(self.column)
        return self._of_row(prompt.prompt, "", answer) is not None

    def build(self, run: Run) -> RewardFunction:
        """What it builds raises RunError where the prompts have no such column."""

        def score(samples: Samples) -> Sequence[float | None]:
            rows = zip(samples.prompts, samples.responses, of_prompts(samples, self.column), strict=True)
            return [self._of_row(prompt, text, answer) for prompt, text, answer in rows]

        return score

    def right(self, given: str, answer: str) -> bool:
        """Whether what a response gives is the answer. Raises ValueError for an answer that cannot be one."""
        raise NotImplementedError

    def _of_row(self, prompt: Any, response: str, answer: Any) -> float | None:
        if answer is None or answer == "":
            return None
        try:
            return self._scored(response, _as_text(answer))
        except ValueError as error:
            raise RunError(f"reward: the answer to the prompt {str(prompt)[:60]!r} {error}") from error

    def _scored(self, response: str, answer: str) -> float:
        if self.pattern is None:
            return float(self.right(response, answer))
        found = _compiled(self.pattern).search(response)
        given = "" if found is None else found[min(1, found.re.groups)] or ""
        return float(self.right(given, answer) and found is not None)


@dataclass(frozen=True)
class ExactMatch(_Answered):
    """1 where the response, without white space at its ends, is the answer."""

    ignore_case: bool = False

    def right(self, given: str, answer: str) -> bool:
        """Whether the two texts are equal."""
        a, b = given.strip(), answer.strip()
        return a.casefold() == b.casefold() if self.ignore_case else a == b


@dataclass(frozen=True)
class NumberMatch(_Answered):
    """1 where the last number of the response is the last number of the answer, as GSM8K writes both.

    A number may have an exponent (`2e-5`), or be a fraction of two (`3/4`, also as LaTeX writes it). A comma belongs to
    it before three digits (`1,234`); a hyphen behind a letter, a digit or a bracket is no sign (`3-5`).
    """

    tolerance: Annotated[float, Field(ge=0, description="how far the two may be apart")] = 0.0

    def right(self, given: str, answer: str) -> bool:
        """Whether both have a number, and the same."""
        found, expected = ([_value(number) for number in NUMBER.findall(_plain(text))] for text in (given, answer))
        if not expected or expected[-1] is None:
            raise ValueError(f"is {answer[:40]!r}, which has no number")
        return bool(found) and found[-1] is not None and abs(found[-1] - expected[-1]) <= Fraction(str(self.tolerance))


@dataclass(frozen=True)
class Regex(_Rule):
    """1 where the response matches a regular expression somewhere, or as a whole; a dot is also a line break."""

    pattern: Annotated[str, Field(min_length=1)]
    whole: Annotated[bool, Field(description="the whole response must match")] = False

    def __post_init__(self) -> None:
        _compiled(self.pattern)

    def holds(self, response: str, tokens: int) -> bool:
        """Whether it matches."""
        found = _compiled(self.pattern)
        return (found.fullmatch if self.whole else found.search)(response) is not None


@dataclass(frozen=True)
class Length(_Rule):
    """1 where the response has a number of tokens in a range; its EOS or end of turn counts as one."""

    least: Annotated[int, Field(ge=0)] = 0
    most: Annotated[Annotated[int, Field(ge=1)] | None, Field(description="null is no limit")] = None

    def __post_init__(self) -> None:
        if self.most is not None and self.most < self.least:
            raise ValueError(f"most: {self.most}, which is less than least, {self.least}")

    def holds(self, response: str, tokens: int) -> bool:
        """Whether the number is in the range."""
        return self.least <= tokens and (self.most is None or tokens <= self.most)


@dataclass(frozen=True)
class Tags(_Rule):
    """1 where the response consists of these tags, each once and in order: `<think>...</think><answer>...</answer>`."""

    tags: Annotated[list[str], Field(min_length=1)] = field(default_factory=lambda: ["think", "answer"])

    def holds(self, response: str, tokens: int) -> bool:
        """Whether nothing but white space is between and around them."""
        inner = r"\s*".join(rf"<{re.escape(tag)}>.*?</{re.escape(tag)}>" for tag in self.tags)
        once = all(response.count(f"<{tag}>") == response.count(f"</{tag}>") == 1 for tag in self.tags)
        return once and re.fullmatch(rf"\s*{inner}\s*", response, re.DOTALL) is not None


@dataclass(frozen=True)
class JSONObject(_Rule):
    """1 where the response is a JSON object that has certain fields."""

    required: Annotated[list[str], Field(description="names of fields")] = field(default_factory=list)

    def holds(self, response: str, tokens: int) -> bool:
        """Whether it can be read and has them."""
        try:
            value = json.loads(response, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
        return isinstance(value, dict) and set(self.required) <= value.keys()


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ValueError(f"pattern: {pattern!r} is no regular expression: {error}") from error


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _as_text(answer: Any) -> str:
    """An answer as a response writes it; true and false as JSON does. Raises ValueError for a list or an object."""
    if isinstance(answer, list | tuple | dict):
        raise ValueError(f"should be text or a number, found {type(answer).__name__}")
    return json.dumps(answer) if isinstance(answer, bool) else str(answer)


def _plain(text: str) -> str:
    """The text with a hyphen for a minus sign and a/b for a fraction of LaTeX's, apart from a digit before it."""
    return FRACTION.sub(
        lambda found: f"{found['digit'] or ''}{' ' if found['digit'] else ''}{found['above']}/{found['below']}",
        text.replace(MINUS, "-"),
    )


def _value(number: str) -> Fraction | None:
    """Exact, so that 3/4 is 0.75; None for a division by 0 and for more digits than any answer has."""
    if len(number) > MOST_DIGITS:
        return None
    above, _, below = number.replace(",", "").partition("/")
    divisor = Fraction(below.strip() or 1)
    return Fraction(above.strip()) / divisor if divisor else None


@hookimpl
def register_reward() -> dict[str, type]:
    """The rewards of this file."""
    return {
        "exact_match": ExactMatch,
        "number_match": NumberMatch,
        "regex": Regex,
        "length": Length,
        "tags": Tags,
        "json_object": JSONObject,
    }
