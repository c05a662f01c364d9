"""The numbers that the bundled trainings log, by name: their units, and which direction is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf_plugins.contract.run import Curve


@dataclass(frozen=True)
class Logged:
    """A number that a training logs."""

    unit: str
    meaning: str
    better: Literal["higher", "lower"] | None = None


LOGGED = {
    "abstained": Logged("responses", "left out of a rollout because the reward abstained"),
    "accuracy": Logged("share", "pairs that are ordered as people ordered them", "higher"),
    "approx_kl": Logged("nats", "KL from the policy that sampled to the policy now, per token"),
    "clip_fraction": Logged("share", "tokens whose ratio was clipped"),
    "constrained_kl": Logged("nats", "KL to the reference per token after an update that a constraint accepted"),
    "entropy": Logged("nats", "of the policy's next token, mean over response tokens"),
    "equal_siblings": Logged("responses", "left out of the loss because all to their prompt have the same reward"),
    "explained_variance": Logged("share", "of the returns' variance by the critic", "higher"),
    "gold_reward": Logged("", "mean true reward of the responses, where the data knows it", "higher"),
    "grad_norm": Logged("", "norm of the gradient before clipping"),
    "kl": Logged("nats", "KL to the reference per response; per token where TRL's own way trains"),
    "kl_coef": Logged("", "coefficient of the KL term"),
    "learning_rate": Logged("", "of the optimizer"),
    "length": Logged("tokens", "mean length of the responses"),
    "log_ratios/chosen": Logged("nats", "mean log-ratio to the reference of chosen responses"),
    "log_ratios/margins": Logged("nats", "mean difference of the log-ratios of a pair"),
    "log_ratios/rejected": Logged("nats", "mean log-ratio to the reference of rejected responses"),
    "logits/chosen": Logged("", "mean logit of the vocabulary at the tokens of chosen responses"),
    "logits/rejected": Logged("", "mean logit of the vocabulary at the tokens of rejected responses"),
    "logps/chosen": Logged("nats", "mean log-probability of chosen responses"),
    "logps/rejected": Logged("nats", "mean log-probability of rejected responses"),
    "loss": Logged("", "that is minimised", "lower"),
    "margin": Logged("", "mean difference of the rewards of a pair"),
    "max_reward": Logged("", "largest reward of a batch that a reward model is trained on, mean over batches"),
    "mean_reward": Logged("", "mean reward of the responses that a reward model is trained on"),
    "mean_token_accuracy": Logged("share", "tokens of chosen responses that the model finds likeliest", "higher"),
    "min_reward": Logged("", "smallest reward of a batch that a reward model is trained on, mean over batches"),
    "policy_loss": Logged("", "the policy's part of the loss"),
    "resampled": Logged("responses", "to further prompts, in the place of those whose responses all score alike"),
    "unfilled": Logged("prompts", "missing in a rollout, since those that were sampled in their place teach nothing"),
    "reward": Logged("", "mean reward of the responses", "higher"),
    "rewards/accuracies": Logged("share", "pairs whose chosen response has the higher implicit reward", "higher"),
    "rewards/chosen": Logged("", "beta times the log-ratio to the reference, of chosen responses"),
    "rewards/margins": Logged("", "mean difference of the implicit rewards of a pair"),
    "rewards/rejected": Logged("", "beta times the log-ratio to the reference, of rejected responses"),
    "sampling/importance_sampling_ratio/max": Logged("", "largest weight of what vLLM sampled"),
    "sampling/importance_sampling_ratio/mean": Logged("", "mean weight of what vLLM sampled"),
    "sampling/importance_sampling_ratio/min": Logged("", "smallest weight of what vLLM sampled"),
    "sampling/kl": Logged("nats", "KL from what sampled to the policy that learns, per token", "lower"),
    "sampling/sampling_logp_difference/max": Logged(
        "nats", "largest difference of what sampled to the policy, of a token"
    ),
    "sampling/sampling_logp_difference/mean": Logged(
        "nats", "mean difference of what sampled to the policy, of a token"
    ),
    "shaped_reward": Logged("", "mean reward after shaping, and in conversations with that of later turns"),
    "too_few_siblings": Logged("responses", "left out because too few responses to their prompt have a reward"),
    "truncated": Logged("responses", "left out of the loss because they were cut at max_completion_length"),
    "update_share": Logged("share", "of an update that a constraint of the KL kept", "higher"),
    "value_loss": Logged("deviations²", "the critic's part of the loss, in deviations of the returns", "lower"),
    "turns": Logged("turns", "mean number of the policy's in a conversation with an environment"),
    "return": Logged("", "mean reward of a conversation: of its turns after shaping, later ones discounted", "higher"),
    "conversations_cut": Logged("conversations", "that ended for want of room for another response"),
    "abstained_later": Logged("responses", "left out because the reward abstained on a later turn"),
    "without_baseline": Logged("responses", "left out because the greedy response to their prompt has no reward"),
}
MISSING = "reward_missing/"  # before the name of a part of a reward: how many responses have none
PERCENTILES = (5, 25, 50, 75, 95)  # of the responses of a rollout, logged beside the means of `length` and `reward`


def percentile(name: str, rank: int) -> str:
    """The name of a percentile of the number whose mean has this name: `reward_p5`."""
    return f"{name}_p{rank}"


LOGGED |= {
    percentile(name, rank): Logged(LOGGED[name].unit, f"{rank}% of the responses of a rollout have a smaller {name}")
    for name in ("length", "reward")
    for rank in PERCENTILES
}


def curve(name: str, points: Sequence[tuple[int, float]], more: Mapping[str, Logged] | None = None) -> Curve:
    """The points of a logged number with its unit and direction; without, where the name is not there nor in `more`."""
    plain = name.removeprefix("eval_")
    known = {**LOGGED, **(more or {})}.get(plain, Logged("responses" if plain.startswith(MISSING) else "", ""))
    return Curve(points, known.unit, known.better)
