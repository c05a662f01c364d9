"""A reward read at each layer of its network, and where the token that it is read at looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf_plugins import RunError, Samples

if TYPE_CHECKING:
    from torch import Tensor, nn

NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm")  # a decoder's last one, as architectures call it
CLOSE = 1e-3  # how far the last layer's reward may be from the model's own: absolute, or relative above 1


@dataclass(frozen=True)
class Layers:
    """The reward at each layer and the last token's attention, for one response of T tokens, prompt included.

    Args:
        rewards: by pooling and head from the embeddings and from each layer's output, the last of them the reward.
        attention: (layers, heads, T) weights with which the response's last token reads each token.
    """

    rewards: tuple[float, ...]
    attention: Tensor

    def strongest(self, layer: int) -> tuple[int, int, float]:
        """Head, token and weight of the layer's largest attention to a token that is not the text's first.

        The first token is left out since heads with nothing to read look there (Xiao et al. 2024).
        """
        weights = self.attention[layer, :, 1:]
        head, token = divmod(int(weights.argmax()), weights.shape[1])
        return head, token + 1, float(weights.max())


def read_layers(judge: Any, sample: Samples) -> Layers:
    """The reward that pooling and head give each layer's states, after the network's last norm (nostalgebraist 2020).

    Args:
        judge: a reward model as `load_reward_model` opens it.
        sample: one response.

    Raises:
        RunError: the reward model is no single network, reads columns, or its layers are not its own reward's.
    """
    import torch

    module = judge.module
    if getattr(module, "trunk", None) is None or module.columns:
        raise RunError("layers need a reward model that is one network and reads no columns: no ensemble, no function")
    ids = torch.tensor([[*sample.prompt_ids[0], *sample.response_ids[0]]], device=module.trunk.device)
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad(), _eager(module.trunk) as trunk:
        found = trunk(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **asked)
        norm, states = _last_norm(trunk), found.hidden_states
        normed = [*map(norm, states[:-1]), states[-1]] if norm else states
        numbers = () if module.sentences is None else (module.sentences(ids, torch.ones_like(ids)),)
        rewards = tuple(_reward(module, each, len(sample.prompt_ids[0]), *numbers) for each in normed)
    own = float(judge.predict(sample).reward[0])
    if abs(rewards[-1] - own) > CLOSE * max(1.0, abs(own)):
        raise RunError(
            f"the last layer gives {rewards[-1]:.4f} and the reward model {own:.4f}: its layers are not read"
        )
    return Layers(rewards, torch.stack([each[0, :, -1].float().cpu() for each in found.attentions]))


def _reward(module: Any, states: Tensor, prompt: int, *numbers: Tensor) -> float:
    """The reward of states (1, T, width); `numbers` (1, T) are sentence numbers, where the pooling reads them."""
    import torch

    mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    if module.pooling.over == "response":
        mask[:, :prompt] = False
    if module.pooling.reads_last:
        states, mask = states[:, -1:], mask[:, -1:]
    return float(module(module.pooling(states, mask, *numbers)).reward[0])


def _last_norm(trunk: Any) -> nn.Module | None:
    """The norm behind the last layer, whose output is the last of the hidden states; None where there is none."""
    return next((found for name in NORMS if (found := getattr(trunk, name, None)) is not None), None)


@contextmanager
def _eager(trunk: Any) -> Iterator[Any]:
    """The plain network below an adapter, whose layers are in place, with attention that keeps its weights."""
    plain = trunk.get_base_model() if hasattr(trunk, "get_base_model") else trunk
    before = plain.config._attn_implementation
    plain.set_attn_implementation("eager")
    try:
        yield plain
    finally:
        plain.set_attn_implementation(before)
