"""A reward model: a decoder, a pooling and a head. It knows how to score and be saved, not how it is trained.

On disk it is a folder: `reward_model.json` (what it is made of, in a recipe's words), `head.safetensors` (the weights
of head and pooling), and either a PEFT adapter or the whole decoder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from rlhf_plugins.data.branches import BranchBatch, by_prompt, collate
from rlhf_plugins.errors import RunError
from rlhf_plugins.interfaces import Adapter, Base, Pooling, RewardFunction, RewardHead, Run, Samples
from rlhf_plugins.models.forward import sequence_states, takes_shared_rows, trunk_of
from rlhf_plugins.models.guards import asked
from rlhf_plugins.models.loading import load_tokenizer, load_trunk, with_saved_adapter

DESCRIPTION, WEIGHTS = "reward_model.json", "head.safetensors"


class RewardModel(nn.Module):
    """Scores responses: head(pooling(decoder(prompt + response))).

    Args:
        trunk: a decoder without a language-model head, plain or PEFT.
        pooling: how hidden states become a feature vector.
        head: what is predicted from it.
    """

    def __init__(self, trunk: Any, pooling: Pooling, head: RewardHead) -> None:
        super().__init__()
        width = trunk.config.get_text_config().hidden_size
        self.trunk = trunk
        self.pooling = pooling.build(width) if hasattr(pooling, "build") else pooling
        self.head = head.build(width)
        self.to(trunk.device)
        trunk.config.num_labels = 1  # what RewardTrainer asks of a model

    @property
    def config(self) -> Any:
        """The decoder's configuration."""
        return self.trunk.config

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Passes the trainer's wish to the decoder."""
        self.trunk.gradient_checkpointing_enable(**options)

    def add_model_tags(self, tags: list[str]) -> None:
        """Passes TRL's tags for the hub to the decoder."""
        self.trunk.add_model_tags(tags)

    def forward(self, batch: BranchBatch) -> Tensor:
        """Rewards of the batch's branches, (B,)."""
        states = sequence_states(trunk_of(self.trunk), batch)  # (B, L, width)
        features = asked(self.pooling, states, batch.mask, shape=(len(states), states.shape[2]))
        return asked(self.head, features.to(next(self.head.parameters()).dtype), shape=(len(states),))

    @torch.no_grad()
    def score(self, samples: Samples, pad_id: int, batch_size: int = 256) -> list[float]:
        """Rewards of sampled responses, in their order; neighbours with one prompt share its computation."""
        self.eval()
        shared, rewards = takes_shared_rows(self.trunk), []
        for start in range(0, len(samples.responses), batch_size):
            window = slice(start, start + batch_size)
            groups = by_prompt(samples.prompt_ids[window], samples.response_ids[window])
            inputs = {k: v.to(self.trunk.device) for k, v in collate(groups, pad_id, shared).items()}
            rewards += self(BranchBatch.from_inputs(inputs)).float().tolist()
        return rewards

    def save(self, folder: Path, description: Mapping[str, Any]) -> None:
        """Writes the folder. `description` holds `base`, and `pooling` and `head` in a recipe's words."""
        folder.mkdir(parents=True, exist_ok=True)
        self.trunk.save_pretrained(folder)
        save_file(self._own_weights(), folder / WEIGHTS)
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")

    def _own_weights(self) -> dict[str, Tensor]:
        weights = {k: v for k, v in self.state_dict().items() if not k.startswith("trunk.")}
        return {k: v.detach().cpu().contiguous() for k, v in weights.items()}

    def export(self, folder: Path) -> None:
        """Writes a standard `...ForSequenceClassification` with one label, adapter merged, that transformers loads.

        The caller sees to it that the pooling is the last token, which is all that such a model can do. This model is
        merged by it: save it first.

        Raises:
            RunError: the head is not one linear output without bias, the decoder is quantized or has no such
                classifier, or padding is EOS, at which a classifier would score one token early.
        """
        weight = getattr(self.head, "weight", None)
        if weight is None or weight.shape[0] != 1 or getattr(self.head, "bias", None) is not None:
            raise RunError("only a scalar head exports to a sequence classifier")
        text = self.config.get_text_config()
        if text.pad_token_id in (None, text.eos_token_id):
            raise RunError("a sequence classifier finds the last token by its padding, which must not be EOS")
        if getattr(self.config, "quantization_config", None) is not None:
            raise RunError("a quantized decoder does not export: open the reward model on its unquantized base")
        trunk = self.trunk.merge_and_unload() if isinstance(self.trunk, PeftModel) else self.trunk
        try:
            classifier = AutoModelForSequenceClassification.from_config(trunk.config).to(trunk.dtype)
        except ValueError as error:
            raise RunError(f"transformers has no sequence classifier of {type(trunk).__name__}") from error
        getattr(classifier, classifier.base_model_prefix).load_state_dict(trunk.state_dict())
        classifier.score.weight.data.copy_(weight.data)
        classifier.save_pretrained(folder)


class Parts(NamedTuple):
    """What a saved reward model says that it is made of."""

    base: Base
    pooling: dict[str, Any]
    head: dict[str, Any]


def read_description(folder: Path, trust_remote_code: bool) -> Parts:
    """What `save` wrote; whether the base's own code may run is the reader's to say, never the file's.

    Raises:
        RunError: the folder holds no reward model of ours.
    """
    try:
        described = json.loads((folder / DESCRIPTION).read_text())
        adapter = described["base"].get("adapter")
        base = Base(
            described["base"]["path"],
            described["base"].get("quantization"),
            adapter and Adapter(**adapter),
            trust_remote_code,
        )
        return Parts(base, described["pooling"], described["head"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder}: holds no reward model ({DESCRIPTION}: {error})") from error


def latest_reward(run: Run) -> RewardFunction | None:
    """What the latest reward stage of a run trained, as a function of samples; None when there was none."""
    folders = [result.reward_model for result in run.finished if result.reward_model]
    if not folders:
        return None
    model = open_reward_model(folders[-1], run.component, run.base.trust_remote_code)
    pad_id = load_tokenizer(run.base).pad_token_id
    return lambda samples: model.score(samples, pad_id)


def open_reward_model(
    folder: Path, component: Callable[[str, Mapping[str, Any]], Any], trust_remote_code: bool = False
) -> RewardModel:
    """The saved reward model; `component` makes a pooling or head from a recipe's words. Raises as loading does."""
    parts = read_description(folder, trust_remote_code)
    pooling, head = component("pooling", parts.pooling), component("reward_head", parts.head)
    return load_reward_model(folder, parts.base, pooling, head)


def load_reward_model(folder: Path, base: Base, pooling: Pooling, head: RewardHead) -> RewardModel:
    """The saved reward model with its trained head; scores exactly what the saved one scored.

    Raises:
        RunError: weights are missing, or do not fit the pooling and the head.
    """
    if (folder / "adapter_config.json").exists():
        trunk: Any = with_saved_adapter(load_trunk(base), folder)
    else:
        trunk = load_trunk(Base(str(folder), trust_remote_code=base.trust_remote_code))
    model = RewardModel(trunk, pooling, head)
    try:
        weights = load_file(folder / WEIGHTS, device=str(trunk.device))
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder}: lacks {WEIGHTS}, and a reward model without its head scores at random") from error
    own = {k for k in model.state_dict() if not k.startswith("trunk.")}
    if own != set(weights):
        raise RunError(f"{folder}: {WEIGHTS} holds {sorted(weights)}, the model needs {sorted(own)}")
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise RunError(f"{folder}: {WEIGHTS} does not fit the model: {error}") from error
    return model.eval()
