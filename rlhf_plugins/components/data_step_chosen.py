"""Steps that keep good rows: the best and most different, those a function accepts, those a classifier finds safe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.on_disk import OnDisk
from rlhf_plugins.contract.run_kinds import DataStep
from rlhf_plugins.data.changes.steps import best, kept, whole, without
from rlhf_plugins.data.fields import content
from rlhf_plugins.data.functions import FunctionPath, check_path, function_at, missing
from rlhf_plugins.errors import DataError, nearest

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data, Group

Over = Annotated[
    Literal["row", "prompt", "best"],
    Field(description="what is judged: prompt and every response, the prompt, or prompt and best response"),
]


@dataclass(frozen=True)
class Diverse(DataStep):
    """Keeps rows that are good and unlike each other: greedily argmax w q_i + (1 - w) (1 - max_j cos(i, j)).

    Maximal marginal relevance (Carbonell and Goldstein 1998, equation 1) with j over the rows chosen before, and the
    cosine of TF-IDF vectors of the rows' words. q_i is the row's place by its rating, from 0, the lowest, to 1; a row
    without one is left out. At w = 0 only difference counts, and no rating is read.
    """

    share: Annotated[float, Field(gt=0, lt=1, description="of the rows, that is kept")] = 0.5
    quality: Annotated[float, Field(ge=0, le=1, description="w, the weight of quality beside difference")] = 0.5
    by: Annotated[
        str | None, Field(description="rating of the best response, or column with a number; null is its mean rating")
    ] = None

    def __post_init__(self) -> None:
        if self.by is not None and not self.quality:
            raise ValueError("by: with `quality: 0` no rating is read; leave one of them out")

    def __call__(self, data: Data, seed: int) -> Data:
        """Raises DataError where no row has the rating."""
        from rlhf_plugins.data.changes.diversity import chosen, ranked, vectors

        rating = [self._rating(group) for group in data.train] if self.quality else [0.0] * len(data.train)
        places = [i for i, value in enumerate(rating) if value is not None]
        if not places:
            raise DataError(f"diverse: no row has {'a rating' if self.by is None else self._unknown(data)}")
        quality = ranked([value for value in rating if value is not None])
        texts = [whole(data.train[i]) for i in places]
        found = chosen(vectors(texts), quality, max(1, round(self.share * len(places))), self.quality)
        taken = {places[i] for i in found}
        unrated = set(range(len(rating))) - set(places)
        reasons = [
            "diverse: no rating" if i in unrated else None if i in taken else "diverse: not chosen"
            for i in range(len(rating))
        ]
        return without(data, reasons)

    def _rating(self, group: Group) -> float | None:
        place = best(group)
        ratings = {name: values[place] for name, values in group.ratings.items() if place is not None}
        if self.by is None:
            given = [value for value in ratings.values() if value is not None]
            return fsum(given) / len(given) if given else None
        value = ratings.get(self.by, group.columns.get(self.by))
        return float(value) if isinstance(value, int | float) else None

    def _unknown(self, data: Data) -> str:
        names = dict.fromkeys(name for group in data.train for name in (*group.ratings, *group.columns))
        return f"a number {self.by!r} {nearest(str(self.by), names)}"


@dataclass(frozen=True)
class Accepted(DataStep):
    """Keeps the rows that a Python function accepts: `FUNCTION(prompt, response) -> bool`, such as a safety filter.

    Prompt and response are text, or messages as the row has them; of a prompt alone the response is None.
    """

    path: FunctionPath
    over: Over = "row"

    def __post_init__(self) -> None:
        check_path(self.path)

    def missing(self) -> dict[str, str]:
        """The function, where it or its file is not there."""
        return missing(self.path)

    def __call__(self, data: Data, seed: int) -> Data:
        """Raises RunError where there is no such function, DataError where it fails or answers anything but a bool."""
        function, name = function_at(self.path, "accepted"), self.path.rpartition(":")[2]

        def refused(group: Group) -> str | None:
            for response in responses(group, self.over):
                try:
                    answer = function(group.prompt, response)
                except Exception as error:  # a user's function may raise anything
                    raise DataError(f"{group.origin}: {self.path}: {type(error).__name__}: {error}") from error
                if not isinstance(answer, bool):
                    raise DataError(f"{group.origin}: {self.path} gave {answer!r}, not True or False")
                if not answer:
                    return f"accepted: not by {name}"
            return None

        return kept(data, refused)


@dataclass(frozen=True)
class Classified(DataStep):
    """Leaves out rows to which a text classifier gives one of some labels, such as `toxic`, as at least so likely.

    The model is one of transformers' sequence classifiers; it reads the response after its prompt, on a new line, and
    of a text that is too long for it the end.
    """

    model: Annotated[str, OnDisk(), Field(min_length=1, description="a folder, or a model of the hub")]
    labels: Annotated[list[str], Field(min_length=1, description="of rows to leave out, as its configuration has them")]
    threshold: Annotated[float, Field(gt=0, le=1, description="least probability of a label")] = 0.5
    over: Over = "row"

    def __call__(self, data: Data, seed: int) -> Data:
        """Raises DataError where it knows no such label, RunError where it does not load."""
        from rlhf_plugins.engine.classifying import open_classifier

        classify = open_classifier(self.model)
        for label in self.labels:
            if label not in classify.labels:
                raise DataError(f"classified: {self.model} has no label {label!r} {nearest(label, classify.labels)}")
        asked = [[_read(group, one) for one in responses(group, self.over)] for group in data.train]
        found = iter(classify([text for texts in asked for text in texts]))
        return without(data, [self._reason([next(found) for _ in texts]) for texts in asked])

    def _reason(self, found: Sequence[dict[str, float]]) -> str | None:
        likely = [label for label in self.labels if any(one[label] >= self.threshold for one in found)]
        return f"classified: {likely[0]}" if likely else None


def responses(group: Group, over: str) -> list[object]:
    """The responses that are judged; None in the place of one where the prompt alone is."""
    place = best(group)
    if over == "prompt" or place is None:
        return [None]
    return list(group.responses) if over == "row" else [group.responses[place]]


def _read(group: Group, response: object) -> str:
    return "\n".join(content(text) for text in (group.prompt, response) if isinstance(text, str | list))


@hookimpl
def register_data_step() -> dict[str, type]:
    """The steps of this file."""
    return {"accepted": Accepted, "classified": Classified, "diverse": Diverse}
