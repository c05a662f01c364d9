"""The sandbox's questions with judged answers. It names their options; writers and annotators are the sandbox's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.rows import Data, Group, Origin
from rlhf_plugins.contract.run_kinds import DataFormat
from rlhf_plugins.errors import DataError
from rlhf_plugins.sandbox import Annotator, annotate, draft, gold, prompts
from rlhf_plugins.sandbox import pairs as draw_pairs

if TYPE_CHECKING:
    from rlhf_plugins.contract.run import Base


@dataclass(frozen=True)
class Sandbox(DataFormat):
    """Responses to the sandbox's prompts, judged by a simulated annotator.

    An annotator judges pairs of a prompt's responses or, where `pairs` is null, ranks and rates all of them at once.
    `annotator.flips` is a share of pairs, so that rankings have none.
    """

    prompts: Annotated[int, Field(ge=1, description="training prompts")] = 1000
    test_prompts: Annotated[int, Field(ge=1, description="held-out prompts of each kind")] = 256
    responses: Annotated[int, Field(ge=2, description="K, responses to a prompt")] = 4
    pairs: Annotated[
        Annotated[int, Field(ge=1)] | None, Field(description="pairs of each prompt's responses that are judged")
    ] = 3
    ties: Annotated[bool, Field(description="keep tied pairs, for losses that take them")] = False
    writer: Annotated[
        Literal["base", "sloppy"], Field(description="who writes: the base model, or the sandbox's own sloppy writer")
    ] = "base"
    temperature: Annotated[float, Field(gt=0, description="of what the base model writes")] = 1.0
    annotator: Annotator = Annotator()
    turns: Annotated[
        int, Field(ge=1, description="most questions of a prompt; the earlier ones are answered by the sloppy writer")
    ] = 1

    def __post_init__(self) -> None:
        if self.pairs is None and self.annotator.flips:
            raise ValueError("annotator.flips: it flips pairs, and `pairs: null` gives rankings")
        if self.writer == "sloppy" and self.temperature != 1:
            raise ValueError("temperature: the sloppy writer has none")

    def load(self, base: Base, seed: int) -> Data:
        """Everything follows from the base's weights, the options and the seed."""
        counts = {"train": self.prompts, "test": self.test_prompts, "out_of_distribution": self.test_prompts}
        names = {split: self._asked(split, count, seed) for split, count in counts.items()}
        judged = [self._judge(base, asked, seed + i) for i, asked in enumerate(names.values())]
        asked = {split: tuple(Group(prompt) for prompt in texts) for split, texts in names.items()}
        dropped = {"tie": 0 if self.ties else sum(_tied(g) for split in judged for g in split)}
        train, test, strange = (tuple(g for g in split if self.ties or not _tied(g)) for split in judged)
        return Data(train, test, asked, dropped, _gold, strange)

    def at_hand(self) -> bool:
        """Only where no model writes."""
        return self.writer != "base"

    def known_gold(self) -> bool:
        """The sandbox's own."""
        return True

    def known_columns(self) -> frozenset[str]:
        """Strengths of preference as margins, or all ratings; ties where the annotator makes any and they are kept."""
        ties = {"ties"} if self.annotator.tie_margin and (self.ties or self.pairs is None) else set()
        return frozenset({"ranks", "ratings" if self.pairs is None else "margin"} | ties)

    def known_rows(self) -> int:
        """Pairs or rankings, before ties are left out."""
        return self.prompts * (self.pairs or 1)

    def _asked(self, split: str, count: int, seed: int) -> tuple[str, ...]:
        """The first prompts of a split, each behind the earlier turns of its conversation."""
        from rlhf_plugins.sandbox.reader import with_history

        asked = _first(split, count)
        return asked if self.turns == 1 else tuple(with_history(prompt, self.turns, seed) for prompt in asked)

    def _judge(self, base: Base, asked: Sequence[str], seed: int) -> list[Group]:
        written = self._sampled(base, asked, seed) if self.writer == "base" else draft(asked, self.responses, seed)
        groups = annotate(asked, written, [self.annotator], seed)
        found = [g.ranking() for g in groups] if self.pairs is None else draw_pairs(groups, self.pairs, seed)
        return [replace(group, origin=Origin("sandbox", row)) for row, group in enumerate(found, 1)]

    def _sampled(self, base: Base, asked: Sequence[str], seed: int) -> list[list[str]]:
        from rlhf_plugins.engine.sampling import Decoding, sample
        from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer

        k = self.responses
        samples = sample(
            load_causal(base), load_tokenizer(base), asked, k, Decoding(temperature=self.temperature, seed=seed)
        )
        return [list(samples.responses[i * k : (i + 1) * k]) for i in range(len(asked))]


def _tied(group: Group) -> bool:
    return group.ranks == (0, 0)


def _first(split: str, count: int) -> tuple[str, ...]:
    known = prompts(split)
    if count > len(known):
        raise DataError(f"the sandbox has {len(known)} {split} prompts, {count} were asked for")
    return known[:count]


def _gold(prompt: str, response: str) -> Mapping[str, float]:
    worth = gold(prompt, response)
    return {**vars(worth), "total": worth.total}


@hookimpl
def register_data_format() -> dict[str, type]:
    """The format of this file."""
    return {"sandbox": Sandbox}
