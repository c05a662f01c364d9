"""The stage `auto`: asks a selector for an algorithm, and trains with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.run import Run, Section, StageResult
from rlhf_plugins.contract.run_kinds import DataFormat, Selector, Stage
from rlhf_plugins.contract.selection import Choice, Resources, Situation
from rlhf_plugins.errors import ComponentError, NotLookedAtError, PluginError, RlhfError, RunError
from rlhf_plugins.stages._training_options import From

if TYPE_CHECKING:
    from rlhf_plugins.forecast.costs import Costs

Own = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Auto(Stage, makes={"policy"}, processes="several"):
    """Trains by the algorithm that a selector ranks first for the run's data and for what may be used.

    The parts keep their names, so that `auto/dpo` has its own curves. A part that makes a policy starts from the part
    before it that made one. A reward model is handed on where one was trained. Where the resources have hours, each
    training ends after an equal part of them, or by a `budget` of its own.
    """

    selector: Selector = uses("selector", "rules")
    resources: Resources = field(default_factory=Resources)
    algorithms: Annotated[list[str], Field(min_length=1, description="that it chooses among")] = field(
        default_factory=lambda: ["dpo", "ipo", "ppo", "dpo_then_ppo"]
    )
    own: Annotated[Own, Field(description="stages of further algorithms, or instead of ours, by name")] = field(
        default_factory=dict
    )
    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    from_: From = "previous"
    trainer: Annotated[dict[str, Any], Field(description="TRL's options of every part that gives no others")] = field(
        default_factory=dict
    )
    name: str = "auto"

    def missing(self) -> dict[str, str]:
        """What is wrong with the stages of an algorithm, before any is chosen."""
        from rlhf_plugins.recipe.candidates import faults

        try:
            found = {name: faults(stages) for name, stages in self.stages().items()}
        except PluginError as error:
            return {"algorithms": str(error)}
        return {
            f"own.{name}" if name in self.own else "algorithms": f"{name}: {wrong[0]}"
            for name, wrong in found.items()
            if wrong
        }

    def stages(self) -> dict[str, list[dict[str, Any]]]:
        """The stages of every algorithm. Raises PluginError for an unknown one."""
        from rlhf_plugins.recipe.candidates import candidates, with_trainer

        found = candidates(self.algorithms, self.own)
        return {name: with_trainer(stages, self.trainer) for name, stages in found.items()}

    def rehearse(self, run: Run) -> None:
        """Rehearses the stages of every algorithm. Raises RunError where none could train.

        Raises NotLookedAtError where some could: which of them is chosen is not known.
        """
        failed = {name: why for name, stages in self.stages().items() if (why := _refused(stages, run))}
        if not failed:
            return
        message = "; ".join(f"{name} would fail, {why}" for name, why in failed.items())
        if len(failed) == len(self.algorithms):
            raise RunError(f"{self.name}: no algorithm can train: {message}")
        raise NotLookedAtError(f"what stage {self.name} chooses, of which {message}")

    def run(self, run: Run) -> StageResult:
        """Leaves each part in a folder of its own; the choice is made once, also where the run is killed."""
        from rlhf_plugins.recipe.candidates import makes_policy, within

        ranked = run.once("choice", lambda: [asdict(choice) for choice in self.ranked(run)])
        best = ranked[0]
        if not best["possible"]:
            raise RunError(f"{self.name}: no algorithm can do what is asked: {'; '.join(best['reasons'])}")
        policies: Mapping[str, Any] = {}
        rewards: Mapping[str, Any] = {}
        for words in within(self.stages()[best["algorithm"]], self.resources.hours):
            start = next(iter(policies), None) if makes_policy(words) else None
            stage = words.pop("stage")
            made = run.train({"use": stage, **words}, name=str(words.get("name", stage)), start=start)
            policies, rewards = made.policies or policies, made.rewards or rewards
        return StageResult(
            policies={self.name: next(iter(policies.values()))} if policies else {},
            rewards={self.name: next(iter(rewards.values()))} if rewards else {},
            sections=[
                Section("Choice", f"{best['algorithm']}, by what is known of the data and asked.", table(ranked))
            ],
            metrics={"algorithm": best["algorithm"]},
        )

    def ranked(self, run: Run) -> Sequence[Choice]:
        """The selector's answer for the run's data."""
        from rlhf_plugins.data.measures.features import features
        from rlhf_plugins.engine.weights.loading import load_row_encoder
        from rlhf_plugins.evaluate.off_policy import off_policy, tried
        from rlhf_plugins.forecast.ranking import ranked

        with run.policy() as policy:
            own, unseen = tried(lambda: off_policy(policy, run.data, load_row_encoder(run.base), run.seed))
        seen = replace(features(run.data), **own)
        situation = Situation(seen, self.resources, tuple(self.algorithms), self.stages())
        found = ranked(self.selector.acting(run), situation, self.costs(run))
        return [replace(choice, reasons=(*choice.reasons, *unseen)) for choice in found]

    def costs(self, run: Run) -> dict[str, Costs]:
        """What each algorithm takes, on the GPU that the resources name or else on this machine's."""
        from rlhf_plugins.engine.weights.loading import load_row_encoder
        from rlhf_plugins.forecast.cards import present
        from rlhf_plugins.forecast.costs import card_of, costs, mean_tokens
        from rlhf_plugins.recipe.candidates import made

        mean, card = mean_tokens(run.data, load_row_encoder(run.base)), card_of(self.resources.vram) or present()
        own = {name: [made(words) for words in stages] for name, stages in self.stages().items()}
        return {name: costs(stages, run.base, run.data, card, mean) for name, stages in own.items()}


def _refused(stages: Sequence[Mapping[str, Any]], run: Run) -> str:
    """Which stage of an algorithm would stop before it loads weights, and why; empty where none was found."""
    from rlhf_plugins.recipe.candidates import made
    from rlhf_plugins.recipe.column_needs import refuse_unmet

    for stage in map(made, stages):
        try:
            refuse_unmet(stage, run.data.train, lambda part: str(run.spec(part)["use"]))
            stage.rehearse(run)
        except (NotLookedAtError, ComponentError):
            raise
        except RlhfError as error:
            return f"{stage.name}: {error}"
    return ""


def table(ranked: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The ranking as rows of a report."""
    from rlhf_plugins.forecast.costs import in_words

    return [
        {
            "place": place,
            "algorithm": choice["algorithm"],
            "expected": choice["score"],
            "from": choice["low"],
            "to": choice["high"],
            "cost": in_words(choice["cost"]),
            "reasons": "; ".join(choice["reasons"]),
        }
        for place, choice in enumerate(ranked, 1)
    ]


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"auto": Auto}
