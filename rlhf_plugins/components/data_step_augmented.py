"""A step that adds rows in other words: the same judgement of responses with synonyms from a list."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.on_disk import OnDisk
from rlhf_plugins.contract.rows import Group, Origin, Text
from rlhf_plugins.contract.run_kinds import DataStep
from rlhf_plugins.data.files import read_json
from rlhf_plugins.errors import DataError

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Synonyms(DataStep):
    """Adds copies of rows whose responses have some words replaced by synonyms: what people said of them still holds.

    The list is a JSON file, `{"big": ["large", "huge"]}`, in small letters; a word's own capital stays. Only text and
    the contents of messages change. The origin of a copy has the row that it was made of as its parent.
    """

    file: Annotated[str, OnDisk(), Field(min_length=1, description="the list, as JSON: a word and its synonyms")]
    share: Annotated[float, Field(gt=0, le=1, description="of the rows, that is copied")] = 0.5
    rate: Annotated[float, Field(gt=0, le=1, description="of the words with synonyms, that is replaced")] = 0.5

    def missing(self) -> dict[str, str]:
        """The file, where it is not there."""
        return {} if Path(self.file).is_file() else {"file": f"there is no file {self.file!r}"}

    def __call__(self, data: Data, seed: int) -> Data:
        """Raises DataError where the file is no such list, or no row has a word of it."""
        words, rng = _read(self.file), np.random.default_rng(seed)
        count = max(1, round(self.share * len(data.train)))
        drawn = sorted(rng.permutation(len(data.train))[:count].tolist())
        made = [self._copy(data.train[i], words, rng) for i in drawn]
        copies = tuple(copy for copy in made if copy is not None)
        if not copies:
            raise DataError(f"{self.file}: no response that was drawn has a word of the list")
        return replace(data, train=(*data.train, *copies))

    def _copy(self, group: Group, words: Mapping[str, Sequence[str]], rng: np.random.Generator) -> Group | None:
        responses = tuple(self._changed(response, words, rng) for response in group.responses)
        if responses == group.responses or len(set(map(str, responses))) < len(responses):
            return None
        parents = (str(group.origin),) if group.origin else ()
        return replace(group, responses=responses, gold=None, origin=Origin("synonyms", parents=parents))

    def _changed(self, text: Text, words: Mapping[str, Sequence[str]], rng: np.random.Generator) -> Text:
        def other(found: re.Match[str]) -> str:
            word = found.group()
            choices = words.get(word.lower(), ())
            if not choices or rng.random() >= self.rate:
                return word
            new = choices[int(rng.integers(len(choices)))]
            return new[:1].upper() + new[1:] if word[0].isupper() else new

        if isinstance(text, str):
            return WORD.sub(other, text)
        return [{**one, "content": WORD.sub(other, one["content"])} for one in text]


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
    """The step of this file."""
    return {"synonyms": Synonyms}
