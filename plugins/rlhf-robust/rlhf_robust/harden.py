"""The stage `harden`: a reward model is attacked with changes that make a response no better, and trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from rlhf_plugins import DataFormat, Earlier, Group, Run, RunError, Section, Stage, StageResult, hookimpl, uses
from rlhf_robust.changes import CHANGES

ABOUT = (
    "The attack puts {candidates} changed versions of every rejected response to the model, padded, with a repeated "
    "sentence or with two words out of order, and takes the one with the largest reward; {pairs} held-out pairs."
)


class Attack(NamedTuple):
    """Pairs, and versions of their rejected responses."""

    chosen: list[tuple[Any, Any]]  # prompt and response
    rejected: list[list[tuple[Any, Any]]]  # as it is first, then its versions

    def rewards(self, judge: Any) -> tuple[Any, Any]:
        """(pairs,) of the chosen responses, and (pairs, versions) of the others."""
        asked = [*self.chosen, *(one for versions in self.rejected for one in versions)]
        found = judge.predict(judge.encode(*map(list, zip(*asked, strict=True)))).reward.double().cpu().numpy()
        return found[: len(self.chosen)], found[len(self.chosen) :].reshape(len(self.chosen), -1)


@dataclass(frozen=True)
class Harden(Stage, makes={"reward"}):
    """min over theta of the max over changes of the loss: the worst version that is found joins the rows, in rounds.

    A version makes the rejected response no better, so that the pair keeps its label. Each round attacks the last
    model, or has another one attack, and trains a new one on the rows and on all that the rounds have found (Jia and
    Liang 2017, section 4.5; for changes of embeddings Madry et al. 2018, equation 2.1).
    """

    model: Stage = uses("stage", "reward_model", tag="stage")
    rounds: Annotated[int, Field(ge=1, description="of attacking and training again")] = 2
    candidates: Annotated[int, Field(ge=1, description="versions of a rejected response that an attack tries")] = 12
    share: Annotated[float, Field(gt=0, le=1, description="of the training pairs that a round attacks")] = 0.5
    attacker: Annotated[
        Annotated[str | None, Field(description="an earlier stage whose reward says which version is the worst")],
        Earlier("reward"),
    ] = None  # None: the model itself
    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    name: str = "harden"

    def __post_init__(self) -> None:
        if "reward" not in self.model.makes:
            raise ValueError("model: should be a stage that makes a reward, such as reward_model")

    def run(self, run: Run) -> StageResult:
        """Hands on the last model. Raises RunError where no pair is strictly ordered, in training or held out."""
        held_out, pairs = (strict(groups) for groups in (run.data.test, run.data.train))
        if not held_out or not pairs:
            raise RunError(f"{self.name}: no pair is strictly ordered, in training or held out")
        specs = [self._trained(run, 0, ())]
        found: list[Group] = []
        added = [0]
        for number in range(1, self.rounds + 1):
            rng = np.random.default_rng([run.seed, number])
            some = [pairs[i] for i in rng.permutation(len(pairs))[: max(1, round(self.share * len(pairs)))]]
            judge = run.open("reward", specs[-1]) if self.attacker is None else run.reward(self.attacker)
            found += worst(self._attack(some, rng), judge)
            specs.append(self._trained(run, number, found))
            added.append(len(found))
        attack = self._attack(held_out, np.random.default_rng(run.seed))
        rewards = [attack.rewards(run.open("reward", spec)) for spec in specs]
        first = rewards[0][1].argmax(1)
        rows = [
            {"round": i, "rows added": count, **accuracies(*each, first)}
            for i, (count, each) in enumerate(zip(added, rewards, strict=True))
        ]
        about = ABOUT.format(candidates=self.candidates, pairs=len(held_out))
        return StageResult(
            rewards={self.name: specs[-1]},
            sections=[Section("Hardened", about, rows)],
            metrics={"models": rows},
        )

    def _trained(self, run: Run, number: int, found: Sequence[Group]) -> Any:
        data = replace(run.data, train=(*run.data.train, *found))
        return next(iter(run.train(self.model, name=f"r{number}", data=data).rewards.values()))

    def _attack(self, pairs: Sequence[Group], rng: np.random.Generator) -> Attack:
        chosen = [(pair.prompt, pair.responses[0]) for pair in pairs]
        rejected = [
            [(pair.prompt, pair.responses[1]), *((pair.prompt, one) for one in self._versions(pair.responses[1], rng))]
            for pair in pairs
        ]
        return Attack(chosen, rejected)

    def _versions(self, response: Any, rng: np.random.Generator) -> list[Any]:
        every = list(CHANGES.values())
        return [changed(response, every[i % len(every)], rng) for i in range(self.candidates)]


def strict(groups: Sequence[Group]) -> list[Group]:
    """Every strictly ordered pair, the better response first."""
    return [
        Group(group.prompt, (group.responses[one.better], group.responses[one.worse]), (0, 1))
        for group in groups
        for one in group.comparisons
        if not one.tied
    ]


def worst(attack: Attack, judge: Any) -> list[Group]:
    """The pairs whose rejected response has a version with a larger reward, with the largest of them."""
    _, rewards = attack.rewards(judge)
    places = rewards.argmax(1)
    return [
        Group(prompt, (response, attack.rejected[number][place][1]), (0, 1))
        for number, ((prompt, response), place) in enumerate(zip(attack.chosen, places.tolist(), strict=True))
        if place
    ]


def changed(response: Any, change: Any, rng: np.random.Generator) -> Any:
    """A text, or the last message's, changed."""
    if isinstance(response, str):
        return change(response, rng)
    return [*response[:-1], {**response[-1], "content": change(str(response[-1]["content"]), rng)}]


def accuracies(chosen: Any, rejected: Any, first: Any) -> dict[str, float]:
    """Of a model: on pairs as they are, under its own worst versions, and under those found for the first model.

    Args:
        chosen: (pairs,) rewards.
        rejected: (pairs, versions) rewards, of the response as it is in the first column.
        first: (pairs,) the version with the first model's largest reward.
    """
    against = {
        "clean": rejected[:, 0],
        "attacked": rejected.max(1),
        "attacked as the first": rejected[range(len(first)), first],
    }
    return {name: _accuracy(chosen, each) for name, each in against.items()}


def _accuracy(chosen: Any, rejected: Any) -> float:
    """A tie counts one half."""
    return float(np.where(chosen == rejected, 0.5, chosen > rejected).mean())


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"harden": Harden}
