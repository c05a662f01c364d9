"""The options that all stages that train have in common; it is no stage itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from rlhf_plugins.contract.component import Earlier, uses
from rlhf_plugins.contract.run import Adapter, Budget
from rlhf_plugins.contract.run_kinds import DataFormat, Monitor, Regularizer, Stage

TokensPerBatch = Annotated[
    Annotated[int, Field(ge=1)] | None,
    Field(description="tokens in memory at once; larger batches are cut into micro-batches of equal effect"),
]

From = Annotated[
    Annotated[str, Field(description="`base`, `previous` (the last stage that made a policy), or an earlier policy")],
    Earlier("policy", ("base", "previous")),
]
Reference = Annotated[
    Annotated[str, Field(description="of the KL: `base`, `start` (what it starts from), or an earlier policy")],
    Earlier("policy", ("base", "start")),
]

NEEDS = "needs `trainer: {eval_strategy: steps}`, which evaluates"


@dataclass(frozen=True)
class Training(Stage, makes_rollouts=False):
    """A stage that trains; on rows, unless it gives the trait itself."""

    monitors: tuple[Monitor, ...] = uses("monitor", [])
    regularizers: tuple[Regularizer, ...] = uses("regularizer", [])
    budget: Annotated[Budget | None, Field(description="the training ends at the first step that reaches it")] = None
    max_grad_value: Annotated[
        Annotated[float, Field(gt=0)] | None,
        Field(description="limit of each component of the gradient, after `trainer.max_grad_norm`; `none` is no limit"),
    ] = None
    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    early_stopping_patience: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(description="evaluations without a better `metric_for_best_model`, after which the training ends"),
    ] = None
    early_stopping_threshold: Annotated[float, Field(ge=0, description="how much better it has to be")] = 0.0

    def fits(self, adapter: Adapter | None) -> None:
        """Raises ValueError for an early end where the trainer evaluates nothing."""
        asked = self.early_stopping_patience is not None
        if asked and getattr(self, "trainer", {}).get("eval_strategy", "no") == "no":
            raise ValueError(f"early_stopping_patience: {NEEDS}")
