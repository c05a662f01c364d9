"""Whether the engine computes a training on preferences, or TRL; and TRL's losses as components."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from os import PathLike
from typing import Any

import trl
from peft import PeftModel
from torch import Tensor

from rlhf_plugins.contract.guards import named
from rlhf_plugins.contract.interfaces import PreferenceLoss
from rlhf_plugins.data.batches.branches import TOKENS_PER_BATCH
from rlhf_plugins.errors import PluginError, RunError
from rlhf_plugins.trainers.arguments import unusual_adapter, unusual_launch
from rlhf_plugins.trainers.constructor import refuse_others
from rlhf_plugins.trainers.given_rows import Rows
from rlhf_plugins.trainers.preference.batch import OF_PAIRS, REFERENCE

logger = logging.getLogger(__name__)
READ_BY = {  # fields of DPOConfig that few of TRL's losses read
    "label_smoothing": ("aot", "aot_unpaired", "exo_pair", "robust"),
    "discopop_tau": ("discopop",),
}
LOSSES = {"sigmoid": "dpo", "ipo": "ipo_per_token"}  # TRL's name -> ours, of those that are equal


@dataclass(frozen=True)
class PreferenceOptions:
    """What a PreferenceTrainer takes besides DPOTrainer's arguments."""

    loss: PreferenceLoss | None = None  # a component; None: what `args.loss_type` names
    tokens_per_batch: int | None = TOKENS_PER_BATCH  # most in memory at once, padding included; None is no limit
    reference_cache: str | PathLike[str] | None = None  # a file that keeps the reference's log-probabilities
    reference_identity: str | None = None  # key of the reference in its cache; None hashes its weights


def read_by(own: PreferenceOptions) -> Rows:
    """What a training with these options reads of its rows."""
    needs = (("chosen", "rejected"), ("prompt_ids", "chosen_ids", "rejected_ids"))
    numbers = OF_PAIRS if own.loss is not None else ()
    return Rows(numbers=numbers, features=REFERENCE, needs=needs, implicit=True)


def check(own: PreferenceOptions, given: Mapping[str, Any]) -> None:
    """Raises RunError for options of ours that contradict DPOTrainer's arguments, or are of no use with them.

    What TRL's own losses leave unread it only warns of, since it changes nothing in TRL either.
    """
    loss, args, rows = own.loss, given.get("args"), given.get("train_dataset")
    refuse_others(own, {"loss": PreferenceLoss})
    if loss is not None and args is not None and (args.loss_type != ["sigmoid"] or args.loss_weights):
        raise RunError(f"both loss= and args.loss_type={args.loss_type} name a loss: leave one of them out")
    if args is not None:
        _check_read(args, loss is not None)
    columns = getattr(rows, "column_names", None) or ()
    if loss is not None and not loss.takes_probabilities and "probability" in columns:
        raise RunError("the loss ignores soft labels, which the column 'probability' gives: leave the column out")
    if loss is not None and loss.unpaired and not {"chosen_ids", "probability"} <= set(columns):
        raise RunError("the loss is given labelled responses, and the rows are pairs: train it in a stage `preference`")
    if loss is not None and columns and (lacking := sorted(loss.needs_of() - {"ranks", *columns})):
        raise RunError(f"{named(loss)} needs the column {lacking[0]!r} of each row, which has {', '.join(columns)}")
    if loss is not None and not loss.reads_reference:
        _refuse_reference(loss, own, given)
    if own.reference_cache is not None and not (args is not None and args.precompute_ref_log_probs):
        raise RunError("reference_cache= keeps what args.precompute_ref_log_probs computes: set that to True")


def _refuse_reference(loss: PreferenceLoss, own: PreferenceOptions, given: Mapping[str, Any]) -> None:
    """Raises RunError for an argument about a reference."""
    args = given.get("args")
    asked = {"ref_model": given.get("ref_model"), "reference_cache": own.reference_cache}
    asked |= {"args.sync_ref_model": args is not None and args.sync_ref_model}
    if unread := [name for name, value in asked.items() if value]:
        raise RunError(f"{named(loss)} reads no reference: leave {unread[0]} out")


@contextmanager
def without_reference(given: dict[str, Any]) -> Iterator[None]:
    """For the block, DPOTrainer's arguments are such that it loads no reference, nor hashes one with an adapter."""
    model = given["model"]
    if given.get("args") is None:  # like TRL
        name = model if isinstance(model, str) else model.config.name_or_path
        given["args"] = trl.DPOConfig(f"{name.split('/')[-1]}-DPO")
    args = given["args"]
    before, adapted = args.precompute_ref_log_probs, given.get("peft_config") or isinstance(model, PeftModel)
    args.precompute_ref_log_probs = not adapted
    try:
        yield
    finally:
        args.precompute_ref_log_probs = before


def refuse_read(losses: Tensor, loss: Any, policy: Tensor) -> None:
    """Raises PluginError where losses are not finite though the policy's log-probabilities are: it read NaN."""
    if not losses.isfinite().all() and policy.isfinite().all():
        raise PluginError(f"{named(loss)} reads the reference, and its trait reads_reference says that it does not")


def _check_read(args: trl.DPOConfig, own_loss: bool) -> None:
    """Raises RunError for the first unread field beside `loss=`; without it, one line of the log names each."""
    for words in _unread(args):
        if own_loss:
            raise RunError(f"loss= does not read args.{words}: leave it out; a component has options of its own")
        named = (words, args.loss_type, args.f_divergence_type)
        logger.warning("args.%s changes nothing: loss_type=%s with f_divergence_type=%s does not read it", *named)


def _unread(args: trl.DPOConfig) -> list[str]:
    """The fields, as `name=value`, that differ from TRL's defaults and that `loss_type` and divergence do not read."""
    idle = {name for name, losses in READ_BY.items() if not set(losses) & set(args.loss_type)}
    if args.f_divergence_type != "alpha_divergence":
        idle.add("f_alpha_divergence_coef")
    values = ((each, getattr(args, each.name)) for each in fields(trl.DPOConfig) if each.name in idle)
    return [f"{each.name}={value}" for each, value in values if value != each.default]


def loss_of(args: trl.DPOConfig) -> PreferenceLoss | None:
    """The losses that the configuration names, as one component; None where we have no equal."""
    from rlhf_plugins.recipe.public import component

    weights = args.loss_weights or [1.0] * len(args.loss_type)
    if set(args.loss_type) - LOSSES.keys() or min(weights) < 0 or args.beta <= 0:
        return None
    losses = [component("preference_loss", LOSSES[name], beta=args.beta) for name in args.loss_type]
    single = weights == [1.0]
    found: PreferenceLoss = (
        losses[0] if single else component("preference_loss", "sum", losses=losses, weights=list(weights))
    )
    return found


def obstacle_of(trainer: Any, given: Mapping[str, Any], loss: PreferenceLoss | None) -> str | None:
    """The first thing about a trainer, built with these arguments, that the engine does not compute; None if none."""
    unknown = f"loss_type={trainer.args.loss_type} (it has {', '.join(LOSSES)} with beta > 0)"
    return next(_obstacles(trainer, given), unknown if loss is None else None)


def _obstacles(trainer: Any, given: Mapping[str, Any]) -> Iterator[str]:
    args = trainer.args
    if given.get("data_collator") is not None:
        yield "data_collator="
    if trainer._is_vlm:
        yield "a processor of images"
    yield from unusual_adapter(trainer.model)
    if trainer.aux_loss_enabled:
        yield "the auxiliary loss of a mixture of experts"
    if args.ld_alpha is not None:
        yield f"ld_alpha={args.ld_alpha}"
    if args.use_weighting:
        yield "use_weighting=True"
    if args.f_divergence_type != "reverse_kl":
        yield f"f_divergence_type={args.f_divergence_type!r}"
    yield from unusual_launch(trainer)
