"""The forward pass over a branch batch: hidden states of every sequence, log-probabilities of response tokens only.

It knows how to run a decoder under the branches' attention mask and how to tell whether a decoder takes such a mask;
it knows nothing of losses.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rlhf_plugins.data.branches import PROMPT, BranchBatch, PromptBranches, collate

logger = logging.getLogger(__name__)


class ResponseLogps(NamedTuple):
    """Of each response token, from the response's start and 0 after its end: log-probability and, if asked, entropy."""

    logps: Tensor  # (B, T) nats
    entropies: Tensor | None  # (B, T) nats
    hidden: Tensor  # (tokens, width) hidden states that predict the response tokens, branch by branch


def trunk_of(model: Any) -> Any:
    """The decoder below the language-model head, with its adapters in place, of a plain or PEFT model."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.base_model if hasattr(inner, "base_model") else inner


def sequence_states(trunk: Any, batch: BranchBatch) -> Tensor:
    """Last hidden states of every branch's own sequence, (B, L, width); meaningless where `batch.mask` is False."""
    return trunk(**_layout(trunk, batch)).last_hidden_state.flatten(0, 1)[batch.index]


def response_logps(model: Any, batch: BranchBatch, temperature: float = 1.0, entropy: bool = False) -> ResponseLogps:
    """Log-probability of every response token, with the head applied only where one is predicted.

    Args:
        model: a causal language model, plain or PEFT.
        batch: G groups with B branches.
        temperature: divides the logits, as sampling did.
        entropy: also return the entropy of each predicting distribution.
    """
    predicting, targets = batch.scored()  # (tokens,), (tokens,)
    logits, hidden = _logits_at(model, batch, predicting)  # (tokens, vocabulary), (tokens, width)
    precise = torch.promote_types(logits.dtype, torch.float32)
    log_probs = (logits.to(precise) / temperature).log_softmax(-1)
    mask = batch.response_mask()
    logps = spread(log_probs.gather(1, targets.unsqueeze(1)).squeeze(1), mask)
    entropies = spread(-(log_probs.exp() * log_probs).sum(-1), mask) if entropy else None
    return ResponseLogps(logps, entropies, hidden)


def _layout(trunk: Any, batch: BranchBatch) -> dict[str, Any]:
    ids = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask(trunk.dtype)}
    if is_causal(trunk):
        return {**ids, "position_ids": batch.position_ids, "use_cache": False}
    if getattr(trunk.config, "type_vocab_size", 1) > 1:  # positions are the encoder's own, which may not start at 0
        ids["token_type_ids"] = (batch.segment > PROMPT).long()
    return ids


def _logits_at(model: Any, batch: BranchBatch, places: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and hidden states at some places of the flattened rows, (tokens, vocabulary) and (tokens, width).

    The model's own forward pass runs, its head given these places alone, since some models scale or cap their logits
    after the head.
    """
    picked: list[Tensor] = []

    def pick(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        picked.append(inputs[0].flatten(0, 1)[places])
        return (picked[0].unsqueeze(0),)

    hook = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        logits = model(**_layout(trunk_of(model), batch)).logits[0]
    finally:
        hook.remove()
    return logits, picked[0]


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """One value a response token, branch by branch (tokens,), to (B, T) with 0 outside the mask."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def is_causal(trunk: Any) -> bool:
    """Whether a token sees only what stands before it; found out once by changing the last token, and remembered."""
    if not hasattr(trunk, "_is_causal"):
        ids = torch.tensor([_probe_ids(trunk, 8)], device=trunk.device)
        other = ids.clone()
        other[0, -1] = ids[0, 0]
        with _evaluating(trunk):
            first, second = (trunk(input_ids=i).last_hidden_state[0, :-1].float() for i in (ids, other))
        trunk._is_causal = bool((first - second).abs().max() < 1e-3 * first.abs().max())
    return bool(trunk._is_causal)


def takes_shared_rows(model: Any) -> bool:
    """Whether the model gives the same hidden states for shared rows as for separate ones.

    Sliding windows are refused unseen, since they are applied in layout order; everything else is tried once on a
    small batch. The answer is remembered on the model, and a "no" is logged once with its reason.
    """
    trunk = trunk_of(model)
    if not hasattr(trunk, "_takes_shared_rows"):
        reason = _refusal(trunk)
        if reason:
            logger.warning("%s: prompts are computed once per response, because %s", type(trunk).__name__, reason)
        trunk._takes_shared_rows = reason is None
    return bool(trunk._takes_shared_rows)


def _refusal(trunk: Any) -> str | None:
    if not is_causal(trunk):
        return "it reads in both directions"
    layers = set(getattr(trunk.config, "layer_types", None) or ["full_attention"])
    if layers != {"full_attention"}:
        return f"it has layers of type {', '.join(sorted(layers - {'full_attention'}))}"
    if getattr(trunk.config, "sliding_window", None) and getattr(trunk.config, "use_sliding_window", True):
        return "it attends through a sliding window"
    try:
        error = _disagreement(trunk)
    except Exception as failure:  # an architecture may refuse the mask in any way of its own
        return f"it does not take a 4-D attention mask ({type(failure).__name__})"
    return None if error < _rounding(trunk) else f"shared rows change its hidden states by {error:.2%}"


def _rounding(trunk: Any) -> float:
    """What may be rounding: freshly initialised models that ignore positions differ by as little as 0.1%."""
    quantized = getattr(trunk.config, "quantization_config", None) is not None
    return float(torch.finfo(torch.bfloat16 if quantized else trunk.dtype).eps ** 0.5)


def _probe_ids(trunk: Any, count: int) -> list[int]:
    return [5 + i % max(1, trunk.config.get_text_config().vocab_size - 6) for i in range(count)]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and without gradients; the model's mode is as before afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _disagreement(trunk: Any) -> float:
    """Largest change of a hidden state between the layouts, relative to the largest hidden state."""
    ids = _probe_ids(trunk, 24)
    groups = [PromptBranches(ids[:8], [ids[8:13], ids[13:24]]), PromptBranches(ids[3:8], [ids[1:4]])]
    states = []
    with _evaluating(trunk):
        for shared in (True, False):
            inputs = {k: v.to(trunk.device) for k, v in collate(groups, 0, shared).items()}
            batch = BranchBatch.from_inputs(inputs)
            states.append(sequence_states(trunk, batch).float().masked_fill(~batch.mask.unsqueeze(-1), 0.0))
    return float((states[0] - states[1]).abs().max() / states[1].abs().max())
