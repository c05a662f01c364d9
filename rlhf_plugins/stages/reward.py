"""The stage `reward`: trains a reward model on preferences."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from rlhf_plugins.hookspecs import hookimpl
from rlhf_plugins.interfaces import Pooling, RewardHead, RewardLoss, Run, StageResult, uses

UNREAD = frozenset({"center_rewards_coefficient", "pad_to_multiple_of"})  # TRL's own loss and batches alone read them


@dataclass(frozen=True)
class Reward:
    """A decoder, a pooling and a head, trained to order responses as people did."""

    pooling: Pooling = uses("pooling", "last_token")
    head: RewardHead = uses("reward_head", "scalar")
    loss: RewardLoss = uses("reward_loss", "bradley_terry")
    name: str = "reward"
    trainer: dict[str, Any] = field(default_factory=dict, metadata={"config": "trl.RewardConfig"})
    kind: ClassVar[str] = "reward"
    reserved: ClassVar[frozenset[str]] = frozenset(
        {"output_dir", "seed", "center_rewards_coefficient", "pad_to_multiple_of"}
    )

    def run(self, run: Run) -> StageResult:
        """Leaves the reward model in `model/`."""
        import torch
        import trl

        from rlhf_plugins.data.groups import preference_dataset
        from rlhf_plugins.models.loading import load_tokenizer, load_trunk, with_adapter
        from rlhf_plugins.models.reward_model import RewardModel
        from rlhf_plugins.trainers.arguments import arguments, building, quiet
        from rlhf_plugins.trainers.reward import RewardTrainer

        torch.manual_seed(run.seed)  # head and adapter start at random
        args = arguments(trl.RewardConfig, run.folder, run.seed, self.trainer)
        train = preference_dataset(run.data.train)
        with building(len(train)):
            trunk = with_adapter(load_trunk(run.base), run.base.adapter, "FEATURE_EXTRACTION")
            model = RewardModel(trunk, self.pooling, self.head)
            trainer = RewardTrainer(model, self.loss, args, train, load_tokenizer(run.base))
        curves = quiet(trainer)
        trainer.train()
        folder = run.folder / "model"
        base = {name: value for name, value in asdict(run.base).items() if name != "trust_remote_code"}
        parts = {"base": base, "pooling": run.spec(self.pooling), "head": run.spec(self.head)}
        model.save(folder, parts)
        metrics = {"left_out": trainer.left_out}
        return StageResult(self.name, self.kind, reward_model=folder, metrics=metrics, curves=curves.values)


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"reward": Reward}
