"""Log-probabilities from hidden states, a chunk of tokens at a time. It knows language-model heads, no trunk.

No tensor of (tokens, vocabulary) outlives its chunk: the backward pass computes a chunk's logits again. Of a frozen
head the forward pass keeps how each log-probability moves with its hidden state, and nothing is computed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rlhf_plugins.engine.cpu.product import blocked, by_rows, over_rows

LOGITS_PER_CHUNK, FEWEST_ROWS = 2**20, 256  # 4 MiB in float32; with a large vocabulary, work worth a launch

CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # what configurations call a cap

Grads = tuple[Tensor | None, ...]


class TokenLogps(NamedTuple):
    """Of each token, (tokens,) in nats: its log-probability and, if asked, the entropy of what predicted it."""

    logps: Tensor
    entropies: Tensor | None


@dataclass(frozen=True)
class Scaling:
    """What becomes of the head's numbers z: cap tanh(scale z / cap) / temperature, uncapped scale z / temperature."""

    scale: float = 1.0
    cap: float | None = None
    temperature: float = 1.0

    def __call__(self, numbers: Tensor) -> Tensor:
        """(..., vocabulary) -> the same, in float32 or better."""
        precise = numbers.to(torch.promote_types(numbers.dtype, torch.float32))
        if self.cap is None:
            return _times(precise, self.scale / self.temperature)
        return self.cap / self.temperature * torch.tanh(precise * (self.scale / self.cap))

    def pull(self, grad: Tensor, logits: Tensor) -> Tensor:
        """The gradient of z, of those of the logits and what they were."""
        if self.cap is not None:
            grad = grad * (1 - (logits * self.temperature / self.cap) ** 2)
        return _times(grad, self.scale / self.temperature)


def _times(numbers: Tensor, factor: float) -> Tensor:
    """The product; a factor of 1 costs no pass over (tokens, vocabulary)."""
    return numbers if factor == 1 else numbers * factor


def stated_scaling(config: Any) -> Scaling:
    """What a model's configuration says that it does to its logits; whether it does so must be tried."""
    scale, divisor = (getattr(config, name, None) for name in ("logit_scale", "logits_scaling"))
    caps = (getattr(config, name, None) for name in CAPS)
    return Scaling(1 / (divisor or 1.0) if scale is None else scale, next(filter(None, caps), None))


def token_logps(head: nn.Module, hidden: Tensor, targets: Tensor, scaling: Scaling, entropy: bool) -> TokenLogps:
    """Log-probability of each target under the head's distribution at its hidden state.

    Args:
        head: a plain linear head is computed in chunks; any other, such as one with an adapter, at once.
        hidden: (tokens, width).
        targets: (tokens,) ids.
        scaling: from the head's numbers to logits.
        entropy: also return the distributions' entropies.
    """
    if type(head) is not nn.Linear:
        log_probs = scaling(head(hidden)).log_softmax(-1)
        entropies = -(log_probs.exp() * log_probs).sum(-1) if entropy else None
        return TokenLogps(log_probs.gather(1, targets.unsqueeze(1)).squeeze(1), entropies)
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype
    weight, bias = head.weight.to(dtype), None if head.bias is None else head.bias.to(dtype)
    logps, entropies = _InChunks.apply(hidden.to(dtype), weight, bias, targets, scaling, entropy)
    return TokenLogps(logps, entropies if entropy else None)


class _InChunks(torch.autograd.Function):
    """Log-probabilities and entropies of linear logits; saves the inputs and one number a token.

    Of a frozen head it also saves the log-probabilities' own gradients, (tokens, width).
    """

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, Tensor]:
        hidden, weight, bias, targets, scaling, entropy = given
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[:3] == (True, False, False) else None
        logps, entropies = [], []
        for at, rows, ids in _chunks(hidden, weight, targets):
            logits = scaling(_numbers(rows, weight, bias))
            log_probs = logits.log_softmax(-1)
            logps.append(log_probs.gather(1, ids.unsqueeze(1)).squeeze(1))
            if entropy:
                entropies.append(-(log_probs.exp() * log_probs).sum(-1))
            if slopes is not None:
                pulled = _of_logits(log_probs, ids, (torch.ones_like(logps[-1]), None))
                slopes[at] = by_rows(scaling.pull(pulled, logits).to(weight.dtype), weight.t())
        found = torch.cat(logps)
        spread = torch.cat(entropies) if entropy else torch.zeros_like(found)
        ctx.save_for_backward(hidden, weight, bias, targets, spread, slopes)
        ctx.scaling = scaling
        if not entropy:
            ctx.mark_non_differentiable(spread)
        ctx.set_materialize_grads(False)
        return found, spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """d logp_y / d l_j = [j = y] - p_j; d H / d l_j = -p_j (log p_j + H)."""
        hidden, weight, bias, targets, entropies, slopes = ctx.saved_tensors
        if slopes is not None and grads[0] is not None and grads[1] is None:
            return slopes * grads[0].unsqueeze(1).to(slopes.dtype), *(None,) * 5
        needed = ctx.needs_input_grad
        of_hidden = torch.empty_like(hidden) if needed[0] else None
        of_weight = torch.zeros_like(weight) if needed[1] else None
        of_bias = torch.zeros_like(bias) if needed[2] else None
        for at, rows, ids in _chunks(hidden, weight, targets):
            logits = ctx.scaling(_numbers(rows, weight, bias))
            own = tuple(None if grad is None else grad[at] for grad in grads)
            pulled = _of_logits(logits.log_softmax(-1), ids, own, entropies[at])
            pulled = ctx.scaling.pull(pulled, logits).to(weight.dtype)
            if of_hidden is not None:
                of_hidden[at] = by_rows(pulled, weight.t())
            if of_weight is not None:
                over_rows(pulled, rows, of_weight)
            if of_bias is not None:
                of_bias += pulled.sum(0)
        return of_hidden, of_weight, of_bias, None, None, None


def _numbers(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the head says, (tokens, vocabulary)."""
    if bias is not None and not blocked(hidden, weight.numel()):
        return nn.functional.linear(hidden, weight, bias)  # rounded once
    numbers = by_rows(hidden, weight)
    return numbers if bias is None else numbers.add_(bias)


def _of_logits(log_probs: Tensor, ids: Tensor, grads: Grads, entropies: Tensor | None = None) -> Tensor:
    """Gradient of the logits (tokens, vocabulary), of those of log-probabilities and entropies, each (tokens,)."""
    of_logps, of_entropies = grads
    probabilities = log_probs.exp()
    outer = log_probs.new_zeros(len(ids)) if of_logps is None else -of_logps
    if of_entropies is None or entropies is None:
        pulled = probabilities.mul_(outer.unsqueeze(1))
    else:
        surprise = log_probs + entropies.unsqueeze(1)
        pulled = probabilities.mul_(outer.unsqueeze(1) - surprise * of_entropies.unsqueeze(1))
    if of_logps is not None:
        pulled.scatter_add_(1, ids.unsqueeze(1), of_logps.unsqueeze(1))
    return pulled


def _chunks(hidden: Tensor, weight: Tensor, targets: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Places of a chunk's tokens, their hidden states and targets."""
    rows = max(FEWEST_ROWS, LOGITS_PER_CHUNK // len(weight))
    for start in range(0, len(hidden), rows):
        at = slice(start, start + rows)
        yield at, hidden[at], targets[at]
