"""What answers prompts: a saved policy, the base, a mixture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rlhf_plugins.contract.component import Earlier, one_for_each, uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.on_disk import OnDisk
from rlhf_plugins.contract.run import Weights
from rlhf_plugins.contract.run_kinds import Generator
from rlhf_plugins.data.file_names import ADAPTER

if TYPE_CHECKING:
    from rlhf_plugins.contract.handles import Policy
    from rlhf_plugins.contract.run import Base, Run


@dataclass(frozen=True)
class Trained(Generator):
    """A policy that a stage saved: an adapter on its base, or a whole model."""

    path: Annotated[str | None, OnDisk(), Field(description="the folder that holds it; null is the base alone")] = None
    base: Annotated[
        str | None, OnDisk(), Field(description="of an adapter; null is the one noted beside it, or the run's")
    ] = None
    trainable: Annotated[bool, Field(description="let its weights be trained further")] = False

    def build(self, run: Run) -> Policy:
        """Raises RunError when it does not load, or does not fit its base."""
        from rlhf_plugins.engine.policy import open_policy

        folder = None if self.path is None else Path(self.path)
        return open_policy(folder, self._base(run.base), self.trainable, run.backbone)

    def saved_at(self, base: Weights) -> Weights:
        """An adapter on its base, or a whole model."""
        if self.path is None:
            return Weights("", self._base(base.base))
        if (Path(self.path) / ADAPTER).exists():
            return Weights("", self._base(base.base), Path(self.path))
        return Weights("", replace(base.base, path=self.path))

    def _base(self, base: Base) -> Base:
        from rlhf_plugins.engine.policy import base_of

        return replace(base, path=self.base) if self.base else base_of(Path(self.path) if self.path else None, base)


@dataclass(frozen=True)
class EarlierPolicy(Generator):
    """A policy that an earlier stage of the run handed on."""

    name: Annotated[
        str | None,
        Field(description="of the policy, or of its stage; null is where this stage starts"),
        Earlier("policy"),
    ] = None

    def build(self, run: Run) -> Policy:
        """Raises RunError when there is none of that name."""
        return run.policy(self.name)


@dataclass(frozen=True)
class BaseModel(Generator):
    """The run's base; where it is trainable, with a new adapter, or the one that the run went on from."""

    trainable: Annotated[bool, Field(description="let it be trained, as the recipe's `adapter` says")] = False

    def build(self, run: Run) -> Policy:
        """Raises RunError when the base does not load."""
        from rlhf_plugins.engine.policy import open_policy

        weights = run.weights("base")
        return open_policy(weights.folder, weights.base, self.trainable, run.backbone)

    def saved_at(self, base: Weights) -> Weights:
        """The base's."""
        return base


@dataclass(frozen=True)
class Mixture(Generator):
    """sum_i w_i of several policies: of their logits for each token, or of their weights (Wortsman et al. 2022)."""

    policies: tuple[Generator, ...] = uses("generator")
    weights: Annotated[list[float] | None, Field(description="w, one per policy; null is the mean")] = None
    over: Annotated[Literal["logits", "weights"], Field(description="what is summed")] = "logits"

    def __post_init__(self) -> None:
        if not self.policies:
            raise ValueError("policies: at least one")
        one_for_each(self.weights, self.policies, "policies")

    def build(self, run: Run) -> Policy:
        """Raises RunError when a policy does not load, or they do not go together."""
        from rlhf_plugins.engine.mixture import mix

        weights = self.weights or [1 / len(self.policies)] * len(self.policies)
        return mix(dict(zip([policy.build(run) for policy in self.policies], weights, strict=True)), self.over)


@hookimpl
def register_generator() -> dict[str, type]:
    """The bundled generators."""
    return {"base": BaseModel, "mixture": Mixture, "policy": EarlierPolicy, "trained": Trained}
