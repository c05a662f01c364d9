"""PPO the slow way: every sequence alone through the plain model, every formula as the papers write it.

It shares no line with the package: no batch, no mask, no objective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_plugins.contract.rows import Samples

GAMMA, LAM, KL, VALUE, CLIP, VALUE_CLIP, ENTROPY, MISSING_EOS = 0.9, 0.8, 0.3, 0.2, 0.1, 0.05, 0.02, 0.7
EOS = 1


@dataclass
class Sampled:
    """What is computed of a response's tokens when they are sampled; each (tokens,)."""

    logps: Tensor
    values: Tensor  # in the reward's unit
    advantages: Tensor
    returns: Tensor
    unit: tuple[float, float]  # mean and deviation of all returns since the training's start


def read(trainer: Any, model: Any, ids: tuple[tuple[int, ...], tuple[int, ...]]) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, entropy and value of each response token of one sequence, each (tokens,)."""
    prompt, response = ids
    out = model(torch.tensor([[*prompt, *response]]), output_hidden_states=True)
    before = slice(len(prompt) - 1, -1)
    logps = (out.logits[0, before] / trainer.temperature).log_softmax(-1)
    head, network = trainer.model.value_head, getattr(trainer.model, "value_network", None)
    ids_of_all = torch.tensor([[*prompt, *response]])
    hidden = (out.hidden_states[-1] if network is None else network(ids_of_all).last_hidden_state)[0, before]
    values = head.mean.float() + head.deviation.float() * (hidden @ head.weight[0] + head.bias)
    chosen = torch.stack([logps[t, token] for t, token in enumerate(response)])
    return chosen, -(logps.exp() * logps).sum(-1), values


def log_probs(trainer: Any, model: Any, ids: Any) -> Tensor:
    """Log-probabilities of the whole vocabulary before each response token of one sequence, (tokens, vocabulary)."""
    prompt, response = ids
    logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return (logits / trainer.temperature).log_softmax(-1)


def reference(trainer: Any, ids: Any) -> Tensor:
    if trainer._models.reference is not None:
        return read(trainer, trainer._models.reference, ids)[0]
    with trainer.model.disable_adapter():
        return read(trainer, trainer.model, ids)[0]


def gae(rewards: list[float], values: list[float]) -> list[float]:
    """A_t = sum_l (gamma lam)^l delta_{t+l}, summed as it is written."""
    after = [*values[1:], 0.0]
    deltas = [r + GAMMA * n - v for r, n, v in zip(rewards, after, values, strict=True)]
    return [sum((GAMMA * LAM) ** k * d for k, d in enumerate(deltas[t:])) for t in range(len(deltas))]


@torch.no_grad()
def rollout(trainer: Any, samples: Samples, scores: list[float], seen: list[float]) -> dict[Any, Sampled]:
    """The whole rollout, by sequence; advantages whitened over all its tokens.

    Args:
        seen: the returns of earlier rollouts, to which its own are added. Where there are none, values are 0.
    """
    started = bool(seen)
    found = {}
    everyone: list[float] = []
    for prompt, response, score in zip(samples.prompt_ids, samples.response_ids, scores, strict=True):
        ids = tuple(prompt), tuple(response)
        logps, _, values = read(trainer, trainer.model, ids)
        values = values if started else 0 * values
        rewards = (-KL * (logps - reference(trainer, ids))).tolist()
        rewards[-1] += score - (MISSING_EOS if response[-1] != EOS else 0.0)
        advantages = gae(rewards, values.tolist())
        everyone += advantages
        returns = torch.tensor(advantages) + values
        seen += returns.tolist()
        found[ids] = Sampled(logps, values, torch.tensor(advantages), returns, (0.0, 1.0))
    mean, deviation = torch.tensor(everyone).mean(), torch.tensor(everyone).std(unbiased=False)
    unit = torch.tensor(seen).mean().item(), torch.tensor(seen).std(unbiased=False).item()
    for one in found.values():
        one.advantages = (one.advantages - mean) / deviation
        one.unit, one.values = unit, one.values if started else 0 * one.values + unit[0]
    return found


def loss(trainer: Any, rollout: dict[Any, Sampled], minibatch: list[Any]) -> Tensor:
    """Means over all tokens of the minibatch's sequences, with gradients, a scalar."""
    policy, value, entropy = [], [], []
    for ids in minibatch:
        old = rollout[ids]
        logps, entropies, values = read(trainer, trainer.model, ids)
        for t in range(len(logps)):
            ratio = (logps[t] - old.logps[t]).exp()
            kept = min(max(ratio.item(), 1 - CLIP), 1 + CLIP)
            policy.append(max(-ratio * old.advantages[t], -kept * old.advantages[t]))
            mean, deviation = old.unit
            own, before = (values[t] - mean) / deviation, (old.values[t].item() - mean) / deviation
            near = min(max(own.item(), before - VALUE_CLIP), before + VALUE_CLIP)
            aim = (old.returns[t] - mean) / deviation
            value.append(0.5 * max((own - aim) ** 2, (near - aim) ** 2))
            entropy.append(entropies[t])
    return torch.stack(policy).mean() + VALUE * torch.stack(value).mean() - ENTROPY * torch.stack(entropy).mean()
