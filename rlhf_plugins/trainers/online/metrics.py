"""What TRL logs of an online training, under its names; what we log besides is in `ppo.oversight`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from trl.trainer.utils import nanstd

from rlhf_plugins.trainers.online.rewards import completions
from rlhf_plugins.trainers.ppo.step import ratio_of

if TYPE_CHECKING:
    from rlhf_plugins.data.conversations import Conversations
    from rlhf_plugins.trainers.ppo.models import Outputs
    from rlhf_plugins.trainers.ppo.rollout import Experience, MicroBatch
    from rlhf_plugins.trainers.ppo.scoring import ResponseRewards


class Updates:
    """Numbers of one training step, as means over its tokens, where the policy loss is TRL's.

    Args:
        loss: TRL's `loss_type`.
        clip: epsilon below and above.
        penalised: whether KL towards the reference is TRL's: k3.
        weighs_kl: whether that is times the ratio.
        by_response: whether ratios are of whole responses, over which the shares of clipped ones are then means.
    """

    def __init__(
        self, loss: str, clip: tuple[float, float], penalised: bool, weighs_kl: bool, by_response: bool
    ) -> None:
        self._loss, self._clip = loss, clip
        self._penalised, self._weighs_kl, self._whole = penalised, weighs_kl, by_response
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._by_response: list[Tensor] = []  # (2, b) shares of tokens that are clipped below and above

    @torch.no_grad()
    def add(self, outputs: Outputs, part: MicroBatch, rollout: Experience) -> None:
        """Adds a micro-batch of the step."""
        mask = part.batch.response_mask()  # (b, t)
        length = mask.shape[1]
        ratio = ratio_of(outputs.log_probs - rollout.log_probs[part.rows, :length], mask, self._whole)
        if self._penalised and rollout.reference is not None:
            away = rollout.reference[part.rows, :length] - outputs.log_probs
            self._add("kl", (away.expm1() - away) * (ratio if self._weighs_kl else 1.0), mask)
        if outputs.entropies is not None:
            self._add("entropy", outputs.entropies, mask)
        self._add_clipped(ratio, rollout.advantages[part.rows, : ratio.shape[1]], mask[:, : ratio.shape[1]])

    def _add_clipped(self, ratio: Tensor, gain: Tensor, clipped: Tensor) -> None:
        """(b, t) each, or (b, 1) of responses, where the mask is of the first token, which each has."""
        if self._loss == "cispo":
            self._add("cispo_clip_ratio", ((ratio > self._clip[1]) & (gain > 0)).float(), clipped)
        if self._loss in ("cispo", "sapo"):
            return
        low, high = (ratio < 1 - self._clip[0]) & (gain < 0), (ratio > 1 + self._clip[1]) & (gain > 0)
        for name, tokens in (("low_mean", low), ("high_mean", high), ("region_mean", low | high)):
            self._add(f"clip_ratio/{name}", tokens.float(), clipped)
        self._by_response.append(torch.stack([(each & clipped).sum(1) / clipped.sum(1) for each in (low, high)]))

    def _add(self, name: str, tokens: Tensor, mask: Tensor) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + tokens.masked_fill(~mask, 0.0).sum()
        self._counts[name] = self._counts.get(name, 0) + int(mask.sum())

    def without_these(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Numbers of a rollout without those that have a name of these."""
        own = {"entropy", "kl"} if self._penalised else {"entropy"}
        return {name: value for name, value in numbers.items() if name not in own}

    def take(self) -> dict[str, float]:
        """The numbers of the step, which are then forgotten."""
        found = {name: total.item() / self._counts[name] for name, total in self._sums.items()}
        if self._by_response:
            low, high = torch.cat(self._by_response, 1)
            found |= {"clip_ratio/low_min": low.min().item(), "clip_ratio/high_max": high.max().item()}
        self._sums, self._counts, self._by_response = {}, {}, []
        return found


def spread(each: Tensor, names: Sequence[str], total: Tensor, group: Sequence[int]) -> dict[str, float]:
    """Means and deviations of the rewards of one generation batch.

    Args:
        each: (B, F) of each function, NaN where it did not answer.
        names: the names of the functions; none where there is but one, which `reward` is of.
        total: (B,) their weighted sum, NaN where none answered.
        group: equal for responses to one prompt, which are neighbours, (B,); one that is alone has no deviation.
    """
    found: dict[str, float] = {}
    for name, rewards in zip(names, each.unbind(1), strict=False):
        found |= {f"rewards/{name}/mean": rewards.nanmean().item(), f"rewards/{name}/std": nanstd(rewards).item()}
    parts = [part for part in total.split(list(Counter(group).values())) if len(part) > 1]
    deviations = torch.stack([nanstd(part) for part in parts]) if parts else torch.zeros(1)
    same = torch.isclose(deviations, torch.zeros_like(deviations)).float().mean()
    return found | {"reward_std": nanstd(total).item(), "frac_reward_zero_std": same.item()}


def spread_of_parts(dimensions: Mapping[str, Tensor], functions: Sequence[str]) -> dict[str, float]:
    """The mean and deviation of each part of a function's dicts over the responses that have it.

    Args:
        dimensions: (B,) by name, NaN where a response has none; a part that no response has is left out.
        functions: the names that are no parts.
    """
    found: dict[str, float] = {}
    for name, values in dimensions.items():
        if name not in functions and not values.isnan().all():
            found |= {f"rewards/{name}/mean": values.nanmean().item(), f"rewards/{name}/std": nanstd(values).item()}
    return found


def of_conversations(talks: Conversations, rewards: ResponseRewards) -> dict[str, float]:
    """Numbers of conversations: the mean turns and return of one, and how many were cut."""
    whole = [row for row, place in enumerate(rewards.places) if talks.turn[place] == 0]
    numbers = {"turns": len(talks.turn) / talks.count, "conversations_cut": float(talks.cut)}
    return numbers | ({"return": rewards.scores[whole].mean().item()} if whole else {})


def note_completions(trainer: Any, rollout: Experience, each: Tensor, extra: Mapping[str, Sequence[Any]]) -> None:
    """Keeps a rollout for the table that `log_completions` writes.

    Args:
        each: (S, F) rewards of all sampled responses by each function, NaN where it did not answer.
        extra: what functions logged of each of these by `log_extra`, by column.
    """
    logs: Mapping[str, Any] = trainer._logs
    places = list(rollout.rewards.places)
    logs["prompt"].extend(rollout.samples.prompts)
    logs["completion"].extend(completions(rollout.samples))
    for name, rewards in zip(trainer.reward_func_names, each[places].unbind(1), strict=True):
        logs["rewards"][name].extend(rewards.tolist())
    for name, values in extra.items():
        logs["extra"][name].extend(values[place] for place in places)
    logs["advantages"].extend((rollout.advantages.sum(1) / rollout.mask.sum(1)).tolist())
