"""Log-probabilities of response tokens: a decoder's forward pass, and its head where a token is predicted.

It knows policies and branch batches, nothing of losses.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rlhf_plugins.data.branches import BranchBatch
from rlhf_plugins.engine.forward import evaluating, model_inputs, probe_ids, states_at, trunk_of
from rlhf_plugins.engine.head import Scaling, TokenLogps, stated_scaling, token_logps


class ResponseLogps(NamedTuple):
    """Of each response token, from the response's start and 0 after its end: log-probability and, if asked, entropy."""

    logps: Tensor  # (B, T) nats
    entropies: Tensor | None  # (B, T) nats
    hidden: Tensor  # (tokens, width) hidden states that predict the response tokens, branch by branch


def response_logps(model: Any, batch: BranchBatch, temperature: float = 1.0, entropy: bool = False) -> ResponseLogps:
    """Log-probability of every response token, with the head applied only where one is predicted.

    Args:
        model: a causal language model, plain or PEFT.
        batch: G groups with B branches, in a layout that the model takes.
        temperature: divides the logits, as sampling did.
        entropy: also return the entropy of each predicting distribution.
    """
    places, targets = batch.scored()  # (tokens,), (tokens,)
    found, hidden = _token_logps(model, batch, (places, targets), temperature, entropy)
    mask = batch.response_mask()
    entropies = None if found.entropies is None else spread(found.entropies, mask)
    return ResponseLogps(spread(found.logps, mask), entropies, hidden)


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """One value a response token, branch by branch (tokens,), to (B, T) with 0 outside the mask."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def _token_logps(
    model: Any, batch: BranchBatch, wanted: tuple[Tensor, Tensor], temperature: float, entropy: bool
) -> tuple[TokenLogps, Tensor]:
    """Of the wanted (places, targets), beside the hidden states there, (tokens, width)."""
    places, targets = wanted
    scaling = logit_scaling(model)
    if scaling is None:
        logits, hidden = _logits_at(model, batch, places)
        return token_logps(nn.Identity(), logits, targets, Scaling(temperature=temperature), entropy), hidden
    hidden = states_at(trunk_of(model), batch, places)
    scaling = Scaling(scaling.scale, scaling.cap, temperature)
    return token_logps(model.get_output_embeddings(), hidden, targets, scaling, entropy), hidden


def logit_scaling(model: Any) -> Scaling | None:
    """What the model does to its head's numbers, as its configuration says and one trial confirms, remembered.

    None where the trial contradicts: then the model's own forward pass must make the logits.
    """
    trunk = trunk_of(model)
    if not hasattr(trunk, "_logit_scaling"):
        stated = stated_scaling(model.config.get_text_config())
        ids = torch.tensor([probe_ids(trunk, 8)], device=trunk.device)
        with evaluating(model):
            expected = model(input_ids=ids).logits.float()
            found = stated(model.get_output_embeddings()(trunk(input_ids=ids).last_hidden_state)).float()
        agree = torch.allclose(found, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max()))
        trunk._logit_scaling = stated if agree else None
    return trunk._logit_scaling


def _logits_at(model: Any, batch: BranchBatch, places: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and hidden states at some places of the flattened rows, (tokens, vocabulary) and (tokens, width).

    The model's own forward pass runs, its head given these places alone.
    """
    picked: list[Tensor] = []

    def pick(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        picked.append(inputs[0].flatten(0, 1)[places])
        return (picked[0].unsqueeze(0),)

    hook = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        logits = model(**model_inputs(trunk_of(model), batch)).logits[0]
    finally:
        hook.remove()
    return logits, picked[0]
