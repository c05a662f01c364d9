"""Steps that add rows which say the same: synonyms from a list, another style, sentences in another order.

A copy keeps what people judged, since only what does not change the meaning is done to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.on_disk import OnDisk
from rlhf_plugins.contract.rows import Group, Text
from rlhf_plugins.contract.run_kinds import DataStep
from rlhf_plugins.data.changes.restyled import STYLES, reordered
from rlhf_plugins.data.changes.steps import made_from
from rlhf_plugins.data.files import read_json
from rlhf_plugins.errors import DataError

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data

Copy = Callable[[Group, np.random.Generator], Group | None]  # None where a row cannot be copied so
WORD = re.compile(r"\w+")
Share = Annotated[float, Field(gt=0, le=1, description="of the rows, that is copied where it can be")]


@dataclass(frozen=True)
class Synonyms(DataStep):
    """Adds copies of rows whose responses have some words replaced by synonyms: what people said of them still holds.

    The list is a JSON file, `{"big": ["large", "huge"]}`, in small letters; a word's own capital stays. Only text and
    the contents of messages change. The origin of a copy has the row that it was made of as its parent.
    """

    file: Annotated[str, OnDisk(), Field(min_length=1, description="the list, as JSON: a word and its synonyms")]
    share: Share = 0.5
    rate: Annotated[float, Field(gt=0, le=1, description="of the words with synonyms, that is replaced")] = 0.5

    def missing(self) -> dict[str, str]:
        """The file, where it is not there."""
        return {} if Path(self.file).is_file() else {"file": f"there is no file {self.file!r}"}

    def __call__(self, data: Data, seed: int) -> Data:
        """Raises DataError where the file is no such list, or no row has a word of it."""
        words = _read(self.file)

        def copy(group: Group, rng: np.random.Generator) -> Group | None:
            texts = [_changed(response, lambda text: self._replaced(text, words, rng)) for response in group.responses]
            return _copied(group, "synonyms", texts)

        return _with_copies(
            data, self.share, seed, copy, f"{self.file}: no response that was drawn has a word of the list"
        )

    def _replaced(self, text: str, words: Mapping[str, Sequence[str]], rng: np.random.Generator) -> str:
        def other(found: re.Match[str]) -> str:
            word = found.group()
            choices = words.get(word.lower(), ())
            if not choices or rng.random() >= self.rate:
                return word
            new = choices[int(rng.integers(len(choices)))]
            return new[:1].upper() + new[1:] if word[0].isupper() else new

        return WORD.sub(other, text)


@dataclass(frozen=True)
class Restyled(DataStep):
    """Adds copies of rows whose responses are all written in another style: the content stays, so judgements hold.

    `bullets` and `lines` write each sentence of a paragraph as an item or on a line of its own, `plain` leaves out the
    marks of Markdown, `contracted` and `expanded` write `not` as `n't` and back. A copy has one style, which changes
    each of its responses, so that none is preferred for it. Text with code is left.
    """

    styles: Annotated[
        list[Literal["bullets", "contracted", "expanded", "lines", "plain"]],
        Field(min_length=1, description="each as likely where it changes every response"),
    ] = field(default_factory=lambda: list(STYLES))  # type: ignore[arg-type]
    share: Share = 0.5

    def __post_init__(self) -> None:
        if len(set(self.styles)) < len(self.styles):
            raise ValueError(f"styles: one is there twice in {self.styles}")

    def __call__(self, data: Data, seed: int) -> Data:
        """Raises DataError where no style changes every response of a row that was drawn."""

        def copy(group: Group, rng: np.random.Generator) -> Group | None:
            for style in rng.permutation(self.styles).tolist():
                texts = [_changed(response, STYLES[style]) for response in group.responses]
                if not any(new == old for new, old in zip(texts, group.responses, strict=True)):
                    return _copied(group, f"restyled: {style}", texts)
            return None

        none = f"restyled: no row that was drawn can be {' or '.join(self.styles)}"
        return _with_copies(data, self.share, seed, copy, none)


@dataclass(frozen=True)
class Reordered(DataStep):
    """Adds copies of rows with the sentences of responses in another order, where that does not change the meaning.

    It is done to a response of one paragraph whose sentences do not refer to each other: none has a pronoun of the
    third person or begins with a connective, such as `then` or `however`. Other responses stay; a row of which no
    response changes is not copied. `perturbed` makes the order worse on purpose.
    """

    share: Share = 0.5

    def __call__(self, data: Data, seed: int) -> Data:
        """Raises DataError where no response of a row that was drawn can be reordered."""

        def copy(group: Group, rng: np.random.Generator) -> Group | None:
            texts = [_changed(response, lambda text: reordered(text, rng)) for response in group.responses]
            return _copied(group, "reordered", texts)

        none = "reordered: no response that was drawn has sentences that do not refer to each other"
        return _with_copies(data, self.share, seed, copy, none)


def _with_copies(data: Data, share: float, seed: int, copy: Copy, none: str) -> Data:
    """The data with copies of a share of its rows. Raises DataError, with the words `none`, where there are none."""
    rng = np.random.default_rng(seed)
    count = max(1, round(share * len(data.train)))
    drawn = sorted(rng.permutation(len(data.train))[:count].tolist())
    made = [copy(data.train[i], rng) for i in drawn]
    copies = tuple(one for one in made if one is not None)
    if not copies:
        raise DataError(none)
    return replace(data, train=(*data.train, *copies))


def _copied(group: Group, step: str, responses: Sequence[Text]) -> Group | None:
    """The row with other responses; None where none is another, or two became equal."""
    texts = tuple(responses)
    if texts == group.responses or len(set(map(str, texts))) < len(texts):
        return None
    return replace(group, responses=texts, gold=None, origin=made_from(group, step))


def _changed(text: Text, rewrite: Callable[[str], str | None]) -> Text:
    """A text, or the contents of messages, rewritten where it can be."""
    if isinstance(text, str):
        return rewrite(text) or text
    return [{**one, "content": rewrite(one["content"]) or one["content"]} for one in text]


def _read(file: str) -> dict[str, list[str]]:
    try:
        found = read_json(Path(file))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict) or not all(
        isinstance(each, list) and each and all(isinstance(one, str) and one for one in each) for each in found.values()
    ):
        raise DataError(f'{file}: should be words with lists of synonyms, such as {{"big": ["large"]}}')
    return found


@hookimpl
def register_data_step() -> dict[str, type]:
    """The steps of this file."""
    return {"reordered": Reordered, "restyled": Restyled, "synonyms": Synonyms}
