"""Importance weights of responses that another policy sampled than the one that learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rlhf_plugins.trainers.ppo.options import Objective
    from rlhf_plugins.trainers.ppo.rollout import Experience

SAMPLER, SAMPLER_KL = "sampling/sampling_logp_difference", "sampling/kl"
WEIGHTS = "sampling/importance_sampling_ratio"
Mode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


@dataclass(frozen=True)
class Correction:
    """How losses of tokens are weighted with p/q, where q sampled and p learns, as TRL does for vLLM.

    A ratio is a token's or a response's, and outside the bounds it is truncated to them (Yao et al. 2025, "Your
    efficient RL framework secretly brings you off-policy RL training") or its tokens are not learned from (mask).
    """

    mode: Mode
    low: float | None
    high: float | None

    @classmethod
    def of(cls, args: Any) -> Self | None:
        """What a GRPOConfig says; None where nothing is corrected.

        Raises:
            ValueError: for bounds that are none.
        """
        if not (args.use_vllm and args.vllm_importance_sampling_correction):
            return None
        low, high = args.vllm_importance_sampling_clip_min, args.vllm_importance_sampling_clip_max
        found = cls(args.vllm_importance_sampling_mode, low, high)
        if found.mode not in get_args(Mode):
            raise ValueError(f"vllm_importance_sampling_mode: {found.mode}; write one of {', '.join(get_args(Mode))}")
        if not 0 <= (low or 0) < (inf if high is None else high):
            raise ValueError(f"vllm_importance_sampling_clip_min: {low} and _clip_max: {high} bound no ratio")
        if found.mode.endswith("truncate") and low is high is None:
            raise ValueError(f"vllm_importance_sampling_mode: {found.mode} needs vllm_importance_sampling_clip_max")
        return found

    def weights(self, log_ratio: Tensor) -> Tensor:
        """The weight of each token, (B, T), or of each response, (B, 1).

        Args:
            log_ratio: (B, T) log p/q; NaN where it is not known, which counts as 0.
        """
        known = log_ratio.nan_to_num(0.0)
        ratio = (known.sum(1, keepdim=True) if self.mode.startswith("sequence") else known).exp()
        bounds = 0.0 if self.low is None else self.low, inf if self.high is None else self.high
        if self.mode.endswith("truncate"):
            return ratio.clamp(*bounds)
        return ratio.masked_fill((ratio < bounds[0]) | (ratio > bounds[1]), 0.0)


def apart(log_probs: Sequence[Sequence[float | None]], rollout: Experience) -> Tensor:
    """log p/q of each token, (B, T), where p is under what learns; NaN where q is not known, and after the end.

    Args:
        log_probs: log q of the tokens of all responses that were sampled, in nats; None where it gave none.
        rollout: the rollout of those that are learned from.
    """
    theirs = torch.full_like(rollout.log_probs, torch.nan)
    for row, place in enumerate(rollout.rewards.places):
        nats = [torch.nan if each is None else each for each in log_probs[place]]
        theirs[row, : len(nats)] = theirs.new_tensor(nats)
    return (rollout.log_probs - theirs).masked_fill(~rollout.mask, torch.nan)


def compared(log_probs: Sequence[Sequence[float | None]], rollout: Experience, aim: Objective) -> Mapping[str, float]:
    """Numbers of how far what sampled a rollout is from what learns; where there is a correction it gets its weights.

    KL(q || p) is the mean of p/q - 1 - log p/q over the tokens (k3 of Schulman 2020). The others have TRL's names.

    Args:
        log_probs: see `apart`.
        rollout: the rollout of the responses that are learned from.
        aim: with its correction. Where its sampling is reshaped, q may leave tokens out, so that E p/q is not 1 and k3
            no KL: there is none.
    """
    log_ratio = apart(log_probs, rollout)
    known = log_ratio[~log_ratio.isnan()].double()
    if not len(known):
        return {}
    found = {} if aim.reshaped else {SAMPLER_KL: (known.expm1() - known).mean()}
    found |= {f"{SAMPLER}/mean": known.abs().mean(), f"{SAMPLER}/max": known.abs().max()}
    if aim.correction is not None:
        rollout.importance = aim.correction.weights(log_ratio)
        used = rollout.importance if rollout.importance.shape[1] == 1 else rollout.importance[rollout.mask]
        found |= {f"{WEIGHTS}/min": used.min(), f"{WEIGHTS}/mean": used.mean(), f"{WEIGHTS}/max": used.max()}
    return {name: number.item() for name, number in found.items()}
