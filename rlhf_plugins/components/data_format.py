"""Where preferences come from. It names sources and their options; reading and checking is `data`'s."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from rlhf_plugins.contract.component import Earlier, one_for_each, uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.on_disk import OnDisk
from rlhf_plugins.contract.rows import Data
from rlhf_plugins.contract.run_kinds import DataFormat
from rlhf_plugins.data.sources import (
    Columns,
    ComparisonColumns,
    Dimensions,
    PairColumns,
    PairSources,
    RankingColumns,
    RatingColumns,
    Sources,
    SupervisedColumns,
    Words,
    score,
    words,
)
from rlhf_plugins.errors import DataError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rlhf_plugins.contract.run import Base, Run
    from rlhf_plugins.data.splits import Read


@dataclass(frozen=True)
class _File(DataFormat, Sources):
    """Loads rows of one kind of `data/formats/kinds.py`, and says which columns they have."""

    kind_of_rows: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ("columns",)  # options that its reader takes

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError naming the file and line."""
        from rlhf_plugins.data.splits import load

        return load(self, self._read(), seed)

    def missing(self) -> dict[str, str]:
        """Files that are not there or do not fit; what has no ending of a file may be a data set on the hub."""
        from rlhf_plugins.data.local_file import fault_of_file
        from rlhf_plugins.data.rows import no_such_file, no_such_split

        sources = {"source": self.split, "test_source": "test", "out_of_distribution": "test"}
        given = {name: (path, split) for name, split in sources.items() if (path := getattr(self, name)) is not None}
        found = {
            name: no_such_file(path) or fault_of_file(path, split, self._read())
            for name, (path, split) in given.items()
        }
        found["split"] = no_such_split(self.source, self.split)
        return {name: message for name, message in found.items() if message}

    def at_hand(self) -> bool:
        """A look reads no more of a file than it has time for, and nothing of the hub."""
        return True

    def known_gold(self) -> bool:
        """Nobody knows the true reward of people's rows."""
        return False

    def known_columns(self) -> frozenset[str] | None:
        """See `DataFormat`; only small local files are read for it."""
        from rlhf_plugins.data.local_file import columns_of_file

        return columns_of_file(self, self._read())

    def known_rows(self) -> int | None:
        """See `DataFormat`; only small local files are read for it."""
        from rlhf_plugins.data.local_file import rows_of_file

        return rows_of_file(self, self._read())

    @classmethod
    def recognises(cls, fields: Mapping[str, Any]) -> bool:
        """Whether a row with these columns is likely to be of this format."""
        from rlhf_plugins.data.formats.kinds import RECOGNISERS

        return RECOGNISERS[cls.kind_of_rows](fields)

    def _read(self) -> Read:
        from rlhf_plugins.data.formats.kinds import READERS
        from rlhf_plugins.data.formats.text_as_messages import as_conversations

        read = partial(READERS[self.kind_of_rows], **{name: getattr(self, name) for name in self.reads})
        columns = read.keywords["columns"]
        implicit = columns.prompt if isinstance(columns, PairColumns) else None
        return as_conversations(read, implicit) if self.as_messages else read


@dataclass(frozen=True)
class _Pairs(_File, PairSources):
    """The same, with pairs of one prompt as one group where it is asked for."""

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError naming the file and line."""
        from rlhf_plugins.data.changes.merge import group_prompts

        data = super().load(base, seed)
        return group_prompts(data, self.max_responses, seed) if self.group_prompts else data


@dataclass(frozen=True)
class Preference(_Pairs, ordered=True):
    """Pairs with TRL's columns `chosen`, `rejected`, and optionally `prompt` and `margin`; text or messages.

    Without a `prompt` it is what both responses share at their start.
    """

    kind_of_rows = "pairs"
    columns: PairColumns = PairColumns()


@dataclass(frozen=True)
class Comparisons(_Pairs):
    """Two responses with a verdict: a label, a strength, a probability, or those of several annotators.

    Labels are voted: the one with most votes wins and the pair weighs (n_1 - n_2) / n, the winner's votes less those of
    the next label, of n in all. Strengths are averaged: the sign is the winner, the size of the mean the margin, and
    the pair weighs |sum s| / sum |s|. Probabilities are averaged to a soft label; labels beside them count as 1, 0 or
    1/2. A tie is kept; a pair on which annotators are evenly divided is left out. Rows of one pair by annotators of
    different names are put together.
    """

    kind_of_rows = "comparisons"
    reads = ("columns", "labels", "votes")
    columns: ComparisonColumns = ComparisonColumns()
    labels: Words = field(default_factory=words)
    votes: Annotated[
        Literal["together", "apart"],
        Field(description="one comparison of all votes on a pair, or one for each, for losses that read annotators"),
    ] = "together"


@dataclass(frozen=True)
class Ratings(_File):
    """Rated responses, in one or many dimensions: one `response` a row, or a list of `responses`.

    Rows of one prompt become one group; several ratings of one response are averaged; a rating may be missing. Two
    responses are compared by their mean over the dimensions that both have: the higher is preferred if it is higher by
    at least `gap`, else they tie.
    """

    kind_of_rows = "ratings"
    reads = ("columns", "dimensions", "gap", "by", "margins")
    dimensions: Dimensions = field(default_factory=score)
    gap: Annotated[float, Field(ge=0, description="least difference of ratings that is a strict preference")] = 0.0
    by: Annotated[list[str] | None, Field(min_length=1, description="dimensions to compare by; null is all")] = None
    margins: Annotated[bool, Field(description="keep the difference of ratings as the pair's margin")] = False
    columns: RatingColumns = RatingColumns()

    def __post_init__(self) -> None:
        from rlhf_plugins.data.formats.listed import HELPSTEER
        from rlhf_plugins.data.formats.rated_shapes import ULTRAFEEDBACK

        paths = self.dimensions.values() if isinstance(self.dimensions, dict) else self.dimensions
        if ranks := [
            path for path in paths if path.rpartition(".")[2].lower() in ("rank", "ranks", "ranking", "place")
        ]:
            raise ValueError(
                f"dimensions: {ranks[0]!r} is a place, of which the lowest is best, and the highest rating is; "
                "read it with the format rankings"
            )
        of_known_sets = (*HELPSTEER, *ULTRAFEEDBACK) if self.dimensions == score() else ()
        names = dict.fromkeys((*self.dimensions, *of_known_sets))
        for name in self.by or ():
            if name not in names:
                raise ValueError(f"by: unknown dimension {name!r} {nearest(name, names)}")


@dataclass(frozen=True)
class Rankings(_File):
    """K responses in order: numbers of the responses best first, a place for each, or judgements of pairs."""

    kind_of_rows = "rankings"
    columns: RankingColumns = RankingColumns()


@dataclass(frozen=True)
class Supervised(_File, ordered=True):
    """One answer a row: the last turn of a conversation, or a completion beside its prompt; TRL's, Alpaca, ShareGPT.

    A `label` says whether it is desirable; one that is not is never imitated.
    """

    kind_of_rows = "answers"
    columns: SupervisedColumns = SupervisedColumns()


@dataclass(frozen=True)
class Prompts(_File, ordered=True, answered=False):
    """Prompts without answers, with any further columns, which rewards read by their names."""

    kind_of_rows = "prompts"
    columns: Columns = Columns()


@dataclass(frozen=True)
class Mix(DataFormat):
    """Several sets as one; a prompt that one of them holds out is trained on in none.

    A training row of a part is there as often as the part's weight says: 2 is twice, 0.5 every second row by hash.
    """

    parts: tuple[DataFormat, ...] = uses("data_format", tag="format")
    weights: Annotated[
        list[Annotated[float, Field(gt=0, le=1000)]] | None, Field(description="one per part; null is 1 for each")
    ] = None

    def __post_init__(self) -> None:
        if len(self.parts) < 2:
            raise ValueError("parts: at least two sets")
        one_for_each(self.weights, self.parts, "parts")

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError as the parts do, and where some are text and others conversations."""
        return self._mixed([part.load(base, seed) for part in self.parts], seed)

    def load_in(self, run: Run) -> Data:
        """See `DataFormat`; earlier stages may have made parts of the rows."""
        return self._mixed([part.load_in(run) for part in self.parts], run.seed)

    def at_hand(self) -> bool:
        """Where every part is."""
        return all(part.at_hand() for part in self.parts)

    def known_gold(self) -> bool | None:
        """Only where it comes with every part."""
        known = [part.known_gold() for part in self.parts]
        return False if False in known else None if None in known else True

    def known_columns(self) -> frozenset[str] | None:
        """The columns that any part has."""
        known = [part.known_columns() for part in self.parts]
        return None if None in known else frozenset().union(*filter(None, known))

    def _mixed(self, parts: list[Data], seed: int) -> Data:
        from rlhf_plugins.data.changes.mixing import mixed

        return mixed(parts, self.weights or [1.0] * len(parts), seed)


@dataclass(frozen=True)
class _OfStage(DataFormat):
    """Rows that a stage handed on."""

    def known_gold(self) -> bool:
        """A stage's rows are kept without it."""
        return False


@dataclass(frozen=True)
class StageData(_OfStage):
    """The rows that an earlier stage of this run handed on; the `data` of a stage, not of a whole recipe."""

    stage: Annotated[str, Earlier("data"), Field(min_length=1, description="the stage's name")]

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError: without a run there is no earlier stage."""
        raise DataError(f"format stage: write this as the `data` of a stage that comes after {self.stage}")

    def load_in(self, run: Run) -> Data:
        """Raises DataError where no stage of that name handed on data."""
        made = {result.name: result.data for result in run.finished if result.data is not None}
        if self.stage not in made:
            raise DataError(f"format stage: no earlier stage {self.stage!r} made data {nearest(self.stage, made)}")
        return made[self.stage]

    def known_columns(self) -> frozenset[str] | None:
        """None: the stage has not run."""
        return None


@dataclass(frozen=True)
class StageOfRun(_OfStage):
    """The rows that a stage of an earlier run handed on, with their splits, soft labels, columns and origins."""

    run: Annotated[str, OnDisk(), Field(min_length=1, description="the folder of the run")]
    stage: Annotated[str, Field(min_length=1, description="the stage's name, `outer/name` for one inside another")]

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError where the stage left no data."""
        from rlhf_plugins.data.store import load_data, stage_folder

        return load_data(stage_folder(self.run, self.stage))

    def known_columns(self) -> frozenset[str] | None:
        """The columns of the rows, where the run has made them already."""
        from rlhf_plugins.data.columns import columns_of
        from rlhf_plugins.data.file_names import STAGE_ROWS
        from rlhf_plugins.data.partial_reads import MAX_BYTES
        from rlhf_plugins.data.store import load_data, stage_folder

        try:
            folder = stage_folder(self.run, self.stage)
            return columns_of(load_data(folder).train) if (folder / STAGE_ROWS).stat().st_size <= MAX_BYTES else None
        except (DataError, OSError):
            return None


@hookimpl
def register_data_format() -> dict[str, type]:
    """The bundled formats."""
    return {
        "preference": Preference,
        "comparisons": Comparisons,
        "ratings": Ratings,
        "rankings": Rankings,
        "supervised": Supervised,
        "prompts": Prompts,
        "mix": Mix,
        "stage": StageData,
        "stage_of_run": StageOfRun,
    }
