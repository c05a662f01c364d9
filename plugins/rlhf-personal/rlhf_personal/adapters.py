"""The stage `adapters`: a low-rank adapter for each user on one reward model, from a start that many users taught."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from rlhf_personal.adapting import Adaptable, Fit, added, moved
from rlhf_personal.head import NOBODY, USER
from rlhf_personal.kept import Kept, save
from rlhf_plugins import (
    DataError,
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

ABOUT = (
    "Held-out pairs of {users} users with training rows, {pairs} in all. `theta_meta` is where each user's adapter "
    "starts, after {rounds} rounds over users; delta is what a user's own judgements add to it."
)
Rows: TypeAlias = Mapping[int, Sequence[Group]]


@dataclass(frozen=True)
class Adapters(Stage, takes={"reward"}, makes={"reward"}):
    """theta_u = theta_meta + delta_u: adapters of rank `rank` on one reward model, and a head, for each user.

    The column `user` holds u. theta_meta begins at the reward model. In each round some users' delta are fitted to a
    few of their judgements, and it moves towards theta_meta + their mean (Reptile, Nichol et al. 2018, section 2). Then
    every user's delta is fitted to all their rows, under a normal prior with mean 0. The reward that it hands on is
    that of the user in the column `user`, or of theta_meta for -1; `reward: personal` fits a new user's delta.
    """

    model: Annotated[
        Annotated[str | None, Field(description="the stage that trained the reward model; null is the latest")],
        Earlier("reward"),
    ] = None
    rank: Annotated[int, Field(ge=1, description="of each adapter")] = 4
    rounds: Annotated[int, Field(ge=0, description="of moving theta_meta; 0 leaves it at the reward model")] = 30
    users: Annotated[int, Field(ge=1, description="whose delta a round fits")] = 5
    judgements: Annotated[int, Field(ge=1, description="of each user that a round reads, at most")] = 20
    rate: Annotated[float, Field(gt=0, le=1, description="how far towards the mean of the users a round goes")] = 0.5
    steps: Annotated[int, Field(ge=1, description="that fit a delta, from 0")] = 10
    learning_rate: Annotated[float, Field(gt=0, description="of these steps")] = 3e-3
    strength: Annotated[float, Field(ge=0, description="one over the prior variance of each number of delta")] = 1.0
    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    name: str = "adapters"

    def run(self, run: Run) -> StageResult:
        """Leaves theta_meta and every delta in `model/`.

        Raises:
            DataError: a row has no user.
            RunError: there is no single reward model, or no pair of a user is strictly ordered.
        """
        rows, held_out = by_user(run.data.train), by_user(run.data.test)
        if not rows:
            raise RunError(f"{self.name}: no training pair of a user is strictly ordered")
        run.reward(self.model)  # names those that there are, where this is none of them
        spec = _spec(run, self.model)
        model = Adaptable(run.sharing(None).open("reward", spec), self.rank, run.seed)
        fit, draw = Fit(self.steps, self.learning_rate, self.strength), random.Random(run.seed)
        first = meta = model.theta
        for _ in range(self.rounds):
            some = draw.sample(sorted(rows), min(self.users, len(rows)))
            few = [draw.sample(list(rows[user]), min(self.judgements, len(rows[user]))) for user in some]
            meta = moved(meta, [model.fitted(meta, pairs, fit) for pairs in few], self.rate)
        deltas = {user: model.fitted(meta, pairs, fit) for user, pairs in sorted(rows.items())}
        save(run.folder / "model", Kept(meta, deltas, self.rank, fit))
        known = {user: held_out[user] for user in sorted(deltas.keys() & held_out.keys())}
        found = {
            "the reward model": right(model, known, dict.fromkeys(known, first)),
            "theta_meta": right(model, known, dict.fromkeys(known, meta)),
            "theta_meta + delta": right(model, known, {user: added(meta, deltas[user]) for user in known}),
        }
        about = ABOUT.format(users=len(known), pairs=sum(map(len, known.values())), rounds=self.rounds)
        table = [{"weights": name, "accuracy": _shown(value)} for name, value in found.items()]
        return StageResult(
            rewards={self.name: {"use": "adapters", "reward": spec, "path": str(run.folder / "model")}},
            sections=[Section("Adapters of users", about, table)],
            metrics={name.replace(" ", "_"): value for name, value in found.items()},
        )


def by_user(groups: Sequence[Group]) -> dict[int, list[Group]]:
    """The strictly ordered pairs of each user, without those of -1. Raises DataError for a row without a user."""
    found: dict[int, list[Group]] = {}
    for group in groups:
        user = group.columns.get(USER)
        if not isinstance(user, int) or user < NOBODY:
            where = group.origin or "a row"
            raise DataError(f"{where}: the column `user` should hold a whole number from -1, got {user!r}")
        if user != NOBODY and (pairs := strict_pairs([group])):
            found.setdefault(user, []).extend(pairs)
    return found


def right(model: Any, rows: Rows, thetas: Mapping[int, Any]) -> float | None:
    """The share of all users' pairs that each one's weights order as they did, ties one half; None without a pair."""
    shares: list[float] = []
    for user, pairs in rows.items():
        model.put(thetas[user])
        shares += [0.5 + 0.5 * float(gap > 0) - 0.5 * float(gap < 0) for gap in model.gaps(pairs)]
    return fmean(shares) if shares else None


def _shown(value: float | None) -> str:
    return "no held-out pair" if value is None else f"{value:.4f}"


def _spec(run: Run, name: str | None) -> Any:
    """The spec of the newest reward model of the run that `name` names, as a stage handed it on; None names any."""
    made = [(result.name, own, spec) for result in run.finished for own, spec in result.rewards.items()]
    return next(spec for stage, own, spec in reversed(made) if name in (None, own, stage, f"{stage}/{own}"))


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"adapters": Adapters}
