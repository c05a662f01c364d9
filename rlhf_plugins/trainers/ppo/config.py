"""TRL's GRPOConfig for online training: one response a prompt is allowed."""

from __future__ import annotations

from dataclasses import dataclass

import trl

from rlhf_plugins.trainers.ppo.importance import Correction


@dataclass
class OnlineConfig(trl.GRPOConfig):
    """GRPOConfig that allows `num_generations: 1`, since not every estimator compares responses to one prompt.

    TRL raises near the end of its checks, after everything else is set; the checks after it are about corrections for
    vLLM, which are checked here.
    """

    vllm_importance_sampling_correction: bool = False  # True in TRL

    def __post_init__(self) -> None:
        self._check()
        steps = "gradient_accumulation_steps" if self.steps_per_generation is None else "steps_per_generation"
        given = self.generation_batch_size
        try:
            super().__post_init__()
        except ValueError as error:
            if given is None and (rollout := self.generation_batch_size) and rollout % self.num_generations:
                sizes = ", ".join(f"{name}: {getattr(self, name)}" for name in ("per_device_train_batch_size", steps))
                why = f"which num_generations: {self.num_generations} does not divide"
                raise ValueError(f"a rollout has {rollout} responses ({sizes}), {why}") from error
            if self.num_generations != 1 or "at least 2 generations" not in str(error):
                raise
        if self.steps_per_generation % self.gradient_accumulation_steps:
            raise ValueError(
                f"gradient_accumulation_steps: {self.gradient_accumulation_steps} does not divide "
                f"steps_per_generation: {self.steps_per_generation}, but an optimizer step learns from one rollout"
            )
        Correction.of(self)

    def _check(self) -> None:
        """Raises ValueError for a number that TRL would accept, and fail on later without naming the option."""
        if self.temperature <= 0:
            raise ValueError(f"temperature: {self.temperature}, but responses are sampled; write a number above 0")
        if self.learning_rate < 0:
            raise ValueError(f"learning_rate: {self.learning_rate}; write 0 or more")
        for name in ("num_generations", "num_iterations", "steps_per_generation", "max_completion_length"):
            value = getattr(self, name)
            left_out = value is None and name == "steps_per_generation"
            if not left_out and (value is None or value < 1):
                raise ValueError(f"{name}: {'null' if value is None else value}; write 1 or more")
        launch = self.accelerator_config  # in a recipe a mapping
        if launch.get("dispatch_batches") if isinstance(launch, dict) else getattr(launch, "dispatch_batches", False):
            raise ValueError("accelerator_config: dispatch_batches sends tensors alone, and prompts are text")
        if self.neftune_noise_alpha:
            raise ValueError(
                f"neftune_noise_alpha: {self.neftune_noise_alpha}, but in online training ratios must start at 1"
            )
