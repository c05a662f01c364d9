"""A hard limit on the KL: no optimizer step leaves the policy beyond it, whatever the learning rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from marks import slow
from torch import Tensor

from rlhf_plugins.components.kl import Constraint
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.trainers.online.trainer import OnlineTrainer

from . import by_hand
from .conftest import furthest, trained
from .online_parts import Bases, logged, objective, trainer

HELD, FREE = {"use": "constraint", "limit": 0.05}, {"use": "in_reward", "coef": 0.0}
FAST = {"learning_rate": 1.0, "lr_scheduler_type": "constant", "num_iterations": 2, "max_steps": 8}  # 100 times


class Measuring(OnlineTrainer):
    """Measures each KL a second time, before and after each optimizer step, with every sequence alone."""

    samples: Any = None

    def training_step(self, *given: Any) -> Tensor:
        self.after: list[float] = [*getattr(self, "after", []), *self._by_hand()]
        loss = super().training_step(*given)
        self.samples = self._experience.samples  # type: ignore[union-attr]
        self.before: list[float] = [*getattr(self, "before", []), *self._by_hand()]
        return loss

    @torch.no_grad()
    def _by_hand(self) -> list[float]:
        if self.samples is None:
            return []
        found = []
        for ids in zip(self.samples.prompt_ids, self.samples.response_ids, strict=True):
            own = by_hand.log_probs(self, self.model, ids)
            with self.model.disable_adapter():
                other = by_hand.log_probs(self, self.model, ids)
            found.append((own.exp() * (own - other)).sum(-1))
        return [float(torch.cat(found).mean())]


@pytest.mark.parametrize(
    "options",
    [
        {"tokens_per_batch": 24, "max_steps": 4},
        *slow({"tokens_per_batch": 24}, {}, {"temperature": 0.7}),
    ],
)
def test_at_100_times_the_learning_rate_no_step_exceeds_the_limit(bases: Bases, tmp_path: Path, options: Any) -> None:
    """The KL may be larger where a new rollout is, since it is measured at its tokens then; but it does not rise."""
    held: Any = trainer(bases(), tmp_path, objective(kl=HELD), cls=Measuring, **{**FAST, **options})
    held.train()
    assert len(held.after) == held.args.max_steps - 1
    assert max(held.after[:4]) <= 0.05 * 1.001
    assert all(after <= max(0.05, before) * 1.001 for before, after in zip(held.before, held.after, strict=False))
    assert logged(held, "constrained_kl")[:-1] == pytest.approx(held.after, rel=1e-3, abs=1e-5)
    assert any(0 < share < 1 for share in logged(held, "update_share"))


@pytest.mark.slow
def test_without_it_the_kl_is_far_beyond(bases: Bases, tmp_path: Path) -> None:
    free: Any = trainer(bases(), tmp_path, objective(kl=FREE), cls=Measuring, **FAST)
    free.train()
    assert max(free.after) > 1
    assert not logged(free, "update_share")


@pytest.mark.slow
def test_a_limit_that_no_step_reaches_changes_nothing(bases: Bases, tmp_path: Path) -> None:
    ends = []
    for kl in ({"use": "constraint", "limit": 1e6, "coef": 0.0}, FREE):
        found = trainer(bases(), tmp_path, objective(kl=kl))
        found.train()
        ends.append(trained(found))
    assert furthest(*ends) == 0


class Never(Constraint):
    def accepts(self, kl: float, before: float) -> bool:
        return False


@pytest.mark.parametrize("adapter", [True, *slow(False)], ids=["lora", "full"])
def test_an_update_that_is_never_accepted_is_undone(bases: Bases, tmp_path: Path, adapter: bool) -> None:
    """The value head learns nevertheless."""
    aim = objective(kl=Never(estimator=component("kl_estimator", "k3")))
    found = trainer(bases(), tmp_path, aim, adapter=adapter, max_steps=1)
    before = trained(found)
    found.train()
    moved = {name for name, weights in trained(found).items() if not torch.equal(weights, before[name])}
    assert moved == {"value_head.weight", "value_head.bias"}
    assert logged(found, "update_share") == [0.0]


@pytest.mark.parametrize(("kl", "before", "accepted"), [(0.1, 0.0, True), (0.11, 0.0, False), (0.3, 0.31, True)])
def test_what_is_accepted(kl: float, before: float, accepted: bool) -> None:
    assert component("kl", {"use": "constraint", "limit": 0.1}).accepts(kl, before) == accepted


def test_an_optimizer_that_steps_within_the_backward_pass_is_refused(bases: Bases, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"kl: a constraint measures whole updates, but optim: .*lomo steps within"):
        trainer(bases(), tmp_path, objective(kl="constraint"), optim="adalomo")
