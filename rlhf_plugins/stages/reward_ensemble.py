"""The stage `reward_ensemble`: trains several reward models on resampled data and leaves them as one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import Aggregation
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.contract.run import Adapter, Base, ReportParts, Run, StageResult
from rlhf_plugins.contract.run_kinds import Stage
from rlhf_plugins.contract.workload import Course, Kept, Known, Workload
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.options import options
from rlhf_plugins.stages.reward_model import RewardModelStage, Trained, taught

if TYPE_CHECKING:
    from rlhf_plugins.data.batches.tokens import RowEncoder
    from rlhf_plugins.reward_models.handle import RewardHandle
    from rlhf_plugins.reward_models.members import Orders
    from rlhf_plugins.reward_models.opening import Accuracies

logger = logging.getLogger(__name__)
MEMBERS, FEWEST = 4, 2
PARTS = ("pooling", "reward_head", "reward_loss", "sampler")  # kinds of what each of `models` has of its own
OWN = ("base", "head_learning_rate", "quantization", "tokens_per_batch", "train_layers")  # and options
MEASURED = (
    "Measuring the members took {flops:.4g} FLOPs and {seconds:.4g} seconds, beside the budget of their trainings."
)
SHARED = {  # options of all members together, and their defaults
    "budget": None,
    "data": None,
    "early_stopping_patience": None,
    "early_stopping_threshold": 0.0,
    "from_": "previous",
    "max_grad_value": None,
    "monitors": (),
    "regularizers": (),
    "teacher": None,
}


class Member(NamedTuple):
    """A trained member, its accuracy on the prompts that its bootstrap left out, and how it orders held-out pairs."""

    trained: Trained
    accuracies: Accuracies
    prompts: int  # how many its bootstrap left out
    held_out: Orders
    beside: Mapping[str, float]  # FLOPs and seconds of measuring it, which are not of its budget


@dataclass(frozen=True)
class RewardEnsemble(RewardModelStage, processes="several"):
    """Reward models that differ in their seed and, with `bootstrap`, in the groups that they were trained on.

    With `models` they differ in their base, pooling, head, loss and what else a reward model has of its own; what all
    share, such as `data` and `monitors`, is said once, of the ensemble, and so is what `trainer` has in common. With an
    adapter the members share one base; without one each is a whole model. Each member's accuracy is measured
    on the prompts that its bootstrap left out (Breiman 1996), about 37% where each has one row; without
    bootstrap all count as equal. A `budget` is for their trainings alone: what measuring the members costs beside it is
    said in the report.
    """

    members: Annotated[
        Annotated[int, Field(ge=2)] | None,
        Field(description="reward models to train, all as this stage says; null is 4, or those of `models`"),
    ] = None
    models: tuple[Stage, ...] = uses("stage", [], tag="stage")
    bootstrap: Annotated[bool, Field(description="draw each member's groups with replacement")] = True
    aggregation: Aggregation = uses("aggregation", "mean")
    early_exit: Annotated[
        bool, Field(description="ask no further member about a prompt whose responses two or more order alike")
    ] = False
    name: str = "reward_ensemble"

    def __post_init__(self) -> None:
        self._check_models()
        self.aggregation.fits(self.count)
        if self.aggregation.reads_accuracy and not self.bootstrap:
            name = self.aggregation.recipe_name
            raise ValueError(
                f"aggregation: {name} needs each member's accuracy, which is measured on what its bootstrap left out; "
                "write bootstrap: true, or aggregation: mean"
            )

    @property
    def count(self) -> int:
        """How many members it has."""
        return len(self.models) or self.members or MEMBERS

    def workload(self, adapter: Adapter | None) -> Workload | None:
        """The workload of one reward model; unknown where the members differ."""
        return None if self.models else super().workload(adapter)

    def _check_models(self) -> None:
        """Raises ValueError for members that are no reward models, and for options that nothing would read."""
        if not self.models:
            return
        if self.members is not None:
            raise ValueError("members: `models` says how many there are; leave one of them out")
        if len(self.models) < FEWEST:
            raise ValueError(f"models: at least {FEWEST}")
        if self.teacher is not None:
            raise ValueError("teacher: does not go with `models`")
        for name in OWN:
            if getattr(self, name) != getattr(RewardModelStage, name):
                raise ValueError(f"{name}: each of `models` has its own, so that nothing reads this one")
        for place, model in enumerate(self.models):
            if type(model) is not RewardModelStage:
                raise ValueError(f"models.{place}: should be a reward_model")
            for name, default in SHARED.items():
                if getattr(model, name) != default:
                    raise ValueError(
                        f"models.{place}.{name.rstrip('_')}: all members share it; write it of the ensemble"
                    )

    def _of_member(self, run: Run, member: int) -> RewardModelStage:
        """What trains a member. Raises RunError where an option of the ensemble is not read by any."""
        from rlhf_plugins.trainers.watching.budget import shared_budget

        shared: dict[str, Any] = {"budget": shared_budget(self.budget, self.count)}
        if not self.models:
            return replace(self, **shared)
        for name, of in options(RewardModelStage).items():
            if of.kind in PARTS and getattr(self, name) != run.open(of.kind, of.default):
                raise RunError(f"{self.name}: {name}: each of `models` has its own, so that nothing reads this one")
        model = self.models[member]
        assert isinstance(model, RewardModelStage)
        given = {name: getattr(self, name) for name in SHARED if name not in ("budget", "data")}
        own = {"trainer": {**self.trainer, **model.trainer}, "name": self.name}
        return replace(model, **{**given, **shared, **own})

    def rehearse(self, run: Run) -> Kept | None:
        """Rehearses each of `models`, or one member where all are alike, and returns what that one takes."""
        found = [
            RewardModelStage.rehearse(self._of_member(run, member), run) for member in range(len(self.models) or 1)
        ]
        return None if self.models else found[0]

    def course(self, known: Known) -> Course | None:
        """The length of all members; unknown where they differ."""
        if self.models:
            return None
        one = super().course(known) or Course(None, None, "")
        steps, sequences = (None if count is None else count * self.count for count in (one.steps, one.sequences))
        return Course(steps, sequences, f"{self.count} members, each {one.words}")

    def run(self, run: Run) -> StageResult:
        """Leaves the ensemble in `model/`, its members in `model/0`, `model/1` and so on."""
        from rlhf_plugins.contract import processes
        from rlhf_plugins.reward_models.ensemble import describe
        from rlhf_plugins.reward_models.members import agreement

        folder, (groups, unread) = run.folder / "model", taught(self, run)
        members = [self._member(run, member, groups) for member in range(self.count)]
        accuracy = [member.accuracies.whole for member in members]
        known = None not in accuracy
        if not known and self.aggregation.reads_accuracy:
            name = run.spec(self.aggregation)["use"]
            raise RunError(
                f"aggregation {name} needs each member's accuracy, and a bootstrap left out no pair: use mean"
            )
        topics = {"accuracy_by_topic": by_topic([member.accuracies for member in members])}
        alike = agreement([member.held_out for member in members])
        processes.on_main(
            lambda: describe(
                folder,
                [str(member) for member in range(self.count)],
                run.spec(self.aggregation),
                accuracy=accuracy if known else [1.0] * self.count,
                early_exit=self.early_exit,
                prompts=[member.prompts if known else 0 for member in members],
                agreement=alike and alike._asdict(),
                **(topics if self.aggregation.reads_topics else {}),
            )
        )
        left_out = Counter[str]()
        for member in members:
            left_out.update(member.trained.left_out)
        beside = {name: sum(member.beside[name] for member in members) for name in ("flops", "seconds")}
        notes = [f"Member {i}: {note}" for i, m in enumerate(members) for note in m.trained.notes]
        curves = {f"{name}_{i}": points for i, m in enumerate(members) for name, points in m.trained.curves.items()}
        return StageResult(
            rewards={self.name: {"use": "saved", "path": str(folder)}},
            metrics={"out_of_bag_accuracy": accuracy, **({"beside_budget": beside} if self.budget else {})},
            report=ReportParts(
                left_out={f"{k}, of all members": v for k, v in left_out.items()} | unread,
                notes=[*notes, *([MEASURED.format(**beside)] if self.budget else [])],
            ),
            sections=[section for member in members for section in member.trained.alarms],
            curves=curves,
        )

    def _member(self, run: Run, member: int, groups: Sequence[Group]) -> Member:
        from rlhf_plugins.contract import processes
        from rlhf_plugins.data.fields import key
        from rlhf_plugins.engine.cost import counting
        from rlhf_plugins.reward_models.members import orders
        from rlhf_plugins.reward_models.opening import pair_accuracies

        logger.info("training member %d of %d", member + 1, self.count)
        rng = np.random.default_rng([run.seed, member])
        drawn = rng.integers(len(groups), size=len(groups)) if self.bootstrap else np.arange(len(groups))
        folder = run.folder / "model" / str(member)
        stage = self._of_member(run, member)
        trained = stage.train(run, [groups[i] for i in drawn], folder, member)
        left_out = out_of_bag(groups, drawn.tolist())
        judge, encoder = _opened(run, folder, stage.own_base(run))
        prompts = len({key(group.prompt) for group in left_out if any(not c.tied for c in group.comparisons)})
        with counting() as counter:
            held_out, accuracies = orders(judge, run.data.test, encoder), pair_accuracies(judge, left_out, encoder)
        beside = processes.spent(counter, ("flops", "seconds"))
        return Member(trained, accuracies, prompts, held_out, beside)


def out_of_bag(groups: Sequence[Group], drawn: Sequence[int]) -> list[Group]:
    """The groups whose prompt no drawn group has: neither copies of drawn rows nor other rows of their prompts."""
    seen = {groups[place].prompt_words for place in drawn}
    return [group for group in groups if group.prompt_words not in seen]


def _opened(run: Run, folder: Path, base: Base) -> tuple[RewardHandle, RowEncoder]:
    """A trained member, with the encoder of its base."""
    from rlhf_plugins.engine.weights.loading import load_row_encoder
    from rlhf_plugins.reward_models.opening import open_reward

    return open_reward(folder, run.open, run.base.trust_remote_code), load_row_encoder(base)


def by_topic(members: Sequence[Accuracies]) -> dict[str, list[float | None]]:
    """The accuracies of all members on each topic; a member that had no pair of it has its own."""
    topics = sorted({topic for member in members for topic in member.by_topic})
    return {topic: [member.by_topic.get(topic, member.whole) for member in members] for topic in topics}


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"reward_ensemble": RewardEnsemble}
