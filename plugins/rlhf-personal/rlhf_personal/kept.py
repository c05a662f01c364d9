"""What a stage `adapters` leaves, and the reward `adapters` of the users in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rlhf_personal.adapting import Adaptable, Fit, Theta, added
from rlhf_personal.head import NOBODY, USER, of_nobody
from rlhf_plugins import DataError, Group, OnDisk, Prediction, Reward, Run, RunError, Samples, hookimpl, uses

META, FILE = "meta", "adapters.safetensors"


class Kept(NamedTuple):
    """What is saved."""

    meta: Theta
    deltas: Mapping[int, Theta]
    rank: int
    fit: Fit


def save(folder: Path, kept: Kept) -> None:
    """Writes theta_meta and the delta of each user in a file of the folder."""
    named = {META: kept.meta, **{str(user): delta for user, delta in kept.deltas.items()}}
    tensors = {f"{who}/{name}": w.cpu().contiguous() for who, theta in named.items() for name, w in theta.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / FILE, metadata={"rank": str(kept.rank), "fit": json.dumps(asdict(kept.fit))})


def load(folder: Path) -> Kept:
    """The inverse of `save`. Raises RunError where the file is missing or another one."""
    found: dict[str, dict[str, Any]] = {}
    try:
        with safe_open(folder / FILE, "pt") as read:
            about = read.metadata()
            for key in read.keys():  # noqa: SIM118 (it is no mapping)
                who, _, name = key.partition("/")
                found.setdefault(who, {})[name] = read.get_tensor(key)
        meta, rank, fit = found.pop(META), int(about["rank"]), Fit(**json.loads(about["fit"]))
        return Kept(meta, {int(who): delta for who, delta in found.items()}, rank, fit)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder}: holds no adapters of users ({error})") from error


@dataclass(frozen=True)
class OfUsers(Reward):
    """A reward model with theta_meta + delta_u for the user u in the column `user`, and with theta_meta for -1."""

    path: Annotated[str, OnDisk(), Field(min_length=1, description="the folder that the stage `adapters` left")]
    reward: Reward = uses("reward", "model")

    def missing(self) -> dict[str, str]:
        """The folder, where it holds no adapters."""
        there = (Path(self.path).expanduser() / FILE).is_file()
        return {} if there else {"path": f"{self.path}: holds no adapters of users"}

    def build(self, run: Run) -> Users:
        """Raises RunError where the file is another one or does not fit the reward model."""
        kept = load(Path(self.path).expanduser())
        model: Any = run.sharing(None).open("reward", run.spec(self.reward))  # no other model sees its adapters
        return Users(Adaptable(model, kept.rank), kept)


class Users:
    """What it builds."""

    def __init__(self, model: Adaptable, kept: Kept) -> None:
        self.model, self.kept = model, kept
        self.module, self.encoder = model.model.module, model.model.encoder
        model.put(kept.meta)

    def __call__(self, samples: Samples) -> Prediction:
        """Raises DataError where a response has no user, or one without an adapter."""
        users = [self._known(user) for user in samples.columns.get(USER, [None] * len(samples.responses))]
        rewards = torch.zeros(len(users))
        for user in sorted(set(users)):
            places = [place for place, other in enumerate(users) if other == user]
            theta = self.kept.meta if user == NOBODY else added(self.kept.meta, self.kept.deltas[user])
            rewards[places] = self._of(theta, samples.take(places))
        return Prediction(rewards)

    def of_one(self, groups: Sequence[Group]) -> Callable[[Samples], Prediction]:
        """The reward of a new user, from their judgements."""
        meta = self.kept.meta
        theta = added(meta, self.model.fitted(meta, groups, self.kept.fit))
        return lambda samples: Prediction(self._of(theta, samples))

    def _of(self, theta: Theta, samples: Samples) -> torch.Tensor:
        self.model.put(theta)
        found: torch.Tensor = self.model.model.predict(of_nobody(samples)).reward
        return found

    def _known(self, user: Any) -> int:
        if user != NOBODY and user not in self.kept.deltas:
            known = ", ".join(map(str, self.kept.deltas))
            raise DataError(f"the column `user` should hold -1 or a user with an adapter ({known}), got {user!r}")
        return int(user)


@hookimpl
def register_reward() -> dict[str, type]:
    """The reward of this file."""
    return {"adapters": OfUsers}
