"""The stage `harden`: a reward model is attacked with changes that make a response no better, and trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from rlhf_plugins import (
    DataFormat,
    Earlier,
    Group,
    Run,
    RunError,
    Section,
    Stage,
    StageResult,
    hookimpl,
    strict_pairs,
    uses,
)
from rlhf_robust.changes import CHANGES

ABOUT = (
    "The attack puts {candidates} changed versions of every rejected response to the model, padded, with a repeated "
    "sentence or with two words out of order, goes on from the one with the largest reward, up to {changes} changes "
    "in all, and keeps the worst that it has seen; {pairs} held-out pairs."
)


class Attack(NamedTuple):
    """A search for what fools a model: the change of each step that raises the reward most is kept, if one does."""

    candidates: int
    changes: int

    def __call__(self, pairs: Sequence[Group], judge: Any, rng: np.random.Generator) -> list[Group]:
        """The pairs, each with the version of its rejected response that has the largest reward of all seen.

        The versions of a step are scored in one call with the one that they are made of, for a judge that compares.
        """
        every, now = list(CHANGES.values()), list(pairs)
        for _ in range(self.changes):
            tried = [[pair, *self._versions(pair, every, rng)] for pair in now]
            found = rewards([one for versions in tried for one in versions], judge, 1 + self.candidates).reshape(
                len(now), -1
            )
            now = [versions[best] for versions, best in zip(tried, found.argmax(1).tolist(), strict=True)]
        return now

    def _versions(self, pair: Group, every: Sequence[Any], rng: np.random.Generator) -> list[Group]:
        return [version(pair, every[i % len(every)], rng) for i in range(self.candidates)]


@dataclass(frozen=True)
class Harden(Stage, makes={"reward"}):
    """min over theta of the max over changes of the loss: the worst version that is found joins the rows, in rounds.

    A version makes the rejected response no better, so that the pair keeps its label. Each round attacks the last
    model, or has another one attack, and trains a new one on the rows and on all that the rounds have found (Jia and
    Liang 2017, section 4.5; for changes of embeddings Madry et al. 2018, equation 2.1).
    """

    model: Stage = uses("stage", "reward_model", tag="stage")
    rounds: Annotated[int, Field(ge=1, description="of attacking and training again")] = 2
    candidates: Annotated[int, Field(ge=1, description="versions of a response that a step of an attack tries")] = 12
    changes: Annotated[int, Field(ge=1, description="steps of an attack, each from the worst version so far")] = 3
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
        if self.model.data is not None:
            raise ValueError("model: data: each round gives it rows; give yours to this stage")

    def run(self, run: Run) -> StageResult:
        """Hands on the last model. Raises RunError where no pair is strictly ordered, in training or held out."""
        held_out, pairs = (strict_pairs(groups) for groups in (run.data.test, run.data.train))
        if not held_out or not pairs:
            raise RunError(f"{self.name}: no pair is strictly ordered, in training or held out")
        attack = Attack(self.candidates, self.changes)
        specs, added, found = [self._trained(run, 0, ())], [0], list[Group]()
        for number in range(1, self.rounds + 1):
            rng = np.random.default_rng([run.seed, number])
            some = [pairs[i] for i in rng.permutation(len(pairs))[: max(1, round(self.share * len(pairs)))]]
            judge = run.open("reward", specs[-1]) if self.attacker is None else run.reward(self.attacker)
            worst = attack(some, judge, rng)
            found += [one for one, pair in zip(worst, some, strict=True) if one is not pair]
            specs.append(self._trained(run, number, found))
            added.append(len(found))
        judges = [run.open("reward", spec) for spec in specs]
        own = [attack(held_out, judge, np.random.default_rng(run.seed)) for judge in judges]
        rows = [
            {
                "round": number,
                "rows added": count,
                "clean": accuracy(held_out, judge),
                "attacked": accuracy(mine, judge),
                "attacked as the first": accuracy(own[0], judge),
            }
            for number, (count, judge, mine) in enumerate(zip(added, judges, own, strict=True))
        ]
        about = ABOUT.format(candidates=self.candidates, changes=self.changes, pairs=len(held_out))
        return StageResult(
            rewards={self.name: specs[-1]},
            sections=[Section("Hardened", about, rows)],
            metrics={"models": rows},
        )

    def _trained(self, run: Run, number: int, found: Sequence[Group]) -> Any:
        data = replace(run.data, train=(*run.data.train, *found))
        return next(iter(run.train(self.model, name=f"r{number}", data=data).rewards.values()))


def version(pair: Group, change: Any, rng: np.random.Generator) -> Group:
    """The pair with its rejected response changed, of which no true reward and no rating is known."""
    responses = (pair.responses[0], changed(pair.responses[1], change, rng))
    return replace(pair, responses=responses, gold=None, ratings={})


def changed(response: Any, change: Any, rng: np.random.Generator) -> Any:
    """A text, or the last message's, changed."""
    if isinstance(response, str):
        return change(response, rng)
    return [*response[:-1], {**response[-1], "content": change(str(response[-1]["content"]), rng)}]


def rewards(pairs: Sequence[Group], judge: Any, each: int) -> np.ndarray:
    """(pairs,) of the rejected responses, of which every `each` are compared with one another alone."""
    samples = judge.encode(pairs, [pair.responses[1] for pair in pairs])
    groups = [place // each for place in range(len(pairs))]
    found: np.ndarray = judge.predict(replace(samples, siblings=groups)).reward.double().cpu().numpy()
    return found


def accuracy(pairs: Sequence[Group], judge: Any) -> float:
    """The share of pairs in whose chosen response the judge sees more; a tie counts one half."""
    chosen, rejected = (judge.encode(pairs, [pair.responses[place] for pair in pairs]) for place in (0, 1))
    found: np.ndarray = judge.predict(chosen.beside(rejected)).reward.double().cpu().numpy()
    ours, theirs = found.reshape(2, -1)
    return float(np.where(ours == theirs, 0.5, ours > theirs).mean())


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"harden": Harden}
