"""The product's own models and batches as fake tensors: they have sizes and no memory."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

from rlhf_plugins.contract.guards import unchecked
from rlhf_plugins.contract.interfaces import Pooling, RewardHead
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.data.batches.branches import BranchBatch, Layout, PromptBranches, collate
from rlhf_plugins.engine import SHARED_ROWS
from rlhf_plugins.engine.attention import NAME
from rlhf_plugins.engine.cost import counted
from rlhf_plugins.engine.forward import TRIMS, inner_of, sequence_states, states_at, trunk_of
from rlhf_plugins.engine.head import configured_scaling
from rlhf_plugins.engine.layers import FULL, SLIDING, attention_types
from rlhf_plugins.engine.weights.loading import with_adapter, with_half_paths
from rlhf_plugins.forecast.quantized import quantized
from rlhf_plugins.reward_models.reward_model import RewardModel

DEVICE = "cpu"  # that fake tensors pretend to be on: on a fake GPU, no backward pass runs


@dataclass(frozen=True)
class Build:
    """How a model is made.

    Args:
        quantization: nf4, int8 or None.
        adapter: the one that is trained; None trains all weights.
        dtype: the dtype of frozen weights.
        trains: whether anything is trained.
        checkpointing: whether activations are computed again.
    """

    quantization: str | None
    adapter: Adapter | None
    dtype: torch.dtype
    trains: bool
    checkpointing: bool


def fake_model(config: Any, build: Build, fake: FakeTensorMode, head: bool) -> Any:
    """A plain or PEFT model of this configuration, of fake weights.

    Args:
        config: the config of a language model.
        build: how it is made.
        fake: makes its tensors.
        head: whether it has its language-model head.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = (AutoModelForCausalLM if head else AutoModel).from_config(config, dtype=build.dtype)
        counted(model)
        model.requires_grad_(build.adapter is None and build.trains)
        if build.quantization:
            quantized(model, build.quantization)
        if build.adapter is not None:
            model = with_adapter(model, build.adapter, "CAUSAL_LM" if head else "FEATURE_EXTRACTION")
        if build.checkpointing and build.trains:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            if build.adapter is not None:
                model.enable_input_require_grads()
    with_half_paths(inner_of(model))
    made_fake(model, fake)
    _settle(model, config)
    return model.train(build.trains)


def made_fake(model: nn.Module, fake: FakeTensorMode) -> None:
    """Replaces the weights of a model on `meta`; those that are trained are float32, and shared ones stay shared."""
    made: dict[int, Any] = {}
    with fake:
        for module in model.modules():
            for name, weights in module._parameters.items():
                if weights is not None:
                    if id(weights) not in made:
                        dtype = torch.float32 if weights.requires_grad else weights.dtype
                        data = torch.empty(weights.shape, dtype=dtype, device=DEVICE)
                        made[id(weights)] = nn.Parameter(data, weights.requires_grad)
                    module._parameters[name] = made[id(weights)]
            for name, values in module._buffers.items():
                if values is not None:
                    module._buffers[name] = torch.empty(values.shape, dtype=values.dtype, device=DEVICE)


def layout_on_gpu(config: Any, dtype: torch.dtype) -> Layout:
    """The layout that a model in this precision gets on a GPU, where its trial passes.

    Cards that compute in fp16 alone, which is chosen there, lack the kernel for packed groups.
    """
    kinds = set(attention_types(config))
    if is_encoder(config) or not kinds <= {FULL, SLIDING} or not SHARED_ROWS.active(torch.empty(0)):
        return Layout.SEPARATE
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    packs = dtype == torch.bfloat16 and width % 8 == 0 and width <= 256 and not capped
    if SLIDING in kinds:
        return Layout.PACKED if packs else Layout.SEPARATE
    return Layout.EITHER if packs else Layout.ROWS


def is_encoder(config: Any) -> bool:
    """Whether a model attends to both sides."""
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)


def _settle(model: Any, config: Any) -> None:
    """Writes down the results of the trials, which cannot run without numbers."""
    trunk = trunk_of(model)
    layout = layout_on_gpu(config, trunk.dtype)
    if layout in (Layout.PACKED, Layout.EITHER):
        trunk.config._attn_implementation = NAME
    results = {
        "is causal": not is_encoder(config),
        "layout": layout,
        TRIMS: False,
        "logit scaling": configured_scaling(config),
    }
    kept: dict[Any, Any] = vars(trunk).setdefault("_rlhf_trials", {})
    for what, result in results.items():
        kept[what, DEVICE, trunk.dtype] = result


@dataclass(frozen=True)
class KnownBatch(BranchBatch):
    """A batch of fake tensors, with what depends on their numbers."""

    def by_length(self, parts: int = 4, worth: float = 0.25) -> list[tuple[Tensor, BranchBatch]]:
        """All at once."""
        return [(torch.arange(len(self.index)), self)]


def fake_batch(groups: list[PromptBranches], layout: Layout, fake: FakeTensorMode) -> KnownBatch:
    """Groups laid out, as fake tensors."""
    inputs = collate(groups, 0, layout)
    faked = {name: fake.from_tensor(each) for name, each in inputs.items() if isinstance(each, Tensor)}
    return KnownBatch(**faked, sizes=inputs["sizes"])


class UncheckedReward(RewardModel):
    """A reward model whose pooling and head are not checked, which reads the numbers that they give."""

    def forward(self, batch: Any, columns: Any = None) -> Any:
        """The rewards alone, of heads that read no columns."""
        features = self.pooled(batch)
        with torch.autocast(DEVICE, enabled=False):
            found = unchecked(self.head)(features.float())
        return found.reward if isinstance(found, Prediction) else found

    def _pooled(self, batch: BranchBatch) -> Tensor:
        trunk, pool = trunk_of(self.trunk), unchecked(self.pooling)
        if self.pooling.reads_last:
            states, mask = states_at(trunk, batch, batch.last).unsqueeze(1), batch.mask[:, :1]
        else:
            states = sequence_states(trunk, batch)
            mask = batch.response if self.pooling.over == "response" else batch.mask
        found: Tensor = pool(states, mask)
        return found


def fake_reward(trunk: Any, pooling: Pooling, head: RewardHead, fake: FakeTensorMode) -> UncheckedReward:
    """A reward model on a fake trunk."""
    with torch.device("meta"):
        model = UncheckedReward.__new__(UncheckedReward)
        nn.Module.__init__(model)
        width = trunk.config.get_text_config().hidden_size
        model.pooling, model.head = pooling.acting(width), head.build(width)
    for part in (model.pooling, model.head):
        if isinstance(part, nn.Module):
            made_fake(part, fake)
    model.trunk = trunk
    return model
