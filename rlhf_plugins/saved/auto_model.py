"""A reward model of any trunk, pooling and head as transformers' `AutoModelForSequenceClassification` opens it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.modeling_utils import PreTrainedModel

from rlhf_plugins.data.batches.branches import PADDING, BranchBatch
from rlhf_plugins.engine.forward import is_causal
from rlhf_plugins.errors import PluginError
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.saved.auto_config import RewardModelConfig


class RewardModelForSequenceClassification(PreTrainedModel):
    """A `RewardModel` behind transformers' interface of a classifier with one label.

    Pooling and head are kept in float32 at any requested precision.

    Raises:
        PluginError: no installed plugin registers the pooling or the head.
    """

    config_class = RewardModelConfig
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = (
        True  # the trunk decides
    )
    config: Any
    _constants: dict[str, Tensor]  # what the pooling and head compute when they are built

    def __init__(self, config: RewardModelConfig) -> None:
        super().__init__(config)
        trunk = AutoModel.from_config(config.trunk_config)
        pooling, head = _component(config, "pooling"), _component(config, "head", kind="reward_head")
        with _real_tensors():
            self.model = RewardModel(trunk, pooling, head)
            self._constants = dict(_unsaved(trunk, pooling=pooling, head=head))
        self._no_split_modules = trunk._no_split_modules
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Tensor]:
        """Rewards of whole sequences as `logits`, (B, 1), in float32.

        Args:
            input_ids: (B, N), padded on either side.
            attention_mask: (B, N), 0 at padding, whichever token pads; None where nothing is padded.
            token_type_ids: (B, N), 1 at the response; needed by an encoder that was pretrained with them, and ignored
                by all other trunks.
            return_dict: False gives a tuple.

        Raises:
            ValueError: a row has no token, padding has no mask, or an encoder has no mark of where the response begins.
        """
        batch = self._rows(input_ids, self._mask(input_ids, attention_mask), token_type_ids)
        learning = torch.is_grad_enabled() and any(weights.requires_grad for weights in self.parameters())
        with torch.set_grad_enabled(learning):
            logits = self.model(batch).reward.unsqueeze(-1)
        return (logits,) if return_dict is False else SequenceClassifierOutput(logits=logits)

    def get_input_embeddings(self) -> nn.Module:
        """The trunk's."""
        return self.model.trunk.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Sets the trunk's."""
        self.model.trunk.set_input_embeddings(value)

    def _mask(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B, N) bool, True at tokens."""
        if attention_mask is not None:
            mask = attention_mask.bool()
        else:
            mask = torch.ones_like(input_ids, dtype=torch.bool)
            pad, end = (getattr(self.config, name, None) for name in ("pad_token_id", "eos_token_id"))
            if pad not in (None, end) and bool((input_ids == pad).any()):
                raise ValueError("input_ids are padded, so attention_mask is needed")
        if not bool(mask.any(1).all()):
            raise ValueError("a row of attention_mask has no token")
        return mask

    def _rows(self, input_ids: Tensor, mask: Tensor, token_type_ids: Tensor | None) -> BranchBatch:
        """Every sequence as a row of its own."""
        response = torch.zeros_like(mask)
        if tells_response(self.model.trunk):
            if token_type_ids is None:
                raise ValueError("token_type_ids are needed: tokenize prompt and response as a pair")
            response = mask & token_type_ids.bool()
            if self.model.pooling.over == "response" and not bool(response.any(1).all()):
                raise ValueError("token_type_ids mark no response in a row: tokenize prompt and response as a pair")
        places = (~mask).long().argsort(dim=1, stable=True)[:, : int(mask.sum(1).max())]  # (B, L) tokens first
        numbers = torch.arange(len(mask), device=mask.device)
        kept = mask.gather(1, places)
        index = (places + numbers.unsqueeze(1) * mask.shape[1]).masked_fill(~kept, 0)
        segment = response.long().masked_fill(~mask, PADDING)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        parent = torch.zeros_like(segment).masked_fill(~mask, PADDING)
        response = response.gather(1, places) & kept
        return BranchBatch(input_ids, positions, segment, parent, index, kept, response, numbers)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Restores buffers that are not saved. Components initialise their own weights, and loading fills them in."""
        for name, value in self._constants.items():
            owner, _, buffer = name.rpartition(".")
            if self.model.get_submodule(owner) is module:
                module.get_buffer(buffer).copy_(value)


def tells_response(trunk: Any) -> bool:
    """Whether the trunk is an encoder in which `token_type_ids` mark the response."""
    return getattr(trunk.config, "type_vocab_size", 1) > 1 and not is_causal(trunk)


def _component(config: Any, name: str, kind: str = "pooling") -> Any:
    from rlhf_plugins.recipe.assemble import component

    try:
        return component(kind, getattr(config, name))
    except PluginError as error:
        raise PluginError(f"{error}; the reward model was made with {', '.join(config.plugins)}") from error


@contextmanager
def _real_tensors() -> Iterator[None]:
    """Where transformers builds on the meta device, in the precision to load: tensors with values, of float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)


def _unsaved(trunk: Any, **parts: Any) -> Iterator[tuple[str, Tensor]]:
    """The buffers that the parts' modules compute and do not save, by name."""
    width = trunk.config.get_text_config().hidden_size
    for name, part in parts.items():
        module = part.build(width) if part.builds else nn.Module()
        saved = module.state_dict()
        yield from ((f"{name}.{key}", buffer) for key, buffer in module.named_buffers() if key not in saved)
