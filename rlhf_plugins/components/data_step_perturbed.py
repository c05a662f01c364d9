"""A step that adds pairs whose worse response is a perturbed good one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.rows import Group, Text
from rlhf_plugins.contract.run_kinds import DataStep
from rlhf_plugins.data.changes.perturbations import PERTURBATIONS, Others, names
from rlhf_plugins.data.changes.steps import best, made_of
from rlhf_plugins.data.fields import content, key
from rlhf_plugins.errors import DataError

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data

Kind = Literal["truncated", "wrong_number", "wrong_name", "shuffled_sentences", "spliced"]


@dataclass(frozen=True)
class Perturbed(DataStep, writes={"ranks"}):
    """Adds pairs of a good response and the same made worse: synthetic negatives.

    `truncated` cuts its end, `wrong_number` and `wrong_name` change a fact, `shuffled_sentences` its order, `spliced`
    goes on with a part of another row's. The good response is the one that is preferred, or the only one. The origin of
    an added row says what was done, and its parent is the row that it was made of. Only text is changed: of messages
    the content of a single one.
    """

    kinds: Annotated[list[Kind], Field(min_length=1, description="what is done, each as likely where it can be")] = (
        field(default_factory=lambda: list(PERTURBATIONS))  # type: ignore[arg-type]
    )
    share: Annotated[
        float, Field(gt=0, le=1, description="of the rows with a good response, that a pair is made of")
    ] = 0.5
    weight: Annotated[float, Field(gt=0, description="of an added pair, for losses that read it")] = 1.0

    def __post_init__(self) -> None:
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds: one is there twice in {self.kinds}")

    def __call__(self, data: Data, seed: int) -> Data:
        """Raises DataError where no row can be changed so."""
        rng = np.random.default_rng(seed)
        rows = [group for group in data.train if group.label is not False]  # a response that is not desirable
        good = [(group, group.responses[place]) for group in rows if (place := best(group)) is not None]
        texts = [content(response) for _, response in good]
        others = Others(sorted({name for text in texts for name in names(text)}), sorted(set(texts)))
        drawn = sorted(rng.permutation(len(good))[: max(1, round(self.share * len(good)))].tolist()) if good else []
        made = [self._pair(group, response, others, rng) for group, response in map(good.__getitem__, drawn)]
        pairs = tuple(pair for pair in made if pair is not None)
        if not pairs:
            raise DataError(f"perturbed: no row has a good response that can be {' or '.join(self.kinds)}")
        return replace(data, train=(*data.train, *pairs))

    def _pair(self, group: Group, response: Text, others: Others, rng: np.random.Generator) -> Group | None:
        text = _editable(response)
        if text is None:
            return None
        for kind in rng.permutation(self.kinds).tolist():
            made = PERTURBATIONS[kind](text, others, rng)
            if made is not None and made[0].strip() and key(made[0]) != key(text):
                both = (response, _with(response, made[0]))
                return made_of(group, f"perturbed: {kind} ({made[1]})", both, self.weight)
        return None


def _editable(response: Text) -> str | None:
    """The text that may be changed; None of several messages, or of one that calls tools."""
    if isinstance(response, str):
        return response
    plain = len(response) == 1 and response[0].keys() <= {"role", "content"}
    return str(response[0]["content"]) if plain else None


def _with(response: Text, text: str) -> Text:
    return text if isinstance(response, str) else [{**response[0], "content": text}]


@hookimpl
def register_data_step() -> dict[str, type]:
    """The step of this file."""
    return {"perturbed": Perturbed}
