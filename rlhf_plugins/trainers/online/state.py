"""The state of online training in a checkpoint, and what a later training takes over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rlhf_plugins.contract.guards import named
from rlhf_plugins.engine.weights.shards import gathered
from rlhf_plugins.errors import RunError
from rlhf_plugins.trainers.learning_rates import give_rate
from rlhf_plugins.trainers.ppo import kl_file
from rlhf_plugins.trainers.ppo.options import ROUNDS

WORDS = {  # for responses that are not learned from
    "abstained": "response without a reward",
    "abstained_later": "response before one without a reward",
    "without_baseline": "response to a prompt whose greedy response has no reward",
    "too_few_siblings": "response with too few others to its prompt that have a reward",
    "equal_siblings": "response out of the loss: all to the prompt score alike",
    "truncated": "response out of the loss: cut at max_completion_length",
    "unfilled": f"prompt missing in a rollout: {ROUNDS} rounds of further ones found none whose responses differ",
}
STATE = ("_step", "_experience", "_kl_coef", "_trains", "_skips", "_unlearned")


class KeepsRollout:
    """An OnlineTrainer's optimizer, critic and state; a class's first base."""

    draws_apart = True  # whether each process has random numbers of its own, as TRL seeds them
    _updates: Any

    def create_optimizer(self: Any, *given: Any) -> Any:
        """The trainer's optimizer; the critic's weights get their own learning rate where `value` has one."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(*given)  # type: ignore[misc]
        critic = None if self.obstacle is not None else self._critic
        if fresh and critic and (rate := self._objective.value.learning_rate) is not None:
            give_rate(optimizer, critic.weights.values(), rate)
        return optimizer

    @property
    def value_network(self: Any) -> Any:
        """The critic's own model, until its head is taken; None where it has none."""
        return self._critic.network if self.obstacle is None and self._critic else None

    @property
    def value_weights(self: Any) -> dict[str, Any]:
        """What the critic alone trains, by name; empty where there is none."""
        return self._critic.weights if self.obstacle is None and self._critic else {}

    def take_value_head(self: Any) -> dict[str, torch.Tensor]:
        """Removes the critic from the policy and returns its head's weights; empty if no critic was trained."""
        return self._critic.take_off() if self.obstacle is None and self._critic else {}

    @property
    def is_whole(self: Any) -> bool:
        """Whether a checkpoint can hold the rollout in use: not the graph of one that no step learned from yet."""
        return self.obstacle is not None or self._experience is None or self._experience.first is None

    def own_state(self: Any) -> dict[str, Any]:
        """What a checkpoint holds beside the state of any Trainer: the rollout in use and how far its steps are."""
        if self.obstacle is not None:
            return {"step": self._step}
        own = {name.removeprefix("_"): getattr(self, name) for name in STATE}
        rollout = self._experience and replace(self._experience, parts=())  # each process cuts its own
        return {**own, "experience": rollout, "updates": dict(self._updates)}

    def load_own_state(self: Any, state: Mapping[str, Any]) -> None:
        """What `own_state` gave."""
        for name, value in state.items():
            setattr(self, f"_{name}", value)
        if self.obstacle is None:
            self._updates = defaultdict(list, state["updates"])
            with gathered(self.model):
                self._models.layout()  # of the rollout, which the models are now ready for
            if self._experience:
                parts = self._rollouts.parts(self._experience.samples, self._experience.steps)
                self._experience = replace(self._experience, parts=parts)
            if self._constraint:
                measured = self._constraint.state_dict()
                self._constraint.use(self._experience.batches if self._experience else None)
                self._constraint.load_state_dict(measured)

    @property
    def unlearned(self: Any) -> dict[str, int]:
        """How many responses were left out, or of the loss alone, and prompts missing in it, by reason in words."""
        return {WORDS[name]: count for name, count in self._unlearned.items()}

    def stateful(self: Any) -> dict[str, Any]:
        """What a checkpoint asks for a state beside its own."""
        if self.obstacle is not None:
            return {}
        aim = self._objective
        named = {"advantage": aim.advantage, "policy_loss": aim.policy_loss, "reduction": aim.reduction, "kl": aim.kl}
        shaping = {f"shaping {place}": each for place, each in enumerate(aim.shaping)}
        rewards = {"reward": self._asked.reward, "fallback": aim.fallback}
        turns = {"environment": aim.turns.environment} if aim.turns else {}
        return {**named, **shaping, **rewards, **turns, "further prompts": self._refill, "table": self._log}

    def begin_with(self: Any, words: Collection[str], stage: Path) -> None:
        """Takes the critic (`value`) and the KL's state (`kl`) that another stage left in its folder, as asked.

        Raises:
            RunError: it left none, or what it left is of another kind.
        """
        if "value" in words:
            if self._critic is None:
                raise RunError(f"carry: value: {named(self._objective.advantage)} reads no values; leave it out")
            self._critic.load(stage)
        if "kl" in words:
            if self._objective.kl is None:
                raise RunError("carry: kl: the stage has `kl: none`; leave it out")
            self._kl_coef = kl_file.load(self._objective.kl, stage)

    def keep_kl(self: Any, stage: Path) -> None:
        """Leaves the KL's state, where there is one, in a stage's folder."""
        if self._objective.kl is not None:
            kl_file.save(self._objective.kl, self._kl_coef, stage)

    def _get_train_sampler(self: Any, dataset: Any = None) -> Any:
        """TRL's order of the prompts, in any epoch that a training goes on in."""
        return _by_epoch(super()._get_train_sampler(dataset))  # type: ignore[misc]


def _by_epoch(sampler: Any) -> Any:
    """TRL's RepeatSampler with a `set_epoch`, without which it replays the first epoch; any other as it is."""
    if getattr(sampler, "shuffle", False) and getattr(sampler, "seed", None) is not None:

        def set_epoch(epoch: int) -> None:
            sampler.generator.manual_seed(sampler.seed)
            for _ in range(epoch):
                torch.randperm(sampler.num_samples, generator=sampler.generator)

        sampler.set_epoch = set_epoch
    return sampler
