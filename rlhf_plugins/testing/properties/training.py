"""Properties of a real training, however small: an option that is read may still be undone by what comes after it."""

from __future__ import annotations

import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_plugins.contract.rows import Group, Samples
from rlhf_plugins.data.file_names import REWARD_MODEL
from rlhf_plugins.errors import RlhfError
from rlhf_plugins.recipe.options import Option, options
from rlhf_plugins.testing.conformance import holds_of
from rlhf_plugins.testing.records import flat
from rlhf_plugins.testing.subject import Subject, expect
from rlhf_plugins.testing.values import others

if TYPE_CHECKING:
    from rlhf_plugins.registry.registry import Registry

ROUNDING = 1e-5  # what differs by less is felt by nobody
Weights = dict[str, Tensor]
TRIED = 6  # other values of an option, until one of them changes the training
QUIET = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "bf16": False}
SHORT = {**QUIET, "optim": "sgd", "learning_rate": 0.5, "gradient_checkpointing": False}  # Adam magnifies rounding
PAIRS = {**SHORT, "max_steps": 8, "per_device_train_batch_size": 4}
ROLLOUTS = {
    **SHORT,
    "per_device_train_batch_size": 4,
    "num_generations": 2,
    "steps_per_generation": 2,
    "num_iterations": 2,
    "max_steps": 8,
    "max_completion_length": 6,
}


@dataclass(frozen=True)
class Place:
    """Where a recipe has a component of a kind."""

    stage: str
    key: str
    rest: dict[str, Any]

    def spec(self, component: dict[str, Any]) -> dict[str, Any]:
        """The stage in a recipe's words."""
        held: Any = [component] if self.key == "shaping" else component
        held = {"use": "in_loss", "coef": 1.0, "estimator": component} if self.key == "kl.estimator" else held
        return {"use": self.stage, **self.rest, self.key.partition(".")[0]: held}


_REWARD = {"trainer": PAIRS}
_ONLINE = {
    "trainer": ROLLOUTS,
    "reward": {"use": "weighted", "parts": ["gold"], "weights": [40.0]},
    "shaping": [],
    "monitors": [],
}
PLACES: dict[str, tuple[Place, ...]] = {  # a component is felt if it is in one of them
    "pooling": (Place("reward_model", "pooling", _REWARD),),
    "reward_head": (
        Place("reward_model", "head", _REWARD),
        Place("reward_model", "head", {**_REWARD, "loss": "thurstone"}),  # which trains a variance
    ),
    "reward_loss": (
        Place("reward_model", "loss", {**_REWARD, "head": {"use": "multi", "dimensions": ["helpful", "honest"]}}),
        Place("reward_model", "loss", {**_REWARD, "head": "quantile"}),
    ),
    "sampler": (Place("reward_model", "sampler", _REWARD),),
    "preference_loss": (Place("preference", "loss", _REWARD),),
    "advantage": (Place("online", "advantage", _ONLINE),),
    "policy_loss": (Place("online", "policy_loss", _ONLINE),),
    "reduction": (Place("online", "reduction", _ONLINE),),
    "kl": (Place("online", "kl", _ONLINE),),
    "kl_estimator": (Place("online", "kl.estimator", _ONLINE),),
    "shaping": (Place("online", "shaping", _ONLINE),),
}


@holds_of(*PLACES, trains=True)
def options_are_felt(subject: Subject) -> None:
    """An option that a training undoes, as whitening undoes a constant baseline, is tuned and reported for nothing."""
    own = options(subject.cls).values()
    places = [(place, _trained(subject, place)) for place in PLACES[subject.kind] if own]
    for option in own:
        tried: list[Any] = []
        felt = any(_is_felt(subject, option, place, before, tried) for place, before in places)
        values = ", ".join(dict.fromkeys(map(str, tried)))
        words = f"{option.name} = {values}, a training of a few steps each"
        expect(felt or not tried, words, "other weights or outputs somewhere", f"the same, to within {ROUNDING}")


def _is_felt(subject: Subject, option: Option, place: Place, before: Weights | None, tried: list[Any]) -> bool:
    """Whether one of a few other values changes the training; those that could be tried are noted."""
    if before is None:
        return False
    now = subject.required.get(option.name, option.default)
    for value, _ in zip(others(option, now, subject.registry), range(TRIED), strict=False):
        if (after := _trained(subject, place, **{option.name: value})) is not None:
            tried.append(value)
            if _differ(before, after):
                return True
    return False


def _trained(subject: Subject, place: Place, **changes: Any) -> Weights | None:
    """The weights after a small training; None where the stage refuses the component, its options or these rows."""
    from rlhf_plugins.recipe.assemble import component
    from rlhf_plugins.testing.tiny import tiny_run

    words = {"use": subject.name, **subject.required, **changes}
    with tempfile.TemporaryDirectory() as folder:
        try:
            stage = component("stage", place.spec(words), subject.registry)
            torch.manual_seed(0)
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                stage.run(tiny_run(tiny_adapted(), Path(folder) / "run", varied_pairs()))
        except RlhfError:
            return None
        return {**_weights(Path(folder) / "run"), **_predictions(Path(folder) / "run" / "model", subject.registry)}


def _weights(folder: Path) -> Weights:
    from safetensors.torch import load_file

    files = sorted(folder.rglob("*.safetensors"))
    return {f"{file.relative_to(folder)}:{name}": value for file in files for name, value in load_file(file).items()}


def _predictions(folder: Path, registry: Registry) -> Weights:
    """The outputs of a reward model for a few responses; nothing where the folder holds none."""
    from rlhf_plugins.recipe.assemble import component
    from rlhf_plugins.reward_models.opening import open_reward

    if not (folder / REWARD_MODEL).exists():
        return {}
    ids = [[3, 4, 1], [9, 10, 11, 1], [5, 1]]
    judge = open_reward(folder, lambda kind, words: component(kind, words, registry))
    return flat(judge(Samples(["how"] * 3, ["x"] * 3, [[15]] * 3, ids)))


def _differ(one: Weights, other: Weights) -> bool:
    return one.keys() != other.keys() or any(_apart(one[name], other[name]) for name in one)


def _apart(one: Tensor, other: Tensor) -> bool:
    return one.shape != other.shape or not torch.allclose(one, other, rtol=0, atol=ROUNDING, equal_nan=True)


@cache
def tiny_adapted() -> Any:
    """A tiny base with an adapter."""
    from rlhf_plugins.contract.run import Adapter
    from rlhf_plugins.testing.tiny import tiny_base

    folder = tempfile.TemporaryDirectory(prefix="rlhf-conformance-base-")
    _KEPT.append(folder)
    return replace(tiny_base(Path(folder.name)), adapter=Adapter(r=2))


_KEPT: list[Any] = []  # folders that live until the process ends


@cache
def varied_pairs() -> tuple[Group, ...]:
    """Pairs with all that people may add to them, unlike from row to row, and rankings of which a part is unplaced."""
    from rlhf_plugins.testing.tiny import tiny_pairs

    pairs = tuple(
        replace(
            pair,
            margin=float(1 + row % 3),
            weight=1.0 - 0.2 * (row % 4),
            topic="abc"[row % 3],
            difficulty=float(row % 5),
            ratings={"helpful": (4.0 - row % 2, 1.0), "honest": (3.0, 1.0 + row % 2)},
        )
        for row, pair in enumerate(tiny_pairs(16))
    )
    ranks = ((0, 1, None), (0, 0, 1))
    return (*pairs, *(Group("how is\n", ("ant", "gas", "bee key"), ranks[row % 2]) for row in range(4)))
