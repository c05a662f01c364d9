"""The stage `offline`: trains a policy on logged responses and their rewards, and samples nothing."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import PolicyLoss, Reduction
from rlhf_plugins.contract.run import Run, StageResult
from rlhf_plugins.errors import AllEqualError
from rlhf_plugins.recipe.unsupported_options import FULL_EVAL
from rlhf_plugins.stages._train_policy import train_policy
from rlhf_plugins.stages._training_options import From, Training, kept

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rlhf_plugins.contract.rows import Group
    from rlhf_plugins.contract.workload import Kept
    from rlhf_plugins.data.batches.tokenized import Tokenized
    from rlhf_plugins.data.batches.tokens import RowEncoder

logger = logging.getLogger(__name__)
UNREAD = frozenset({"label_names", "label_smoothing_factor", "remove_unused_columns", "resume_from_checkpoint"})


@dataclass(frozen=True)
class Offline(
    Training,
    makes={"policy"},
    needs={"ratings"},
    reserved=frozenset({"output_dir", "seed", "trust_remote_code", *UNREAD, *FULL_EVAL}),
):
    """Offline RL: advantage-weighted regression (Peng et al. 2019) on rated responses, as a log of any policy has them.

    The advantage is (R - V) / s. R is the rating `dimension`, or the mean of a response's ratings. V is the mean over
    the prompt's responses, of a single one that over all rows, and s the root mean square of all R - V, so that beta is
    in standard deviations. A batch is so many prompts. The rows are those of `{format: ratings}`, or labelled answers.
    """

    policy_loss: PolicyLoss = uses("policy_loss", "advantage_weighted")
    reduction: Reduction = uses("reduction", "tokens")
    dimension: Annotated[str | None, Field(description="the rating that is the reward; none is the mean")] = None
    from_: From = "previous"
    name: str = "offline"
    trainer: dict[str, Any] = field(default_factory=dict, metadata={"config": "transformers.TrainingArguments"})

    def __post_init__(self) -> None:
        if not self.policy_loss.off_policy:
            name = self.policy_loss.recipe_name
            raise ValueError(
                f"policy_loss: {name} learns from what the policy itself has just sampled; take one for logged "
                "responses, such as advantage_weighted"
            )

    def held_out_numbers(self, gold: bool) -> frozenset[str]:
        """See `Stage`."""
        return frozenset({"loss"})

    def rehearse(self, run: Run) -> Kept:
        """See `Stage`."""

        def learned(groups: Sequence[Group]) -> tuple[int, Mapping[str, int]]:
            _, _, rows, _ = self._inputs(run, groups)
            return len(rows.dataset), rows.left_out

        return kept(run.data.train, "rows", learned)

    def _inputs(self, run: Run, groups: Sequence[Group]) -> tuple[Any, RowEncoder, Tokenized, Any]:
        """The configuration, the encoder of the base, and the rows of training and of evaluation."""
        from transformers import TrainingArguments

        from rlhf_plugins.data.batches.logged import logged_rows
        from rlhf_plugins.engine.weights.loading import load_policy_encoder
        from rlhf_plugins.trainers.arguments import arguments, refuse_few_rows, refuse_uninstalled

        args = arguments(TrainingArguments, run.folder, run.seed, self.trainer)
        refuse_uninstalled(args)
        encoder = load_policy_encoder(run.base)
        rows = logged_rows(groups, self.dimension, encoder)
        refuse_few_rows(args, len(rows.dataset))
        return args, encoder, rows, self._held_out(args, run, encoder)

    def run(self, run: Run) -> StageResult:
        """Leaves the policy in `model/`: an adapter, or a whole model where all weights are trained."""
        from rlhf_plugins.engine.weights.starting import load_start
        from rlhf_plugins.trainers.arguments import acting, building
        from rlhf_plugins.trainers.offline import OfflineTrainer

        args, encoder, rows, held_out_rows = self._inputs(run, run.data.train)
        with building(len(rows.dataset)):
            trainer = OfflineTrainer(
                load_start(run.weights("start")),
                args,
                policy_loss=acting(self.policy_loss),
                reduction=acting(self.reduction),
                train_dataset=rows.dataset,
                eval_dataset=held_out_rows,
                processing_class=encoder.tokenizer,
            )
        return train_policy(self, run, trainer, rows.left_out)

    def _held_out(self, args: Any, run: Run, encoder: RowEncoder) -> Any:
        """What is evaluated on; None, with a warning, where no held-out response is better than another."""
        from rlhf_plugins.data.batches.logged import logged_rows
        from rlhf_plugins.trainers.watching.held_out import held_out

        try:
            return held_out(args, run.data.test, lambda test: logged_rows(test, self.dimension, encoder).dataset)
        except AllEqualError as error:
            logger.warning("%s: no evaluation while it trains, since of the held-out rows: %s", self.name, error)
            args.eval_strategy = type(args.eval_strategy)("no")
            return None


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"offline": Offline}
