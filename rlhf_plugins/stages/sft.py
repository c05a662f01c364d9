"""The stage `sft`: imitates the best responses with TRL's SFTTrainer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.run import Adapter, Run, StageResult
from rlhf_plugins.contract.workload import Course, Kept, Known, Work, Workload
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.unsupported_options import FULL_EVAL
from rlhf_plugins.stages._course import of_rows
from rlhf_plugins.stages._train_policy import train_policy
from rlhf_plugins.stages._training_options import From, PolicyTraining, kept, longest, pair_tokens, sampling, tried

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from datasets import Dataset

    from rlhf_plugins.contract.rows import Group
    from rlhf_plugins.data.batches.tokenized import Tokenized
    from rlhf_plugins.data.batches.tokens import RowEncoder

UNREAD = frozenset(  # options that TRL's own rendering and loading alone would read
    {
        "assistant_only_loss",
        "chat_template_path",
        "dataset_text_field",
        "eos_token",
        "eval_packing",
        "model_init_kwargs",
        "resume_from_checkpoint",
        "trust_remote_code",
    }
)

APART = "{} turns are rows of their own: the chat template writes them otherwise where others follow."
OF_SFT_CONFIG = {"assistant_only_loss": "is an option of the stage here: write `train_on: all` beside `stage: sft`"}


@dataclass(frozen=True)
class SFT(
    PolicyTraining,
    makes={"policy"},
    reads_answers=True,
    processes="several",
    shards=True,
    zero=True,
    reserved=frozenset({"output_dir", "seed", *UNREAD, *FULL_EVAL}),
):
    """Supervised fine-tuning on each group's best response (Ouyang et al. 2022, section 3.1).

    The loss of a batch is sum_i w_i sum_t -log p_it / N, with w_i the `weight` of row i, which is 1 where it has none,
    and N the number of tokens of all its responses. With `train_on: all`, t runs over the tokens of every turn of the
    assistant, those in prompts too, as with TRL's `assistant_only_loss`, but with any chat template: a turn that it
    writes otherwise where others follow is a row of its own, as the answer to what is before it.
    """

    of_trl = OF_SFT_CONFIG
    from_: From = "previous"
    name: str = "sft"
    train_on: Annotated[
        Literal["last", "all"], Field(description="the last response alone, or every turn of the assistant")
    ] = "last"
    trainer: dict[str, Any] = field(default_factory=dict, metadata={"config": "trl.SFTConfig"})

    def fits_processes(self, count: int) -> None:
        """Raises ValueError where the loss would not be the mean over the tokens of all."""
        if not self.setting("average_tokens_across_devices"):
            raise ValueError("average_tokens_across_devices: false weighs a process's tokens by how few they are")

    def workload(self, adapter: Adapter | None) -> Workload:
        """A batch of rows, which nothing cuts."""
        batch = self.setting("per_device_train_batch_size")
        train = Work("train", "learn", batch, 1, *pair_tokens(self.setting("max_length")))
        return self.learning([train, *sampling(self.tasks)])

    def course(self, known: Known) -> Course:
        """Its length, by its rows."""
        if self.setting("packing"):  # rows share a sequence, each with positions of its own
            known = replace(known, positions=None)
        return of_rows(self, known, "rows", 1)

    def own_numbers(self, gold: bool) -> frozenset[str]:
        """See `PolicyTraining`."""
        return frozenset({"loss", "entropy", "mean_token_accuracy"})

    def rehearse(self, run: Run) -> Kept:
        """See `Stage`."""
        from rlhf_plugins.engine.weights.loading import load_policy_encoder
        from rlhf_plugins.trainers.watching.held_out import held_out

        args, encoder = self._arguments(run), load_policy_encoder(run.base)

        def learned(groups: Sequence[Group]) -> tuple[int, Mapping[str, int]]:
            rows = self._tokenized(groups, encoder)
            _refuse(args, rows.dataset)
            return len(rows.dataset), rows.left_out

        found = kept(run.data.train, "rows" if self.train_on == "last" else "rows of turns", learned)
        held_out(args, run.data.test, lambda test: tried(test, lambda some: self._tokenized(some, encoder)))
        return found

    def _tokenized(self, groups: Iterable[Group], encoder: RowEncoder) -> Tokenized:
        from rlhf_plugins.data.batches.tokenized import tokenized_answers

        return tokenized_answers(groups, encoder, every_turn=self.train_on == "all")

    def _arguments(self, run: Run) -> Any:
        """TRL's configuration. Raises RunError where it refuses the options."""
        import trl

        from rlhf_plugins.trainers.arguments import arguments, refuse_uninstalled

        ours = {**longest(run), "completion_only_loss": True}
        args = arguments(trl.SFTConfig, run.folder, run.seed, {**ours, **self.trainer})
        refuse_uninstalled(args)
        return args

    def run(self, run: Run) -> StageResult:
        """Leaves the policy in `model/`: an adapter, or a whole model where all weights are trained."""
        from rlhf_plugins.engine.weights.loading import load_policy_encoder, load_to_adapt
        from rlhf_plugins.engine.weights.starting import config_of, load_start
        from rlhf_plugins.trainers.arguments import building
        from rlhf_plugins.trainers.sft import SFTTrainer
        from rlhf_plugins.trainers.watching.held_out import held_out

        encoder, start = load_policy_encoder(run.base), run.weights("start")
        new = start.folder is None
        rows = self._tokenized(run.data.train, encoder)
        with building(len(rows.dataset)):
            args = self._arguments(run)
            _refuse(args, rows.dataset)
            trainer = SFTTrainer(
                model=load_to_adapt(start.base) if new else load_start(start),
                args=args,
                train_dataset=rows.dataset,
                eval_dataset=held_out(args, run.data.test, lambda test: self._tokenized(test, encoder).dataset),
                processing_class=encoder.tokenizer,
                peft_config=config_of(start) if new else None,
            )
        result = train_policy(self, run, trainer, {**rows.left_out, **_left_out(trainer, rows.dataset)})
        notes = [*result.report.notes, *([APART.format(rows.apart)] if rows.apart else [])]
        return replace(result, report=replace(result.report, notes=notes))


def _refuse(args: Any, train: Dataset) -> None:
    """Raises RunError for what TRL refuses of the options or a training would not read, and where no row is left."""
    from rlhf_plugins.trainers.arguments import refuse_few_rows
    from rlhf_plugins.trainers.sft import refuse_layout, refuse_weights

    refuse_layout(args)
    refuse_weights(args, train)
    if not args.packing:
        refuse_few_rows(args, len(train))
    limit = args.max_length
    if limit is None or args.packing or args.truncation_mode != "keep_start":
        return
    if not any(any(mask[:limit]) for mask in train["completion_mask"]):
        raise RunError(f"every prompt takes all {limit} tokens of max_length, so that nothing is left to imitate")


def _left_out(trainer: Any, train: Dataset) -> dict[str, int]:
    """Rows that TRL dropped or cut at `max_length`, by reason."""
    limit = trainer.args.max_length
    if limit is None or trainer.args.packing:  # packing drops nothing
        return {}
    dropped = len(train) - len(trainer.train_dataset)
    found = {
        "prompt that fills max_length": dropped,
        "cut at max_length": sum(len(ids) > limit for ids in train["input_ids"]) - dropped,
    }
    return {reason: count for reason, count in found.items() if count > 0}


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"sft": SFT}
