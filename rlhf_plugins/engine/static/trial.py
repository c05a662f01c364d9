"""Whether a model's responses can be generated over a static cache: by what it is, and by a trial on it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList

from rlhf_plugins.engine import cost
from rlhf_plugins.engine.attention import NAME
from rlhf_plugins.engine.forward import evaluating, probe_ids, trial_result, trunk_of
from rlhf_plugins.engine.layers import FULL, SLIDING, attention_types, checkpointing, short_windows
from rlhf_plugins.engine.out_of_memory import inconclusive
from rlhf_plugins.engine.probing import rounding
from rlhf_plugins.engine.sampler_log_probs import Noted
from rlhf_plugins.engine.static.drawing import Drawing
from rlhf_plugins.engine.static.filling import Filler, our_attention, shapes
from rlhf_plugins.engine.static.slots import Slots

logger = logging.getLogger(__name__)
GRADIENTS = "make_inputs_require_grad"  # a hook of transformers and PEFT for recomputed activations
TOKENS = 6  # of each response of the trial
_SAID: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


def obstacle_of(model: Any) -> str | None:
    """Why a causal language model's responses are not generated over a static cache; None where they are.

    The trial runs once for each device and precision of the model.
    """
    trunk = trunk_of(model)
    return next(obstacles(model), None) or trial_result(trunk, "static cache", lambda: _trial(model))


def is_ready(model: Any) -> bool:
    """Whether they are, once the model generates: trainers switch off then that activations are recomputed."""
    with evaluating(model):
        return obstacle_of(model) is None


def say(model: Any, reason: str) -> None:
    """Logs why transformers' loop generates, once for a model and a reason."""
    said = _SAID.setdefault(model, set())
    if reason not in said:
        said.add(reason)
        logger.warning("%s generates by transformers' loop, because %s", type(model).__name__, reason)


def obstacles(model: Any) -> Iterator[str]:
    """Why they are not, before any trial."""
    config = model.config.get_text_config()
    if getattr(model.config, "is_encoder_decoder", False):
        yield "it is an encoder-decoder"
    if others := set(attention_types(config)) - {FULL, SLIDING}:
        yield f"it has layers of type {', '.join(sorted(others))}"
    if config._attn_implementation not in (NAME, "sdpa"):
        yield f"its attention is {config._attn_implementation}"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        yield "its attention caps logits"
    if getattr(model, "is_loaded_in_8bit", False):
        yield "products in int8 wait for the host"
    if checkpointing(model) and model.training:
        yield "its activations are recomputed"
    if any(isinstance(one, nn.Dropout) and one.p and one.training for one in model.modules()):
        yield "dropout is on"
    if any(_hooks(model)):
        yield "hooks see its layers"


def _hooks(model: nn.Module) -> Iterator[Any]:
    """Functions that run with its layers and may change what these compute, or wait for the device."""
    for module in model.modules():
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            harmless = hook in cost.HOOKS or getattr(hook, "__name__", "").startswith(GRADIENTS)
            if not harmless and not isinstance(getattr(hook, "__self__", None), Noted):
                yield hook


def _trial(model: Any) -> str | None:
    """Why its logits over a static cache are not those of its own forward pass."""
    ids = probe_ids(trunk_of(model), 24)
    prompts = [tuple(ids[:8]), tuple(ids[3:8]), tuple(ids[:8]), tuple(ids[9:10])]
    try:
        with short_windows(model):
            found, responses, cached = _over_slots(model, prompts)
            expected = [_plain(model, [*prompt, *made]) for prompt, made in zip(prompts, responses, strict=True)]
    except Exception as error:  # an architecture may refuse the cache or the mask with any exception
        if inconclusive(error):
            raise
        return f"it does not take a static cache ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    changed = float((found - torch.stack(expected)).abs().max() / torch.stack(expected).abs().max())
    allowed = max(rounding(model), torch.finfo(cached).eps ** 0.5)  # autocast may be around its forward alone
    return None if changed < allowed else f"a static cache changes its logits by {changed:.2%}"


@torch.no_grad()
def _over_slots(model: Any, prompts: list[tuple[int, ...]]) -> tuple[Tensor, list[list[int]], torch.dtype]:
    """Logits (prompts, TOKENS, vocabulary), the likeliest tokens, (prompts, TOKENS), and the precision of values."""
    logits: list[Tensor] = []
    with our_attention(model.config):
        slots = Slots(model, shapes(model), len(prompts), 32, Drawing(LogitsProcessorList(), False))
        filler = Filler(model, slots, lambda: logits.append(slots.step()))
        numbers = torch.zeros(len(prompts), TOKENS, dtype=torch.float64, device=model.device)
        made = filler.respond(prompts, numbers).ids
    return torch.stack(logits[:TOKENS], 1), made.tolist(), slots.cache.layers[0].values.dtype


@torch.no_grad()
def _plain(model: Any, ids: list[int]) -> Tensor:
    """Logits of the model's own forward pass at the last TOKENS tokens but one, (TOKENS, vocabulary)."""
    logits: Tensor = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
    return logits[0, -TOKENS - 1 : -1].float()
