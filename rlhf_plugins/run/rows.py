"""The rows of a run: how they are loaded, and which stages cannot run on them, before any stage does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_plugins.data.batches.chat import refuse_text
from rlhf_plugins.errors import DataError, RlhfError
from rlhf_plugins.recipe.column_needs import refuse_lacking
from rlhf_plugins.recipe.options import all_parts
from rlhf_plugins.recipe.order import too_early
from rlhf_plugins.recipe.source import Keys, dotted
from rlhf_plugins.run import blame
from rlhf_plugins.run.stage.own_rows import refuse_unfit

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data
    from rlhf_plugins.contract.run import Base
    from rlhf_plugins.contract.run_kinds import DataFormat
    from rlhf_plugins.recipe.assemble import Assembled

AS_MESSAGES = "as_messages"  # the option of a format that makes messages of text


def read(assembled: Assembled, source: DataFormat) -> Data:
    """The rows of the recipe's data or of a stage's own. Raises DataError, also for what a plugin raises."""
    try:
        return source.load(assembled.base, assembled.seed)
    except RlhfError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also a plugin that ends the process
        where = blame.of_plugin(error, assembled.registry)
        raise DataError(f"the data cannot be read: {type(error).__name__}: {error}{where}") from error


def loaded(assembled: Assembled, source: DataFormat) -> Data:
    """`read`; it raises DataError also for text where the recipe says how conversations are rendered."""
    rows = read(assembled, source)
    refuse_text(rows, assembled.base.chat)
    return rows


def counted(data: Data) -> str:
    """How many groups there are to train on and held out, and how many rows were dropped, by reason."""
    left_out = "".join(f", {count} dropped ({reason})" for reason, count in data.dropped.items() if count)
    return f"data: {len(data.train)} groups to train on, {len(data.test)} held out{left_out}"


def text_alone(base: Base, source: DataFormat, keys: Keys, data: Data) -> str:
    """A warning where no row goes through the base's chat template, with what to write; else empty.

    Args:
        base: the base of the run.
        source: the source of the rows.
        keys: the place of the source in the recipe.
        data: the rows.
    """
    from rlhf_plugins.data.batches.rendered import unrendered
    from rlhf_plugins.engine.weights.loading import load_tokenizer

    places = [(*keys, *inside, AS_MESSAGES) for inside, part in all_parts(source) if hasattr(part, AS_MESSAGES)]
    words = [f"`{dotted(place)}=true`" for place in places]
    cure = f"write {' '.join(words)}" if words else "write them as messages,"
    prompts = (*data.train, *data.prompts.get("train", ()))
    return unrendered(prompts, lambda: load_tokenizer(base), base.path, cure)


def refuse_rows(assembled: Assembled, data: Data) -> None:
    """Raises RunError for a stage that cannot run on its rows; on those that an earlier one makes, it is asked then."""
    from rlhf_plugins.contract.run_kinds import Stage

    for stage in assembled.stages:
        if stage.data is None:
            refuse_unfit(stage, data)
            refuse_lacking(stage, data)
        elif type(stage).fits_data is not Stage.fits_data and not any(too_early(stage.data)):
            refuse_unfit(stage, loaded(assembled, stage.data))
