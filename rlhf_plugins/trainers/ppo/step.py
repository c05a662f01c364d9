"""The PPO loss of a micro-batch, so that micro-batches sum to the loss of their minibatch.

A minibatch is all that one optimizer step learns from. Its means are sums over tokens with weights that know the whole
minibatch, so that it may be computed in parts of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlhf_plugins.arithmetic import masked, objectives
from rlhf_plugins.contract.guards import named
from rlhf_plugins.contract.interfaces import Reduction
from rlhf_plugins.errors import PluginError

if TYPE_CHECKING:
    from rlhf_plugins.trainers.ppo.models import Outputs
    from rlhf_plugins.trainers.ppo.options import Objective
    from rlhf_plugins.trainers.ppo.rollout import Experience, MicroBatch

FAR = 100.0  # larger than losses of tokens usually are


def loss(outputs: Outputs, part: MicroBatch, rollout: Experience, aim: Objective) -> tuple[Tensor, dict[str, float]]:
    """What a micro-batch adds to the loss of its minibatch, and to the numbers that are logged of it, the loss too.

    policy loss (times the importance weight, where another policy sampled) (+ coef KL, where it is in the loss)
    - entropy_coef entropy + value.coef value loss, whose values and returns are in deviations of all returns so far:
    the loss has the same gradient whatever the reward's unit.
    """
    mask = part.batch.response_mask()  # (b, t)

    def known(tokens: Tensor) -> Tensor:  # (B, T) of the rollout -> (b, t)
        return tokens[part.rows, : mask.shape[1]]

    def mean(tokens: Tensor) -> Tensor:  # over the minibatch's tokens, its part here
        return (tokens.masked_fill(~mask, 0.0) * known(rollout.token_weights)).sum()

    log_ratio, advantages = outputs.log_probs - known(rollout.log_probs), known(rollout.advantages)
    more = (mask,) if aim.policy_loss.reads_mask else ()
    losses = aim.policy_loss(log_ratio, advantages, *more)  # (b, t)
    cut_off = without_gradient(losses, log_ratio) & (advantages != 0)
    if rollout.importance is not None:
        losses = losses * known(rollout.importance)
    kl = None
    if aim.kl is not None and rollout.reference is not None:
        kl = aim.kl(outputs.log_probs - known(rollout.reference)).on_loss
    if kl is not None:
        kl = kl * ratio_of(log_ratio, mask, aim.by_response) if aim.weighs_kl else kl
        losses = losses + rollout.kl_coef * kl
    if rollout.loss_weights is None:
        policy_loss = aim.reduction(losses, mask)
    else:
        policy_loss = (losses.masked_fill(~mask, 0.0) * known(rollout.loss_weights)).sum()
    terms = {"policy_loss": policy_loss}
    total = policy_loss
    if outputs.values is not None and rollout.values is not None and rollout.value_unit is not None:
        three = outputs.values, known(rollout.values), known(rollout.returns)
        own, old, returns = map(rollout.value_unit.without, three)
        terms["value_loss"] = mean(objectives.clipped_value_loss(own, old, returns, aim.value.clip))
        total = total + aim.value.coef * terms["value_loss"]
    if aim.entropy_coef and outputs.entropies is not None:
        total = total - aim.entropy_coef * mean(outputs.entropies)
    terms["clip_fraction"] = mean(cut_off.float())
    terms["approx_kl"] = mean((log_ratio.expm1() - log_ratio).detach())  # KL(pi_old || pi), k3 of Schulman 2020
    terms["loss"] = total
    return total, dict(zip(terms, torch.stack([value.detach() for value in terms.values()]).tolist(), strict=True))


def ratio_of(log_ratio: Tensor, mask: Tensor, by_response: bool) -> Tensor:
    """The ratio of each token, (b, t), or of each response, (b, 1): the geometric mean of its tokens'."""
    return masked.mean(log_ratio, mask, dim=1).unsqueeze(1).exp() if by_response else log_ratio.exp()


def without_gradient(losses: Tensor, log_ratio: Tensor) -> Tensor:
    """The tokens from which the policy loss learns nothing, such as those beyond its clip, (b, t) bool."""
    (slopes,) = torch.autograd.grad(losses.sum(), log_ratio, retain_graph=True, materialize_grads=True)
    return slopes == 0


def token_weights(minibatches: Sequence[Tensor], mask: Tensor) -> Tensor:
    """1 / number of tokens in its minibatch at each token, (B, T): a sum with them is the mean over the minibatch.

    Args:
        minibatches: the rows (b,) of each.
        mask: (B, T) True at response tokens.
    """
    weights = torch.zeros(mask.shape, device=mask.device)
    for rows in filter(len, minibatches):
        weights[rows] = mask[rows] / mask[rows].sum()
    return weights


def loss_weights(minibatches: Sequence[Tensor], mask: Tensor, reduction: Reduction) -> Tensor:
    """The weight of each token's loss in the reduction of its minibatch, (B, T), 0 outside the mask.

    Raises:
        PluginError: the reduction is no weighted sum of the losses.
        ComponentError: the reduction fails.
    """
    weights = torch.zeros(mask.shape, device=mask.device)
    for rows in filter(len, minibatches):
        found = _weights(reduction, mask[rows])
        if found is None:
            what = f"{named(reduction)} is no weighted sum of the tokens' losses, so that no minibatch of it can be cut"
            raise PluginError(f"{what}: give its class `uses_batch_mates=True`")
        weights[rows] = found
    return weights


def weights_alike(minibatches: Sequence[Tensor], mask: Tensor) -> Tensor:
    """The same weight for each token of a rollout, (B, T), 0 outside the mask: the weights of a minibatch sum to 1 on
    average (TRL's `dapo`)."""
    return mask * (sum(map(bool, map(len, minibatches))) / mask[torch.cat(list(minibatches))].sum())


def adds_up(reduction: Reduction) -> bool:
    """Whether a reduction is a weighted sum of the losses, by one trial. Raises ComponentError if it fails."""
    return _weights(reduction, torch.arange(5) < torch.tensor([[2], [5], [1], [4], [5], [3], [1], [2]])) is not None


@torch.enable_grad()
def _weights(reduction: Reduction, mask: Tensor) -> Tensor | None:
    """The weight of each token's loss, (b, T): the gradient at 0. None where losses far from 0 have other weights."""
    losses = torch.zeros(mask.shape, device=mask.device, requires_grad=True)
    weights = torch.autograd.grad(reduction(losses, mask), losses)[0].masked_fill(~mask, 0.0)
    far = FAR * torch.arange(mask.numel(), device=mask.device).sin().view(mask.shape)
    tried = [((each * weights).sum(), reduction(each, mask)) for each in (far, -far)]
    return weights if all(torch.isclose(*both, rtol=1e-3, atol=1e-4 * FAR) for both in tried) else None
