"""Log-probabilities of response tokens: a decoder's forward pass, and its head where a token is predicted."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rlhf_plugins.data.batches.branches import BranchBatch
from rlhf_plugins.engine import CHUNKED_HEAD
from rlhf_plugins.engine.forward import evaluating, model_inputs, probe_ids, states_at, taken, trial_result, trunk_of
from rlhf_plugins.engine.head import Scaling, TokenLogps, chunks_agree, configured_scaling, token_logps


class ResponseLogps(NamedTuple):
    """Log-probabilities and, if requested, entropies of response tokens, from the response's start, 0 after its end."""

    logps: Tensor  # (B, T) nats
    entropies: Tensor | None  # (B, T) nats
    hidden: Tensor  # (tokens, width) hidden states that predict the response tokens, branch by branch
    means: Tensor | None = None  # (B, T) of the logits over the vocabulary, if requested
    likeliest: Tensor | None = None  # (B, T) bool, whether no token was likelier, if requested


def response_logps(
    model: Any, batch: BranchBatch, temperature: float = 1.0, entropy: bool = False, observe: bool = False
) -> ResponseLogps:
    """Log-probability of every response token; the head is applied only where one is predicted.

    Args:
        model: a causal language model, plain or PEFT.
        batch: G groups with B branches, in a layout that the model takes.
        temperature: divides the logits, as in sampling.
        entropy: also return the entropy of each predicting distribution.
        observe: also return, without gradients, its entropy, the mean of its logits, and whether the token is its
            likeliest.
    """
    places, targets = batch.scored()  # (tokens,), (tokens,)
    tokens, hidden = _token_logps(model, batch, (places, targets), temperature, (entropy, observe))
    mask = batch.response_mask()
    logps, entropies, *observed = (None if each is None else by_response(each, mask) for each in tokens)
    assert logps is not None
    return ResponseLogps(logps, entropies, hidden, *observed)


def response_logits(model: Any, batch: BranchBatch) -> Tensor:
    """The model's logits where each response token is predicted, (tokens, vocabulary) in float32 or better."""
    logits, _ = _logits_at(model, batch, batch.scored()[0], trims=CHUNKED_HEAD.active(trunk_of(model)))
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def by_response(values: Tensor, mask: Tensor) -> Tensor:
    """One value per response token, branch by branch (tokens,), as (B, T) with 0 outside the mask."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def _token_logps(
    model: Any, batch: BranchBatch, scored: tuple[Tensor, Tensor], temperature: float, wanted: tuple[bool, bool]
) -> tuple[TokenLogps, Tensor]:
    """Log-probabilities of the scored (places, targets), and the hidden states there, (tokens, width)."""
    places, targets = scored
    trunk = trunk_of(model)
    scaling = logit_scaling(model) if CHUNKED_HEAD.active(trunk) else None
    if scaling is None:
        logits, hidden = _logits_at(model, batch, places, trims=CHUNKED_HEAD.active(trunk))
        return token_logps(nn.Identity(), logits, targets, Scaling(temperature=temperature), *wanted), hidden
    hidden = states_at(trunk, batch, places)
    scaling = Scaling(scaling.scale, scaling.cap, temperature)
    return token_logps(model.get_output_embeddings(), hidden, targets, scaling, *wanted), hidden


def logit_scaling(model: Any) -> Scaling | None:
    """How the model scales the output of its head, according to its configuration and a trial.

    None if the trial contradicts the configuration: then only the model's own forward pass computes its logits.
    """
    trunk = trunk_of(model)
    return trial_result(trunk, "logit scaling", lambda: _confirmed_scaling(model, trunk))


def try_head(model: Any) -> None:
    """Runs the trial that the first log-probabilities of a model need, while its weights are whole."""
    if hasattr(model, "get_output_embeddings") and CHUNKED_HEAD.active(trunk_of(model)):
        logit_scaling(model)


def _confirmed_scaling(model: Any, trunk: Any) -> Scaling | None:
    scaling, head = configured_scaling(model.config.get_text_config()), model.get_output_embeddings()
    ids = torch.tensor([probe_ids(trunk, 8)], device=trunk.device)
    with evaluating(model):
        expected = model(input_ids=ids).logits.float()
        states = trunk(input_ids=ids).last_hidden_state
        logits = scaling(head(states)).float()
    agree = torch.allclose(logits, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max()))
    return scaling if agree and chunks_agree(head, states[0], ids[0], scaling) else None


def _logits_at(model: Any, batch: BranchBatch, places: Tensor, trims: bool) -> tuple[Tensor, Tensor]:
    """Logits and hidden states at some places of the flattened rows, (tokens, vocabulary) and (tokens, width).

    They come from the model's own forward pass; with `trims`, its head computes these places alone.
    """
    states: list[Tensor] = []

    def pick(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        states.append(taken(inputs[0], places))
        return (states[0].unsqueeze(0),) if trims else None

    hook = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        logits: Tensor = model(**model_inputs(trunk_of(model), batch)).logits
    finally:
        hook.remove()
    return logits.flatten(0, 1) if trims else taken(logits, places), states[0]
