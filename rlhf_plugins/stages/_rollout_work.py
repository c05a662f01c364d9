"""What online training computes and keeps in memory, for the forecast of its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.workload import Work, Workload
from rlhf_plugins.stages._training_options import sampling

if TYPE_CHECKING:
    from rlhf_plugins.contract.run import Adapter
    from rlhf_plugins.stages.online import Online


def work_of_rollouts(stage: Online, adapter: Adapter | None) -> Workload:
    """A training step of a rollout, what the reference and the reward compute of it, and its generation."""
    from rlhf_plugins.data.batches.branches import TOKENS_PER_BATCH
    from rlhf_plugins.engine.token_budget import CACHE_TOKENS

    size, group = stage.setting("per_device_train_batch_size"), stage.setting("num_generations")
    steps = stage.setting("steps_per_generation") or stage.setting("gradient_accumulation_steps")
    rows, new = size * steps, stage.setting("max_completion_length")
    prompts, own = max(1, size // group) * stage.turns, stage.value.reads if stage.advantage.reads_values else ""
    part: dict[str, Any] = {"prompt_tokens": None, "response_tokens": new, "tokens": stage.tokens_per_batch}
    alone = steps == 1
    works = [
        Work("train", "learn", prompts, min(size, group), entropy=alone, values=bool(own), **part),
        Work("generation", "sample", rows, 1, None, new, stage.cache_tokens or CACHE_TOKENS),
        *sampling(stage.tasks, stage.cache_tokens),
    ]
    if refers := stage.kl is not None:
        works.append(Work("reference", "score", prompts, min(size, group), **part))
    if judges := "reward" in stage.reward.takes:
        whole = {**part, "tokens": stage.tokens_per_batch or TOKENS_PER_BATCH}
        works.append(Work("scoring", "score", max(1, rows // group) * stage.turns, group, rewards=True, **whole))
    beside = adapter is None
    return stage.learning(
        works,
        adapters=1 + judges + (own == "adapter"),
        models=beside * (refers + judges) + (own == "own"),
    )
