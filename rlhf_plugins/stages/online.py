"""The stage `online`: trains a policy on its own samples, scored by a reward, with PPO."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from rlhf_plugins.hookspecs import hookimpl
from rlhf_plugins.interfaces import Reward, Run, StageResult, uses
from rlhf_plugins.rollout import Advantage

if TYPE_CHECKING:
    from rlhf_plugins.trainers.online import Coefficients

CONFIG = "rlhf_plugins.trainers.online_config.OnlineConfig"
UNREAD = frozenset(  # options that TRL's own objective alone would read
    {
        "beta",
        "delta",
        "entropy_coef",
        "epsilon_high",
        "importance_sampling_level",
        "log_completions",
        "loss_type",
        "mask_truncated_completions",
        "reward_weights",
        "scale_rewards",
        "top_entropy_quantile",
    }
)


@dataclass(frozen=True)
class KL:
    """The pull towards the reference, as a penalty in the reward."""

    coef: Annotated[float, Field(ge=0, description="reward per nat of log pi - log pi_ref")] = 0.05


@dataclass(frozen=True)
class Value:
    """How the value head is trained."""

    coef: Annotated[float, Field(ge=0, description="weight of the value loss")] = 0.1
    clip: Annotated[float, Field(gt=0, description="how far a value may move from its old one")] = 0.2


@dataclass(frozen=True)
class Online:
    """PPO (Schulman et al. 2017) with the defaults of Huang et al. 2024, over one base.

    With an adapter the weights of the base are held once: the policy is the adapter, the reference the base alone, and
    reward models that were trained as adapters of it stand on it too. Where all weights are trained, the reference and
    each reward model are models of their own.

    A training step is one minibatch; `trainer` sets the rollout's size by TRL's own names (`num_generations`,
    `steps_per_generation`, `num_iterations`, `epsilon`, `temperature`, `max_completion_length`).
    """

    reward: Reward = uses("reward", "model")
    advantage: Advantage = uses("advantage", "gae")
    kl: KL = KL()
    value: Value = Value()
    entropy_coef: Annotated[float, Field(ge=0, description="weight of the entropy bonus")] = 0.0
    missing_eos_penalty: Annotated[float, Field(ge=0, description="off the reward of a response that does not end")] = (
        1.0
    )
    name: str = "online"
    trainer: dict[str, Any] = field(default_factory=dict, metadata={"config": CONFIG})
    kind: ClassVar[str] = "online"
    reserved: ClassVar[frozenset[str]] = frozenset({"output_dir", "seed", *UNREAD})

    def run(self, run: Run) -> StageResult:
        """Leaves the policy in `model/` and a value head, if one was trained, beside it in `value_head.safetensors`."""
        from safetensors.torch import save_file

        from rlhf_plugins.data.groups import prompt_dataset
        from rlhf_plugins.models.backbone import Backbone
        from rlhf_plugins.models.guards import built
        from rlhf_plugins.models.loading import load_causal, load_tokenizer, with_adapter
        from rlhf_plugins.trainers.arguments import arguments, building, quiet
        from rlhf_plugins.trainers.online import Objective, OnlineTrainer
        from rlhf_plugins.trainers.online_config import OnlineConfig

        adapter = run.base.adapter
        train = prompt_dataset(run.data.prompts["train"])
        with building(len(train)):
            model = with_adapter(load_causal(run.base), adapter, "CAUSAL_LM")
            backbone = Backbone(model, run.base) if adapter else None  # weights that are trained carry nobody else
            trainer = OnlineTrainer(
                model,
                Objective(built(self.reward, replace(run, backbone=backbone)), self.advantage, self._coefficients()),
                args=arguments(OnlineConfig, run.folder, run.seed, {"disable_dropout": True, **self.trainer}),
                train=train,
                tokenizer=load_tokenizer(run.base),
                reference=None if adapter else load_causal(run.base),
            )
        curves = quiet(trainer, run.log)
        trainer.train()
        folder = run.folder / "model"
        if head := trainer.take_value_head():
            weights = {k: v.detach().cpu() for k, v in head.state_dict().items()}
            save_file(weights, run.folder / "value_head.safetensors")
        if backbone:
            backbone.save_policy(folder)
        else:
            trainer.model.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)
        return StageResult(self.name, self.kind, policy=folder, curves=curves.values)

    def _coefficients(self) -> Coefficients:
        from rlhf_plugins.trainers.online import Coefficients

        return Coefficients(self.kl.coef, self.value.coef, self.value.clip, self.entropy_coef, self.missing_eos_penalty)


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"online": Online}
