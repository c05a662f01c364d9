"""Mixtures of policies: of their logits token by token, or of their weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import isclose
from typing import Any, Literal, get_args
from weakref import finalize

import torch
from torch import Tensor

from rlhf_plugins.contract.rows import Samples, Text
from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.data.batches.branches import BranchBatch
from rlhf_plugins.engine import cost
from rlhf_plugins.engine.backbone import Backbone, matrices
from rlhf_plugins.engine.decoding import AT_ONCE
from rlhf_plugins.engine.log_probs import by_response
from rlhf_plugins.engine.policy import Handle, ModelPolicy
from rlhf_plugins.engine.sampling import Decoding, drawn, up_to_end
from rlhf_plugins.engine.weights.loading import base_weights, load_causal
from rlhf_plugins.errors import RunError, nearest

Over = Literal["logits", "weights"]
LOGITS_AT_ONCE = 2**26  # of one policy: 256 MiB in float32


def mix(policies: Mapping[Any, float], over: Over = "logits") -> Handle:
    """A policy made of several.

    Over `logits`, the mixture's logits are sum_i w_i logits_i for each token; its cost is that of all policies. Over
    `weights`, adapters of one base become one adapter whose change of each layer is sum_i w_i (alpha_i / r_i) B_i A_i,
    and whole models become one model with weights sum_i w_i W_i, for which the w_i must add up to 1.

    Args:
        policies: from each policy to its weight w_i, which may be negative.
        over: what is summed.

    Raises:
        RunError: the policies do not go together.
    """
    if over not in get_args(Over):
        raise RunError(f"mix: unknown over {over!r} {nearest(str(over), get_args(Over))}")
    parts, weights = list(policies), [float(weight) for weight in policies.values()]
    if not parts:
        raise RunError("mix: at least one policy")
    if any(policy.tokenizer.get_vocab() != parts[0].tokenizer.get_vocab() for policy in parts[1:]):
        raise RunError("mix: the policies have different vocabularies")
    if over == "logits":
        return MixedLogits(parts, weights)
    if not all(isinstance(policy, ModelPolicy) for policy in parts):
        raise RunError("mix: a mixture of logits has no weights; mix its parts, or mix over logits")
    if any(policy.adapter for policy in parts):
        return _mixed_adapters(parts, weights)
    return _mixed_models(parts, weights)


class MixedLogits(Handle):
    """A policy whose logits are sum_i w_i logits_i of others."""

    def __init__(self, parts: Sequence[Handle], weights: Sequence[float]) -> None:
        super().__init__()
        self.parts, self.weights = parts, weights
        self.encoder = parts[0].encoder
        self.tokens_per_batch = max(64, LOGITS_AT_ONCE // len(self.tokenizer))

    @property
    def module(self) -> Any:
        """The models of its parts, in a list."""
        return torch.nn.ModuleList(part.module for part in self.parts)

    @property
    def models(self) -> Sequence[Any]:
        """The models of its parts, each once."""
        return tuple({id(model): model for part in self.parts for model in part.models}.values())

    @property
    def ends(self) -> list[int]:
        """The end tokens of all its parts."""
        return sorted({end for part in self.parts for end in part.ends})

    def next_logits(self, ids: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        """See `Policy`; the cache is a list with the caches of the parts."""
        caches = cache or [None] * len(self.parts)
        found = [part.next_logits(ids, own) for part, own in zip(self.parts, caches, strict=True)]
        return self._summed([logits for logits, _ in found]), [own for _, own in found]

    def logits(self, batch: BranchBatch) -> Tensor:
        """Where each response token is predicted, (tokens, vocabulary)."""
        return self._summed([part.logits(batch) for part in self.parts])

    def _summed(self, logits: Sequence[Tensor]) -> Tensor:
        device = logits[0].device
        terms = [weight * own.to(device) for weight, own in zip(self.weights, logits, strict=True)]
        return torch.stack(terms).sum(0)

    def _active(self) -> AbstractContextManager[Any]:
        return nullcontext()  # each part is active in its turn

    def _logps(self, batch: BranchBatch, temperature: float) -> Tensor:
        targets = batch.scored()[1].unsqueeze(1)
        return by_response(
            (self.logits(batch) / temperature).log_softmax(-1).gather(1, targets).squeeze(1), batch.response_mask()
        )

    def _sample(self, prompts: Sequence[Text], n: int, decoding: Decoding) -> Samples:
        rows = [(prompt, self.encoder.encode_start(prompt)) for prompt in prompts for _ in range(n)]
        by_length: dict[int, list[int]] = {}
        for row, (_, ids) in enumerate(rows):
            by_length.setdefault(len(ids), []).append(row)
        responses: list[list[int]] = [[] for _ in rows]
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(decoding.seed)
            for batch in _batches(by_length.values()):  # no row is padded
                found = self._responses([rows[row][1] for row in batch], decoding)
                for row, response in zip(batch, found, strict=True):
                    responses[row] = response
        cost.add(generated_tokens=sum(map(len, responses)))
        texts = self.tokenizer.batch_decode(responses, skip_special_tokens=True)
        return Samples([prompt for prompt, _ in rows], texts, [ids for _, ids in rows], responses)

    def _responses(self, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
        ends = self.ends
        given, cache = torch.tensor(prompts, device=self.models[0].device), None
        text, start = given, given.shape[1]
        ended = torch.zeros(len(prompts), dtype=torch.bool, device=given.device)
        while text.shape[1] - start < decoding.max_new_tokens and not bool(ended.all()):
            logits, cache = self.next_logits(given, cache)
            token = drawn(text, logits, decoding)
            ended |= torch.isin(token, torch.tensor(ends, device=token.device))
            given = token.unsqueeze(1)
            text = torch.cat([text, given], 1)
        return [up_to_end(row, ends) for row in text[:, start:].tolist()]

    def _weights(self) -> Iterator[Tensor]:
        return (weights for part in self.parts for weights in part._weights())


def _batches(lists: Iterable[Sequence[int]]) -> Iterator[Sequence[int]]:
    """Each list in parts of `AT_ONCE` at most."""
    for rows in lists:
        yield from (rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE))


def _mixed_adapters(parts: Sequence[ModelPolicy], weights: Sequence[float]) -> ModelPolicy:
    """One adapter of rank sum_i r_i: A stacks the rows of all A_i, B the columns of all w_i (alpha_i / r_i) B_i."""
    backbone = parts[0].backbone
    if any(policy.backbone is not backbone for policy in parts):
        raise RunError("mix: over weights, adapters must be of one base in memory; mix over logits")
    tuned = [(backbone.layers(p.adapter), p.adapter, w) for p, w in zip(parts, weights, strict=True) if p.adapter]
    if any(layer.lora_variant.get(own) for layers, own, _ in tuned for layer in layers.values()):
        raise RunError("mix: over weights, what DoRA changes is no sum of the parts' changes; mix over logits")
    names = sorted({name for layers, _, _ in tuned for name in layers})
    ranks = {name: sum(layers[name].r[own] for layers, own, _ in tuned if name in layers) for name in names}
    rank = max(ranks.values())
    adapter = backbone.add(Adapter(r=rank, lora_alpha=rank, target_modules=names), trainable=False)
    with torch.no_grad():
        for name, layer in backbone.layers(adapter).items():
            start, (low, high) = 0, (matrix.zero_() for matrix in matrices(layer, adapter))
            for layers, own, weight in tuned:
                if name in layers:
                    part, end = layers[name], start + layers[name].r[own]
                    down, up = matrices(part, own)
                    low[start:end] = down
                    high[:, start:end] = weight * part.scaling[own] * up
                    start = end
    ends = sorted({end for part in parts for end in part.ends})
    policy = ModelPolicy(backbone, adapter, parts[0].encoder, ends=ends)
    finalize(policy, backbone.remove, adapter)
    return policy


def _mixed_models(parts: Sequence[ModelPolicy], weights: Sequence[float]) -> ModelPolicy:
    """One model with weights sum_i w_i W_i."""
    base = parts[0].backbone.base
    if not isclose(sum(weights), 1.0, abs_tol=1e-6):
        raise RunError(
            f"mix: over the weights of whole models, the policies' weights must add up to 1, not {sum(weights)}"
        )
    if any(policy.backbone.base.quantization for policy in parts):
        raise RunError("mix: weights that are quantized cannot be summed; mix over logits")
    states = [base_weights(policy.backbone.inner) for policy in parts]
    if any(state.keys() != states[0].keys() for state in states):
        raise RunError("mix: the policies have different architectures")
    model = load_causal(base).eval().requires_grad_(False)
    with torch.no_grad():
        for name, own in model.state_dict().items():
            if own.is_floating_point():
                own.copy_(sum(w * state[name].to(own.device) for w, state in zip(weights, states, strict=True)))
    return ModelPolicy(Backbone(model, base), None, parts[0].encoder)
