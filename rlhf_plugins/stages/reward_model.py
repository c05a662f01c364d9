"""The stage `reward_model`: trains a reward model on human judgements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from numpy.random import SeedSequence
from pydantic import Field

from rlhf_plugins.contract.component import Earlier, uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import Pooling, RewardHead, RewardLoss, Sampler
from rlhf_plugins.contract.on_disk import OnDisk
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.contract.run import Adapter, Base, Curve, ReportParts, Run, Section, StageResult, Weights
from rlhf_plugins.contract.workload import RANKED, Course, Kept, Known, Work, Workload
from rlhf_plugins.errors import RlhfError, RunError
from rlhf_plugins.recipe.unsupported_options import OF_TRANSFORMERS
from rlhf_plugins.sandbox import POLICIES
from rlhf_plugins.stages._course import of_rows
from rlhf_plugins.stages._training_options import From, TokensPerBatch, Training, kept, longest, pair_tokens, tried

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from rlhf_plugins.contract.rows import Text
    from rlhf_plugins.data.batches.ranked import RankedRows
    from rlhf_plugins.data.batches.tokens import RowEncoder
    from rlhf_plugins.reward_models.reward_model import RewardModel
    from rlhf_plugins.trainers.reward.trainer import RewardTrainer
    from rlhf_plugins.trainers.watching.budget import Spending


UNREAD = frozenset(  # options that TRL's own loss, batches and loading alone would read
    {
        "center_rewards_coefficient",
        "chat_template_path",
        "dataloader_drop_last",
        "eos_token",
        "label_smoothing_factor",
        "model_init_kwargs",
        "pad_to_multiple_of",
        "pad_token",
        "resume_from_checkpoint",
        "trust_remote_code",
    }
)

SMOOTHED = "is a loss here: write `loss: {use: label_smoothed, epsilon: 0.1}`"
OF_REWARD_CONFIG = {  # option of TRL's RewardConfig and its like -> what to write here
    "center_rewards_coefficient": "is a part of a sum of losses here: write `loss: {use: sum, losses: [bradley_terry, "
    "centering], weights: [1, 0.01]}`",
    "label_smoothing": SMOOTHED,
    "label_smoothing_factor": SMOOTHED,
    "loss_type": "is the name of the loss here: write `loss: bradley_terry`; `rlhf plugins list reward_loss` names all",
}


class Trained(NamedTuple):
    """The result of training one reward model."""

    folder: Path
    left_out: dict[str, int]
    curves: Mapping[str, Curve]
    spent: Spending
    notes: tuple[str, ...]
    alarms: Sequence[Section] = ()


@dataclass(frozen=True)
class RewardModelStage(
    Training,
    makes={"reward"},
    reads_answers=True,
    processes="several",
    shards=True,
    zero=True,
    reserved=frozenset({"output_dir", "seed", *UNREAD, *OF_TRANSFORMERS}),
):
    """A decoder or encoder, a pooling and a head, trained to judge responses as people did."""

    of_trl = OF_REWARD_CONFIG
    pooling: Pooling = uses("pooling", "last_token")
    head: RewardHead = uses("reward_head", "scalar")
    loss: RewardLoss = uses("reward_loss", "bradley_terry")
    sampler: Sampler = uses("sampler", "shuffled")
    train_layers: Annotated[
        Annotated[int, Field(ge=0)] | None,
        Field(description="layers of the trunk to train, from the top; 0 computes the features once; null is all"),
    ] = None
    head_learning_rate: Annotated[
        Annotated[float, Field(gt=0)] | None, Field(description="of head and pooling; null is the trainer's")
    ] = None
    teacher: Annotated[
        str | None,
        Field(description="an earlier stage whose rewards become the ratings that are learned"),
        Earlier("reward"),
    ] = None
    from_: From = "previous"
    base: Annotated[
        Annotated[str, Field(min_length=1)] | None,
        OnDisk(words=tuple(POLICIES)),
        Field(
            description="of its trunk, a decoder or an encoder, which it then starts from; null is where `from` says"
        ),
    ] = None
    quantization: Annotated[
        Literal["none", "nf4", "int8"] | None,
        Field(description="of its base, where it starts from the base; null is the recipe's"),
    ] = None
    tokens_per_batch: TokensPerBatch = 8_192
    name: str = "reward_model"
    trainer: dict[str, Any] = field(default_factory=dict, metadata={"config": "trl.RewardConfig"})

    def missing(self) -> dict[str, str]:
        """The base of its own, where it is not there."""
        from rlhf_plugins.recipe.base_policy import no_model

        return {"base": message} if self.base and (message := no_model(self.base)) else {}

    def needs_of(self) -> frozenset[str]:
        """The columns that its parts need, without those that a teacher gives."""
        return super().needs_of() - ({"ratings"} if self.teacher else set())

    def workload(self, adapter: Adapter | None) -> Workload | None:
        """A batch of pairs, or of rankings of `RANKED` responses; unknown where only some layers are trained."""
        if self.train_layers is not None:
            return None
        sizes = pair_tokens(self.setting("max_length"))
        responses = RANKED if self.loss.whole_groups else 2
        batch = self.setting("per_device_train_batch_size")
        parts: dict[str, Any] = {"pooling": self.pooling, "head": self.head}
        return self.learning(
            [Work("train", "learn", batch, responses, *sizes, self.tokens_per_batch, **parts)],
            quantization=self.quantization,
        )

    def course(self, known: Known) -> Course | None:
        """Its length, by its groups, or by its pairs where the loss reads pairs."""
        known = known if self.base is None else replace(known, positions=None)  # which are of the recipe's base
        return of_rows(self, known, self._unit, None if self.loss.whole_groups else 2)

    @property
    def _unit(self) -> str:
        """The word for what it learns from."""
        return "groups" if self.loss.whole_groups else "pairs"

    def run(self, run: Run) -> StageResult:
        """Leaves the reward model in `model/`."""
        groups, unread = taught(self, run)
        trained = self.train(run, groups, run.folder / "model")
        return StageResult(
            rewards={self.name: {"use": "saved", "path": str(trained.folder)}},
            report=ReportParts(left_out={**trained.left_out, **unread}, notes=trained.notes),
            sections=trained.alarms,
            curves=trained.curves,
            metrics=trained.spent.metrics,
        )

    def train(self, run: Run, groups: Sequence[Group], folder: Path, member: int | None = None) -> Trained:
        """One reward model on `groups`, saved in `folder`; a member of an ensemble has a seed and curves of its own."""
        from rlhf_plugins.contract import processes
        from rlhf_plugins.engine.weights.base_paths import described
        from rlhf_plugins.trainers.arguments import record_curves
        from rlhf_plugins.trainers.watching.budget import spending
        from rlhf_plugins.trainers.watching.held_out import choice
        from rlhf_plugins.trainers.watching.supervision import supervise

        trainer, left_out = self._trainer(run, groups, member_seed(run.seed, member))
        ending = "" if member is None else f"_{member}"

        def log(step: int, values: Mapping[str, float]) -> None:
            run.log(step, {f"{name}{ending}": value for name, value in values.items()})

        parts = {"base": described(self.own_base(run)), "pooling": run.spec(self.pooling), "head": run.spec(self.head)}

        def save(into: Path) -> None:
            weights = trainer.model.to_save()
            processes.on_main(lambda: trainer.model.save(into, parts, weights))

        if member is None:  # the steps of members have one folder
            trainer.writes = save
        curves, monitors = record_curves(trainer, log), supervise(trainer, self, run)
        with spending(trainer, self.budget) as spent:
            run.go_on(trainer, last=member is None)
        save(folder)
        notes = (*spent.notes, *choice(trainer, self.name))
        return Trained(folder, left_out, curves.curves, spent, notes, monitors.sections())

    def rehearse(self, run: Run) -> Kept | None:
        """See `Stage`; what a teacher will say of the rows is not known."""
        from rlhf_plugins.engine.weights.loading import load_row_encoder
        from rlhf_plugins.trainers.watching.held_out import held_out

        args, base = self._arguments(run, run.seed), self.own_base(run)
        self._refuse_layers(run, run.weights("start") if self.base is None else Weights("", base))
        encoder = load_row_encoder(base)
        if self.teacher is not None:
            _refuse_teacher(self, run)
            return None
        rows = partial(self._rows, encoder=encoder, max_length=args.max_length)

        def learned(groups: Sequence[Group]) -> tuple[int, Mapping[str, int]]:
            found = rows(groups)
            return len(found.dataset), found.left_out

        found = kept(run.data.train, self._unit, learned)
        held_out(args, run.data.test, partial(tried, make=rows))
        self._try_loss(run, rows)
        return found

    def _try_loss(self, run: Run, rows: Callable[[Sequence[Group]], RankedRows]) -> None:
        """Raises RlhfError for a judgement that the loss refuses, of a response that the base can read."""
        from rlhf_plugins.data.batches.ranked import ranked_rows
        from rlhf_plugins.engine.weights.loading import load_config
        from rlhf_plugins.trainers.reward.trial import try_loss

        def numbered(prompt: Text, response: Text) -> tuple[list[int], list[int]]:
            return [0], [next(numbers)]

        numbers, parts = count(), (load_config(self.own_base(run)), self.pooling, self.head, self.loss)
        columns = self.loss.columns | self.head.columns
        try:
            try_loss(ranked_rows(run.data.train, numbered, None, self.loss.learns_from, columns), *parts)
        except RlhfError:  # maybe of a row that is left out, since it is too long
            try_loss(rows(run.data.train), *parts)

    def _arguments(self, run: Run, seed: int) -> Any:
        """TRL's configuration. Raises RunError where it refuses the options."""
        import trl

        from rlhf_plugins.trainers.arguments import arguments

        ours = {**longest(run), "disable_dropout": not self._drops(run)}
        return arguments(trl.RewardConfig, run.folder, seed, {**ours, **self.trainer})

    def _trainer(self, run: Run, groups: Sequence[Group], seed: int) -> tuple[RewardTrainer, dict[str, int]]:
        """What trains a new reward model on the groups that fit it; and how many do not, by reason."""
        import torch

        from rlhf_plugins.engine.weights.loading import load_row_encoder
        from rlhf_plugins.trainers.arguments import building
        from rlhf_plugins.trainers.reward.trainer import RewardTrainer
        from rlhf_plugins.trainers.watching.held_out import held_out

        torch.manual_seed(seed)  # head and adapter start at random
        args = self._arguments(run, seed)
        encoder = load_row_encoder(self.own_base(run))
        with building(len(groups)):
            model = self._model(run)
            if model.sentences is not None:
                model.sentences.read(encoder.tokenizer)
            rows = partial(self._rows, encoder=encoder, max_length=args.max_length)
            train = rows(groups)
            features = row_features(model, train, encoder.tokenizer.pad_token_id) if self.train_layers == 0 else None
            trainer = RewardTrainer(
                model,
                args,
                train_dataset=train,
                eval_dataset=held_out(args, run.data.test, partial(rows, like=train)),
                processing_class=encoder.tokenizer,
                loss=self.loss,
                sampler=self.sampler,
                tokens_per_batch=self.tokens_per_batch,
                head_learning_rate=self.head_learning_rate,
                features=features,
            )
        return trainer, dict(train.left_out)

    def _drops(self, run: Run) -> bool:
        """Whether the recipe asks for dropout, which TRL's trainer switches off by default."""
        return self.head.dropout > 0 or bool(run.base.adapter and run.base.adapter.lora_dropout)

    def held_out_numbers(self, gold: bool) -> frozenset[str]:
        """See `Stage`."""
        return frozenset({"loss", "accuracy", "margin", "min_reward", "max_reward", "mean_reward"})

    def fits(self, adapter: Adapter | None) -> None:
        """Raises ValueError for quantized weights that would be trained."""
        super().fits(adapter)
        if self.quantization not in (None, "none") and adapter is None and self.train_layers != 0:
            raise ValueError("quantization: needs an adapter, since quantized weights cannot be trained")
        Base("", None if self.quantization == "none" else self.quantization, adapter)  # refuses some pairs of these

    def own_base(self, run: Run) -> Base:
        """The base of its trunk. Raises RunError where it starts from an adapter on a base of another precision."""
        from rlhf_plugins.sandbox import base_path

        own = None if self.quantization == "none" else self.quantization
        if self.base is not None:
            kept = run.base.quantization if self.quantization is None else own
            return replace(run.base, path=base_path(self.base), quantization=kept)
        if self.quantization is None or own == run.base.quantization:
            return run.base
        start = run.weights("start")
        if start.folder is not None:
            raise RunError(f"{self.name}: quantization: it starts from {start.name}, an adapter on its own base")
        return replace(run.base, quantization=own)

    def _model(self, run: Run) -> RewardModel:
        from rlhf_plugins.engine.weights.loading import freeze_below, load_trunk
        from rlhf_plugins.engine.weights.starting import load_trunk_start
        from rlhf_plugins.reward_models.reward_model import RewardModel

        base = self.own_base(run)
        start = run.weights("start") if self.base is None else Weights("", base)
        start = start if start.folder is not None else replace(start, base=base)
        if self.train_layers is None:
            return RewardModel(load_trunk_start(start), self.pooling, self.head)
        self._refuse_layers(run, start)
        return RewardModel(freeze_below(load_trunk(base), self.train_layers), self.pooling, self.head)

    def _refuse_layers(self, run: Run, start: Weights) -> None:
        """Raises RunError where `train_layers` does not go with the start, an adapter or the pooling."""
        if self.train_layers is None:
            return
        if start.folder is not None:
            raise RunError(
                f"{self.name}: train_layers trains layers of a whole model, and it starts from {start.name}, an "
                "adapter; write `from: base`, or put a stage `merge` before"
            )
        if self.train_layers and run.base.adapter:
            raise RunError(f"{self.name}: train_layers trains the base's own weights; write adapter: none")
        if self.train_layers == 0 and self.pooling.builds:
            name = run.spec(self.pooling)["use"]
            raise RunError(f"{self.name}: pooling {name} has weights to train, so its features cannot be computed once")

    def _rows(
        self, groups: Sequence[Group], encoder: RowEncoder, max_length: int | None, like: RankedRows | None = None
    ) -> RankedRows:
        from rlhf_plugins.data.batches.ranked import ranked_rows

        lengths = replace(encoder.lengths, max_length=max_length)
        fit = replace(encoder.fit, lengths=lengths)
        columns = self.loss.columns | self.head.columns
        return ranked_rows(groups, encoder.encode, fit, self.loss.learns_from, columns, like)


def member_seed(seed: int, member: int | None) -> int:
    """The seed of a member of an ensemble, which no member has in a run with another seed; the first has the run's."""
    return int(SeedSequence([seed, member]).generate_state(1)[0] >> 1) if member else seed


def taught(stage: RewardModelStage, run: Run) -> tuple[tuple[Group, ...], dict[str, int]]:
    """The training groups; where there is a teacher, rated by it in the one dimension `teacher` (distillation).

    The second value counts the responses that the teacher cannot read, by reason.

    Raises:
        RunError: no earlier stage of that name left a reward model, or the loss reads no ratings.
    """
    from rlhf_plugins.data.batches.ranked import encodable
    from rlhf_plugins.reward_models.handle import reward_handle
    from rlhf_plugins.reward_models.opening import rated, row_encoder_of

    if stage.teacher is None:
        return run.data.train, {}
    _refuse_teacher(stage, run)
    teacher = reward_handle(run.reward(stage.teacher))
    encoder = row_encoder_of(teacher, run.base)
    groups, unread = encodable(run.data.train, encoder)
    if not groups:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in unread.items())
        raise RunError(f"teacher: {stage.teacher} cannot read any response ({reasons})")
    counted = {f"for the teacher, {reason}": count for reason, count in unread.items()}
    return rated(groups, teacher.predict, encoder), counted


def _refuse_teacher(stage: RewardModelStage, run: Run) -> None:
    """Raises RunError where the loss reads no ratings, which a teacher's rewards become."""
    if "ratings" not in stage.loss.needs_of():
        name = run.spec(stage.loss)["use"]
        raise RunError(f"teacher: its rewards become ratings, which {name} does not read; take one such as regression")


def row_features(model: RewardModel, train: RankedRows, pad_id: int) -> Tensor:
    """The features of every response in the order of the rows, (responses, width)."""
    from rlhf_plugins.contract.rows import Samples

    rows = [(row["prompt_ids"], ids) for row in train.dataset for ids in row["branch_ids"]]
    prompts, responses = map(list, zip(*rows, strict=True))
    nothing = [""] * len(rows)
    return model.features(Samples(nothing, nothing, prompts, responses), pad_id).cpu()  # where all rows are


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"reward_model": RewardModelStage}
