"""Log-probabilities from hidden states, a chunk of tokens at a time.

No tensor of (tokens, vocabulary) is kept beyond its chunk: the backward pass computes a chunk's logits again. For a
frozen head, the forward pass keeps the gradient of each log-probability instead, and nothing is computed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rlhf_plugins.engine import CHUNKED_HEAD
from rlhf_plugins.engine.cost import count_head
from rlhf_plugins.engine.cpu.product import outer_sum, times_transposed, uses_onednn

LOGITS_PER_CHUNK, FEWEST_TOKENS = 2**20, 256  # 4 MiB in float32; enough work for a launch with a large vocabulary
TRIED = 1024  # rows of a head that a trial takes for a whole vocabulary

CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # names of a cap in configurations

Grads = tuple[Tensor | None, ...]


class TokenLogps(NamedTuple):
    """Log-probability of each token and, where requested, numbers of its distribution; all (tokens,)."""

    logps: Tensor  # nats
    entropies: Tensor | None  # nats, with a gradient if they are not merely observed
    means: Tensor | None = None  # of the logits over the vocabulary
    likeliest: Tensor | None = None  # bool, whether no token of the vocabulary is likelier


@dataclass(frozen=True)
class Scaling:
    """How a head's output z becomes logits: cap tanh(scale z / cap) / temperature, or scale z / temperature."""

    scale: float = 1.0
    cap: float | None = None
    temperature: float = 1.0

    def __call__(self, output: Tensor) -> Tensor:
        """(..., vocabulary) -> the same, in float32 or better."""
        precise = output.to(torch.promote_types(output.dtype, torch.float32))
        if self.cap is None:
            return _times(precise, self.scale / self.temperature)
        return self.cap / self.temperature * torch.tanh(precise * (self.scale / self.cap))

    @property
    def reads_logits(self) -> bool:
        """Whether the gradient depends on the logits."""
        return self.cap is not None

    def backward(self, grad: Tensor, logits: Tensor) -> Tensor:
        """The gradient of the head's output, given the logits and their gradient."""
        if self.cap is not None:
            grad = grad * (1 - (logits * self.temperature / self.cap) ** 2)
        return _times(grad, self.scale / self.temperature)


def _times(tensor: Tensor, factor: float) -> Tensor:
    """The product; a factor of 1 costs no pass over (tokens, vocabulary)."""
    return tensor if factor == 1 else tensor * factor


def configured_scaling(config: Any) -> Scaling:
    """The scaling of logits that a model's configuration names; a trial must confirm that the model applies it."""
    scale, divisor = (getattr(config, name, None) for name in ("logit_scale", "logits_scaling"))
    caps = (getattr(config, name, None) for name in CAPS)
    return Scaling(1 / (divisor or 1.0) if scale is None else scale, next(filter(None, caps), None))


def token_logps(
    head: nn.Module, hidden: Tensor, targets: Tensor, scaling: Scaling, entropy: bool, observe: bool = False
) -> TokenLogps:
    """Log-probability of each target under the head's distribution at its hidden state.

    Args:
        head: a plain linear head is computed in chunks; any other, such as one with an adapter, at once.
        hidden: (tokens, width).
        targets: (tokens,) ids.
        scaling: from the head's output to logits.
        entropy: also return the distributions' entropies.
        observe: also return, without gradients, their entropies, the means of their logits, and whether the targets are
            their likeliest tokens.
    """
    if not _is_plain(head) or not CHUNKED_HEAD.active(hidden):
        return _at_once(head(hidden), targets, scaling, entropy, observe)
    count_head(hidden, head.weight)
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype
    weight, bias = head.weight.to(dtype), None if head.bias is None else head.bias.to(dtype)
    logps, entropies, *observed = _ChunkedLogps.apply(
        hidden.to(dtype), weight, bias, targets, scaling, (entropy, observe)
    )
    return TokenLogps(logps, entropies if entropy or observe else None, *(observed if observe else ()))


def _is_plain(head: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether it computes what a linear layer does, also one whose weights FSDP keeps in shards."""
    return type(head).forward is nn.Linear.forward


def _at_once(output: Tensor, targets: Tensor, scaling: Scaling, entropy: bool, observe: bool = False) -> TokenLogps:
    logits = scaling(output)
    log_probs = logits.log_softmax(-1)
    with torch.set_grad_enabled(entropy and torch.is_grad_enabled()):
        entropies = -(log_probs.exp() * log_probs).sum(-1) if entropy or observe else None
    logps = log_probs.gather(1, targets.unsqueeze(1)).squeeze(1)
    return TokenLogps(logps, entropies, *(_observed(logits, log_probs, logps) if observe else ()))


@torch.no_grad()
def _observed(logits: Tensor, log_probs: Tensor, logps: Tensor) -> tuple[Tensor, Tensor]:
    """Means of logits over the vocabulary, and whether targets of these log-probabilities are the likeliest tokens."""
    return logits.mean(-1), logps >= log_probs.amax(-1)


def chunks_agree(head: nn.Module, hidden: Tensor, targets: Tensor, scaling: Scaling) -> bool:
    """Whether log-probabilities in chunks and their gradients equal those computed at once, on this device.

    The trial takes the first rows of the head, once as frozen and once as trained.
    """
    if not _is_plain(head):
        return True
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(hidden.device.type, enabled=False):
        weight = head.weight.detach()[:TRIED].to(hidden.dtype).clone()
        states, ids = hidden.detach().clone(), targets.clone() % len(weight)
        return all(_chunks_agree(states, weight.requires_grad_(trained), ids, scaling) for trained in (False, True))


def _chunks_agree(hidden: Tensor, weight: Tensor, targets: Tensor, scaling: Scaling) -> bool:
    hidden, rounding = hidden.requires_grad_(), torch.finfo(weight.dtype).eps ** 0.5
    wanted = [hidden, weight] if weight.requires_grad else [hidden]
    chunked = _ChunkedLogps.apply(hidden, weight, None, targets, scaling, (False, False))[0]
    whole = _at_once(nn.functional.linear(hidden, weight), targets, scaling, entropy=False).logps
    one, other = ([logps.detach(), *torch.autograd.grad(logps.sum(), wanted)] for logps in (chunked, whole))
    pairs = [(a.float(), b.float()) for a, b in zip(one, other, strict=True)]
    return all(bool((a - b).abs().max() <= rounding * b.abs().max()) for a, b in pairs)


class _ChunkedLogps(torch.autograd.Function):
    """Log-probabilities and other numbers of linear logits; saves its inputs and one number per token.

    For a frozen head it also saves the gradient of each log-probability, (tokens, width).
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        hidden, weight, bias, targets, scaling, (entropy, observe) = inputs
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[:3] == (True, False, False) else None
        logps, entropies, means, likeliest = [], [], [], []
        for at, states, ids in _chunks(hidden, weight, targets):
            logits = scaling(_head_output(states, weight, bias))
            log_probs = logits.log_softmax(-1)
            logps.append(log_probs.gather(1, ids.unsqueeze(1)).squeeze(1))
            if entropy or observe:
                entropies.append(-(log_probs.exp() * log_probs).sum(-1))
            if observe:
                mean, highest = _observed(logits, log_probs, logps[-1])
                means.append(mean)
                likeliest.append(highest)
            if slopes is not None:
                logits = logits if scaling.reads_logits else log_probs  # no third tensor of this size
                grad = _logit_grads(log_probs, ids, (torch.ones_like(logps[-1]), None))
                slopes[at] = times_transposed(scaling.backward(grad, logits).to(weight.dtype), weight.t())
                del grad
            del logits, log_probs  # before the next chunk's
        all_logps = torch.cat(logps)
        all_entropies = torch.cat(entropies) if entropies else torch.zeros_like(all_logps)
        ctx.save_for_backward(hidden, weight, bias, targets, all_entropies, slopes)
        ctx.scaling = scaling
        observed = (torch.cat(means), torch.cat(likeliest)) if observe else ()
        ctx.mark_non_differentiable(*observed, *(() if entropy else (all_entropies,)))
        ctx.set_materialize_grads(False)
        return all_logps, all_entropies, *observed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """d logp_y / d l_j = [j = y] - p_j; d H / d l_j = -p_j (log p_j + H)."""
        hidden, weight, bias, targets, entropies, slopes = ctx.saved_tensors
        if slopes is not None and grads[0] is not None and grads[1] is None:
            return slopes * grads[0].unsqueeze(1).to(slopes.dtype), *(None,) * 5
        needed = ctx.needs_input_grad
        hidden_grad = torch.empty_like(hidden) if needed[0] else None
        weight_grad = torch.zeros_like(weight) if needed[1] else None
        bias_grad = torch.zeros_like(bias) if needed[2] else None
        for at, states, ids in _chunks(hidden, weight, targets):
            logits = ctx.scaling(_head_output(states, weight, bias))
            own = tuple(None if grad is None else grad[at] for grad in grads[:2])
            grad = _logit_grads(logits.log_softmax(-1), ids, own, entropies[at])
            grad = ctx.scaling.backward(grad, logits).to(weight.dtype)
            if hidden_grad is not None:
                hidden_grad[at] = times_transposed(grad, weight.t())
            if weight_grad is not None:
                outer_sum(grad, states, weight_grad)
            if bias_grad is not None:
                bias_grad += grad.sum(0)
            del grad, logits  # before the next chunk's
        return hidden_grad, weight_grad, bias_grad, None, None, None


def _head_output(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(tokens, width) -> (tokens, vocabulary)."""
    if bias is not None and not uses_onednn(hidden, weight.numel()):
        return nn.functional.linear(hidden, weight, bias)  # rounded once
    output = times_transposed(hidden, weight)
    return output if bias is None else output.add_(bias)


def _logit_grads(log_probs: Tensor, ids: Tensor, grads: Grads, entropies: Tensor | None = None) -> Tensor:
    """Gradient of the logits (tokens, vocabulary), given those of log-probabilities and entropies (tokens,)."""
    logp_grads, entropy_grads = grads
    probabilities = log_probs.exp()
    outer = log_probs.new_zeros(len(ids)) if logp_grads is None else -logp_grads
    if entropy_grads is None or entropies is None:
        grad = probabilities.mul_(outer.unsqueeze(1))
    else:
        surprise = log_probs + entropies.unsqueeze(1)
        grad = probabilities.mul_(outer.unsqueeze(1) - surprise * entropy_grads.unsqueeze(1))
    if logp_grads is not None:
        grad.scatter_add_(1, ids.unsqueeze(1), logp_grads.unsqueeze(1))
    return grad


def _chunks(hidden: Tensor, weight: Tensor, targets: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Each chunk's place, hidden states and targets."""
    tokens = max(FEWEST_TOKENS, LOGITS_PER_CHUNK // len(weight))
    for start in range(0, len(hidden), tokens):
        at = slice(start, start + tokens)
        yield at, hidden[at], targets[at]
