"""The stage `preference`: trains a policy on preferences directly, without a reward model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import PreferenceLoss
from rlhf_plugins.contract.run import Adapter, Run, StageResult
from rlhf_plugins.contract.workload import PLENTY, Course, Kept, Known, Work, Workload
from rlhf_plugins.recipe.unsupported_options import OF_TRANSFORMERS
from rlhf_plugins.stages._course import of_rows
from rlhf_plugins.stages._train_policy import train_policy
from rlhf_plugins.stages._training_options import (
    From,
    PolicyTraining,
    Reference,
    TokensPerBatch,
    kept,
    longest,
    pair_tokens,
    sampling,
    tried,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlhf_plugins.contract.rows import Group
    from rlhf_plugins.contract.run import Weights
    from rlhf_plugins.data.batches.tokenized import Tokenized
    from rlhf_plugins.data.batches.tokens import RowEncoder

NUMBERS = {"loss", "entropy", "mean_token_accuracy", "logits/chosen", "logps/chosen", "logps/rejected"}
UNREAD = frozenset(  # options that TRL's own losses, batches and loading alone would read
    {
        "beta",
        "discopop_tau",
        "f_alpha_divergence_coef",
        "f_divergence_type",
        "label_smoothing",
        "label_smoothing_factor",
        "ld_alpha",
        "loss_type",
        "loss_weights",
        "model_init_kwargs",
        "pad_to_multiple_of",
        "pad_token",
        "padding_free",
        "precompute_ref_batch_size",
        "ref_model_mixup_alpha",
        "ref_model_sync_steps",
        "resume_from_checkpoint",
        "router_aux_loss_coef",
        "sync_ref_model",
        "trust_remote_code",
        "use_weighting",
    }
)

OF_DPO_CONFIG = {  # option of TRL's DPOConfig -> what to write here
    "beta": "is an option of the loss here: write `loss: {use: dpo, beta: 0.1}`",
    "label_smoothing": "is a soft label here: give the rows a column `probability`, of 0.9 for a smoothing of 0.1, or "
    "write `loss: {use: cdpo, epsilon: 0.1}` with the package rlhf-losses-extra",
    "loss_type": "is the name of the loss here: write `loss: {use: ipo, beta: 0.1}`; `rlhf plugins list "
    "preference_loss` names all",
    "loss_weights": "is a sum of losses here: write `loss: {use: sum, losses: [dpo, sft], weights: [1, 1]}`",
}


@dataclass(frozen=True)
class Preference(
    PolicyTraining,
    makes={"policy"},
    reads_answers=True,
    processes="several",
    shards=True,
    zero=True,
    reserved=frozenset({"output_dir", "seed", *UNREAD, *OF_TRANSFORMERS}),
):
    """A policy, pulled towards chosen and away from rejected responses by a preference loss."""

    of_trl = OF_DPO_CONFIG
    loss: PreferenceLoss = uses("preference_loss", "dpo")
    from_: From = "previous"
    reference: Reference = "start"
    tokens_per_batch: TokensPerBatch = 8_192
    name: str = "preference"
    trainer: dict[str, Any] = field(default_factory=dict, metadata={"config": "trl.DPOConfig"})

    @property
    def reads_reference(self) -> bool:
        """See `Stage`."""
        return self.loss.reads_reference

    def workload(self, adapter: Adapter | None) -> Workload:
        """A batch of pairs, and the reference's log-probabilities of many where the loss reads them."""
        from rlhf_plugins.data.batches.branches import TOKENS_PER_BATCH

        sizes = pair_tokens(self.setting("max_length"))
        batch, tokens = self.setting("per_device_train_batch_size"), self.tokens_per_batch
        train = Work("train", "learn", batch, 2, *sizes, tokens, entropy=self.loss.reads_entropy)
        reference = Work("reference", "score", PLENTY, 2, *sizes, tokens or TOKENS_PER_BATCH)
        shared = self.reference == "start" and self.trainer.get("precompute_ref_log_probs", True)
        if not self.loss.reads_reference:
            return self.learning([train, *sampling(self.tasks)])
        return self.learning([train, reference, *sampling(self.tasks)], models=int(adapter is None and not shared))

    def course(self, known: Known) -> Course:
        """Its length, by its rows; the reference computes them too, once or in each step, where the loss reads it."""
        found = of_rows(self, known, self._unit, 1 if self.loss.unpaired else 2)
        if not found.passes or not self.loss.reads_reference:
            return found
        once = self.trainer.get("precompute_ref_log_probs", True)
        read = 2 * known.rows if once and known.rows is not None else found.passes["train"]
        return replace(found, passes={**found.passes, "reference": read})

    @property
    def _unit(self) -> str:
        """The word for what it learns from."""
        return "labelled responses" if self.loss.unpaired else "pairs"

    def own_numbers(self, gold: bool) -> frozenset[str]:
        """See `PolicyTraining`."""
        if not self.loss.reads_reference:
            return frozenset(NUMBERS if self.loss.unpaired else {*NUMBERS, "logits/rejected"})
        unit = "rewards" if len(self.loss.betas()) == 1 else "log_ratios"
        ratios = {f"{unit}/chosen", f"{unit}/rejected"}
        of_pairs = {"rewards/accuracies", f"{unit}/margins", "logits/rejected"}
        return frozenset(NUMBERS | ratios | ({"kl"} if self.loss.unpaired else of_pairs))

    def rehearse(self, run: Run) -> Kept:
        """See `Stage`."""
        from rlhf_plugins.engine.weights.loading import load_policy_encoder
        from rlhf_plugins.trainers.arguments import building, refuse_few_rows
        from rlhf_plugins.trainers.preference.batch import FILLED, with_room
        from rlhf_plugins.trainers.watching.held_out import held_out

        args, encoder = self._arguments(run), load_policy_encoder(run.base)

        def rows(groups: Sequence[Group]) -> Any:
            return with_room(self._rows(groups, encoder).dataset, args)

        def learned(groups: Sequence[Group]) -> tuple[int, dict[str, int]]:
            found = self._rows(groups, encoder)
            left = len(with_room(found.dataset, args))
            refuse_few_rows(args, left)
            return left, {**found.left_out, FILLED: len(found.dataset) - left}

        with building(len(run.data.train)):
            found = kept(run.data.train, self._unit, learned)
            held_out(args, run.data.test, partial(tried, make=rows))
        return found

    def _rows(self, groups: Sequence[Group], encoder: RowEncoder) -> Tokenized:
        """What the loss reads of them. Raises DataError where that is nothing."""
        from rlhf_plugins.data.batches.tokenized import tokenized_labels, tokenized_pairs

        return (tokenized_labels if self.loss.unpaired else tokenized_pairs)(groups, encoder)

    def _arguments(self, run: Run) -> Any:
        """TRL's configuration. Raises RunError where it refuses the options."""
        import trl

        from rlhf_plugins.trainers.arguments import arguments

        adapter = run.base.adapter
        dropped = bool(adapter and adapter.lora_dropout)  # TRL switches dropout off by default
        ours = {**longest(run), "precompute_ref_log_probs": True, "disable_dropout": not dropped}
        ours |= {"router_aux_loss_coef": 0.0}  # a base's own would go TRL's way
        return arguments(trl.DPOConfig, run.folder, run.seed, {**ours, **self.trainer})

    def run(self, run: Run) -> StageResult:
        """Leaves the policy in `model/`: an adapter, or a whole model where all weights are trained."""
        from rlhf_plugins.engine.weights.loading import load_policy_encoder
        from rlhf_plugins.engine.weights.starting import copy_start
        from rlhf_plugins.trainers.arguments import building
        from rlhf_plugins.trainers.preference.trainer import PreferenceTrainer
        from rlhf_plugins.trainers.watching.held_out import held_out

        adapter, args = run.base.adapter, self._arguments(run)
        encoder = load_policy_encoder(run.base)
        rows = self._rows(run.data.train, encoder)
        train = rows.dataset
        start, reference = run.weights("start"), run.weights("reference")
        reads, once = self.loss.reads_reference, args.precompute_ref_log_probs
        with building(len(train)):
            models = _models(start, reference, once, reads)
            trainer = PreferenceTrainer(
                models.policy,
                models.reference,
                args,
                train_dataset=train,
                eval_dataset=held_out(args, run.data.test, lambda test: self._rows(test, encoder).dataset),
                processing_class=encoder.tokenizer,
                peft_config=models.adapter,
                loss=self.loss,
                tokens_per_batch=self.tokens_per_batch,
                reference_cache=run.folder.parent / "reference.sqlite" if once and reads else None,
                reference_identity=_identity(reference, args) if reads else None,
            )
            if models.moves:  # the reference is read by now
                copy_start(trainer.model, start)
        left_out = {**rows.left_out, **trainer.left_out(len(train))}
        return train_policy(self, run, trainer, left_out, **({"selected_adapters": ["default"]} if adapter else {}))


class _Models(NamedTuple):
    """What TRL's trainer is given. Without a reference, it is the policy as it is given, or with its adapter off."""

    policy: Any
    reference: Any = None
    adapter: Any = None  # PEFT's configuration of a new one
    moves: bool = False  # the policy is given as the reference is, and gets the weights of its start afterwards


def _identity(reference: Weights, args: Any) -> str | None:
    """What identifies the reference: its files, and what else changes its log-probabilities; None without the files."""
    from rlhf_plugins.reward_models.score_cache import files_identity

    folders = [reference.base.path, *([str(reference.folder)] if reference.folder else [])]
    return files_identity(folders, reference.base.quantization, args.bf16, args.fp16)


def _models(start: Weights, reference: Weights, precomputed: bool, read: bool) -> _Models:
    """The policy and its reference if it is read, on one base in memory where that is possible.

    Without the reference the policy is made as beside it, so that it starts from the same numbers.
    """
    from rlhf_plugins.engine.weights.base_paths import same_base
    from rlhf_plugins.engine.weights.loading import load_to_adapt
    from rlhf_plugins.engine.weights.starting import config_of, load_frozen, load_start

    if start.base.adapter is None:
        shared = not read or (precomputed and reference == start)
        return _Models(load_start(start), None if shared else load_frozen(reference))
    alike = same_base(start.base, reference.base)
    if alike and reference.folder is None:
        return _Models(load_to_adapt(start.base), None, config_of(start), moves=start.folder is not None)
    if alike and start.folder is not None:  # TRL keeps a copy of the adapter as the reference
        return _Models(load_start(reference if read else start), moves=reference != start)
    return _Models(load_start(start), load_frozen(reference) if read else None)


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"preference": Preference}
