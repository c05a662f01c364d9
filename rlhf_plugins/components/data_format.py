"""Where preferences come from. It names sources and their options; reading and checking is `data`'s."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rlhf_plugins.errors import DataError
from rlhf_plugins.hookspecs import hookimpl
from rlhf_plugins.interfaces import PreferenceData
from rlhf_plugins.sandbox import Annotator, annotate, gold, prompts
from rlhf_plugins.sandbox import pairs as draw_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rlhf_plugins.interfaces import Base, Group


@dataclass(frozen=True)
class Preference:
    """Pairs with TRL's columns `chosen`, `rejected`, and optionally `prompt` and `margin`; text or messages."""

    source: Annotated[
        str, Field(min_length=1, description="a JSON lines, CSV or Parquet file, or a data set's name on the hub")
    ]
    split: Annotated[str, Field(description="the hub data set's split to train on")] = "train"
    test_source: Annotated[
        str | None, Field(min_length=1, description="held-out pairs; without it prompts are split by hash")
    ] = None
    test_fraction: Annotated[float, Field(gt=0, lt=1, description="share of prompts held out")] = 0.1

    def load(self, base: Base, seed: int) -> PreferenceData:
        """Raises DataError naming the file and line."""
        from rlhf_plugins.data.preference import load_preferences

        return load_preferences(self.source, self.split, self.test_source, self.test_fraction, seed)


@dataclass(frozen=True)
class Sandbox:
    """Responses that the base model writes to the sandbox's prompts, judged by a simulated annotator."""

    prompts: Annotated[int, Field(ge=1, description="training prompts")] = 1000
    test_prompts: Annotated[int, Field(ge=1, description="held-out prompts of each kind")] = 256
    responses: Annotated[int, Field(ge=2, description="K, responses to a prompt")] = 4
    pairs: Annotated[int, Field(ge=1, description="pairs of each prompt's responses that are judged")] = 3
    annotator: Annotator = Annotator()

    def load(self, base: Base, seed: int) -> PreferenceData:
        """Everything follows from the base's weights, the options and the seed."""
        train, test, strange = (
            _first(split, count)
            for split, count in (
                ("train", self.prompts),
                ("test", self.test_prompts),
                ("out_of_distribution", self.test_prompts),
            )
        )
        judged = [self._judge(base, split, seed + i) for i, split in enumerate((train, test))]
        dropped = {"tie": sum(g.ranks == (0, 0) for split in judged for g in split)}
        decided = [tuple(g for g in split if g.ranks != (0, 0)) for split in judged]
        names = {"train": tuple(train), "test": tuple(test), "out_of_distribution": tuple(strange)}
        return PreferenceData(decided[0], decided[1], names, dropped, _gold)

    def _judge(self, base: Base, split: Sequence[str], seed: int) -> list[Group]:
        from rlhf_plugins.models.loading import load_causal, load_tokenizer
        from rlhf_plugins.models.sampling import Decoding, sample

        samples = sample(load_causal(base), load_tokenizer(base), split, self.responses, Decoding(seed=seed))
        k = self.responses
        texts = [list(samples.responses[i * k : (i + 1) * k]) for i in range(len(split))]
        groups = annotate(split, texts, [self.annotator], seed)
        return draw_pairs(groups, self.pairs, seed)


def _first(split: str, count: int) -> tuple[str, ...]:
    known = prompts(split)
    if count > len(known):
        raise DataError(f"the sandbox has {len(known)} {split} prompts, {count} were asked for")
    return known[:count]


def _gold(prompt: str, response: str) -> Mapping[str, float]:
    worth = gold(prompt, response)
    return {**asdict(worth), "total": worth.total}


@hookimpl
def register_data_format() -> dict[str, type]:
    """The bundled formats."""
    return {"preference": Preference, "sandbox": Sandbox}
