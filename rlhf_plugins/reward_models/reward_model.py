"""A reward model: a trunk, a pooling and a head.

On disk it is a folder: `reward_model.json` (its base, and the specs of pooling and head), `head.safetensors` (the
weights of head and pooling), and a PEFT adapter or the whole trunk, unless the trunk was frozen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from rlhf_plugins.arithmetic.objectives import by_potential, lengths_and_mask
from rlhf_plugins.arithmetic.ranking import concatenated, map_tensors
from rlhf_plugins.contract.interfaces import Pooling, RewardHead
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.batches.branches import BranchBatch, by_prompt
from rlhf_plugins.data.batches.numeric import of_samples
from rlhf_plugins.data.digests import refuse_changed
from rlhf_plugins.data.file_names import ADAPTER, REWARD_MODEL
from rlhf_plugins.data.files import read_json
from rlhf_plugins.engine.forward import is_causal, merged, sequence_states, states_at, trunk_of
from rlhf_plugins.engine.passes import Passes, rows_of
from rlhf_plugins.engine.probing import layout_of
from rlhf_plugins.engine.progress import counted
from rlhf_plugins.engine.sentences import SentenceEnds
from rlhf_plugins.engine.token_budget import tokens_at_once
from rlhf_plugins.engine.weights.base_paths import noted_base, path_to_note
from rlhf_plugins.engine.weights.loading import load_trunk, with_saved_adapter
from rlhf_plugins.engine.weights.matching import misfit, shapes
from rlhf_plugins.engine.weights.shards import state_of, to_save
from rlhf_plugins.errors import RunError
from rlhf_plugins.reward_models.prefixes import prefix_features

NO_COLUMNS: Mapping[str, Tensor] = {}
WEIGHTS = "head.safetensors"
SAVED, FROZEN = "saved", "frozen"  # whether the folder holds a trunk, or the trunk is that of the base


class ToSave(NamedTuple):
    """The weights of a reward model as they are saved."""

    trunk: dict[str, Any] | None  # options of `save_pretrained`; None where the trunk is its base's own
    own: dict[str, Tensor]  # of pooling and head


class RewardModel(nn.Module):
    """Scores responses: head(pooling(trunk(prompt + response))).

    Args:
        trunk: a decoder without a language-model head or an encoder, plain or PEFT.
        pooling: from hidden states to a feature vector.
        head: from the feature vector to rewards.
    """

    def __init__(self, trunk: Any, pooling: Pooling, head: RewardHead) -> None:
        super().__init__()
        width = trunk.config.get_text_config().hidden_size
        self.trunk = trunk
        self.pooling = pooling.acting(width)
        self.sentences = SentenceEnds(trunk.config.get_text_config().vocab_size) if pooling.reads_sentences else None
        self.head = head.build(width)
        self.columns = head.columns  # of the rows, which the head reads
        self.members, self.bootstrap = head.members, head.bootstrap  # how many, and whether they see resampled rows
        self.own.to(trunk.device)
        trunk.config.num_labels = 1  # what RewardTrainer asks of a model

    @property
    def own(self) -> nn.ModuleDict:
        """Pooling and head if they hold weights, and the ends of sentences, which are saved beside the trunk."""
        parts = {"pooling": self.pooling, "sentences": self.sentences, "head": self.head}
        return nn.ModuleDict({name: part for name, part in parts.items() if isinstance(part, nn.Module)})

    @property
    def _no_split_modules(self) -> Any:
        """The classes of the trunk's layers, each of which accelerate gives shards of its own."""
        return self.trunk._no_split_modules

    @property
    def config(self) -> Any:
        """The trunk's configuration."""
        return self.trunk.config

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Enables it in the trunk."""
        self.trunk.gradient_checkpointing_enable(**options)

    def add_model_tags(self, tags: list[str]) -> None:
        """Adds TRL's tags for the hub to the trunk."""
        self.trunk.add_model_tags(tags)

    def forward(self, batch: BranchBatch | Tensor, columns: Mapping[str, Tensor] = NO_COLUMNS) -> Prediction:
        """The head's outputs for the batch's branches, or for features (B, width) as `features` returns them.

        Args:
            batch: branches or features.
            columns: the columns by name, (B, ...), of which the head is given those that it reads.
        """
        features = batch if isinstance(batch, Tensor) else self.pooled(batch)
        with torch.autocast(features.device.type, enabled=False):  # bfloat16 is too coarse for rewards
            given = features.to(next(self.head.parameters()).dtype)
            own = {name: columns[name].to(features.device) for name in self.columns}
            prediction = self.head(given, own) if own else self.head(given)
        return replace(prediction, features=features)

    def pooled(self, batch: BranchBatch) -> Tensor:
        """Feature vectors of the batch's branches, (B, width)."""
        parts = batch.by_length()
        if len(parts) == 1:
            return self._pooled(batch)
        order = torch.cat([rows for rows, _ in parts])
        return torch.cat([self._pooled(part) for _, part in parts])[order.argsort()]

    def _pooled(self, batch: BranchBatch) -> Tensor:
        if self.pooling.reads_last:
            states = states_at(trunk_of(self.trunk), batch, batch.last).unsqueeze(1)  # (B, 1, width)
            return self.pooling(states, batch.mask[:, :1])
        states = sequence_states(trunk_of(self.trunk), batch)  # (B, L, width)
        mask = batch.response if self.pooling.over == "response" else batch.mask
        numbers = self._numbers(batch)
        return self.pooling(states, mask) if numbers is None else self.pooling(states, mask, numbers)

    def _numbers(self, batch: BranchBatch) -> Tensor | None:
        """The sentence number of each token, (B, L), where the pooling reads it."""
        if self.sentences is None:
            return None
        numbers: Tensor = self.sentences(batch.input_ids.flatten()[batch.index], batch.mask)
        return numbers

    def predict(self, samples: Samples, pad_id: int, grad: bool = False) -> Prediction:
        """Predictions for responses, in their order, on the CPU; neighbours with one prompt share its computation.

        Args:
            samples: the responses.
            pad_id: the token of padding.
            grad: with a gradient.
        """
        columns = of_samples(samples.columns, self.columns)

        def predicted(batch: BranchBatch, rows: slice) -> Prediction:
            found: Prediction = self(batch, {name: values[rows] for name, values in columns.items()})
            return map_tensors(found, _to_cpu)

        return concatenated(self._batched(predicted, samples, pad_id, grad))

    def by_token(self, samples: Samples, pad_id: int) -> Prediction:
        """`predict`, with `tokens`: what each token adds to the reward of the response so far, which starts at 0.

        Raises:
            RunError: the trunk reads both ways, so that a token changes what precedes it.
        """
        if not is_causal(trunk_of(self.trunk)):
            raise RunError("an encoder reads both ways, and gives no reward to the beginning of a response")
        columns = of_samples(samples.columns, self.columns)

        def grown(batch: BranchBatch, rows: slice) -> Prediction:
            states, counts = sequence_states(trunk_of(self.trunk), batch), batch.lengths.cpu()
            features = prefix_features(states, batch, self.pooling, self._numbers(batch))
            given = {name: values[rows].repeat_interleave(counts, 0) for name, values in columns.items()}
            found: Prediction = self(features, given)
            return map_tensors(replace(found, features=None), _to_cpu)

        every = concatenated(self._batched(grown, samples, pad_id))  # of every prefix
        lengths, mask = lengths_and_mask(samples.response_ids)
        whole = map_tensors(every, lambda values: values[lengths.cumsum(0) - 1])
        potentials = every.reward.new_zeros(mask.shape).masked_scatter(mask, every.reward)
        return replace(whole, tokens=by_potential(whole.reward, potentials, mask, 1.0))

    def features(self, samples: Samples, pad_id: int) -> Tensor:
        """Feature vectors of responses, in their order, (responses, width) on the model's device."""
        return torch.cat(self._batched(lambda batch, _: self.pooled(batch), samples, pad_id))

    def score(self, samples: Samples, pad_id: int) -> list[float]:
        """Rewards of responses, in their order."""
        return self.predict(samples, pad_id).reward.tolist()

    def _batched(
        self, function: Callable[[BranchBatch, slice], Any], samples: Samples, pad_id: int, grad: bool = False
    ) -> list[Any]:
        self.eval()
        passes = Passes(self.trunk, layout_of(self.trunk), pad_id, tokens_at_once())
        with torch.set_grad_enabled(grad):
            found = passes.over(by_prompt(samples.prompt_ids, samples.response_ids), function)
            return [each for _, each in counted(found, "scoring", len(samples.responses), "responses", rows_of)]

    def to_save(self) -> ToSave:
        """What is saved of the weights, whole also where processes hold shards of them; all processes must call it."""
        trained = any(weights.requires_grad for weights in self.trunk.parameters())
        own = {name: weights.detach().cpu().contiguous() for name, weights in state_of(self.own).items()}
        return ToSave(to_save(self.trunk) if trained else None, own)

    def save(self, folder: Path, description: Mapping[str, Any], weights: ToSave | None = None) -> None:
        """Writes the folder. `description` holds `base`, and the specs of `pooling` and `head`.

        A trunk without trained weights is that of the base, and is not written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        weights = weights or self.to_save()
        if weights.trunk is not None:
            self.trunk.save_pretrained(folder, **weights.trunk)
        self.save_own(folder, {**description, "trunk": FROZEN if weights.trunk is None else SAVED}, weights)

    def save_own(self, folder: Path, description: Mapping[str, Any], weights: ToSave | None = None) -> None:
        """Writes pooling, head and the description, which also says under `trunk` where the trunk is."""
        save_file((weights or self.to_save()).own, folder / WEIGHTS)
        base = {**description["base"], "path": path_to_note(description["base"]["path"], folder)}
        whole = {**description, "base": base}
        (folder / REWARD_MODEL).write_text(json.dumps(whole, indent=2) + "\n")

    def export(self, folder: Path) -> None:
        """Writes a standard `...ForSequenceClassification` with one label, adapter merged, that transformers loads.

        The caller makes sure that the pooling is the last token's, the only one that such a model has. The adapter of
        this model is merged: save it first.

        Raises:
            RunError: the head is not one linear output without bias, the decoder is quantized or has no such
                classifier, or padding is EOS, at which a classifier would score one token early.
        """
        weight = getattr(self.head, "weight", None)
        if self.columns or weight is None or weight.shape[0] != 1 or getattr(self.head, "bias", None) is not None:
            raise RunError("only a scalar head exports to a sequence classifier")
        text = self.config.get_text_config()
        ends = text.eos_token_id if isinstance(text.eos_token_id, list) else [text.eos_token_id]
        if text.pad_token_id in (None, *ends):
            raise RunError("a sequence classifier finds the last token by its padding, which must not be EOS")
        if getattr(self.config, "quantization_config", None) is not None:
            raise RunError("a quantized decoder does not export: open the reward model on its unquantized base")
        trunk = merged(self.trunk)
        try:
            classifier = AutoModelForSequenceClassification.from_config(trunk.config).to(trunk.dtype)
        except ValueError as error:
            raise RunError(f"transformers has no sequence classifier of {type(trunk).__name__}") from error
        getattr(classifier, classifier.base_model_prefix).load_state_dict(trunk.state_dict())
        classifier.score.weight.data.copy_(weight.data)
        classifier.save_pretrained(folder)


class Parts(NamedTuple):
    """The parts of a saved reward model, as its description names them."""

    base: Base
    pooling: dict[str, Any]
    head: dict[str, Any]
    frozen: bool  # the trunk is the base's own

    @property
    def on_base(self) -> bool:
        """Whether its trunk is that of its base, as it is or with an adapter."""
        return self.frozen or self.base.adapter is not None


def read_description(folder: Path, trust_remote_code: bool, quantization: str | None = None) -> Parts:
    """The description that `save` wrote; only the caller decides whether the base may run code of its own.

    Args:
        folder: the folder that `save` wrote.
        trust_remote_code: whether the base may run code of its own.
        quantization: the quantization of the trunk, in place of none.

    Raises:
        RunError: the folder holds no reward model of ours, or its base has a quantization of its own.
    """
    try:
        described = read_json(folder / REWARD_MODEL)
        base = noted_base(described["base"], folder, trust_remote_code)
        for part in ("pooling", "head"):
            if not isinstance(described[part]["use"], str):
                raise ValueError(f"{part}.use should be a name, got {described[part]['use']!r}")
        frozen = described.get("trunk") == FROZEN
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder}: holds no reward model ({REWARD_MODEL}: {error})") from error
    if quantization and base.quantization:
        raise RunError(f"{folder}: was trained on its base in {base.quantization}, so leave `quantization` out")
    base = replace(base, quantization=quantization or base.quantization)
    return Parts(base, described["pooling"], described["head"], frozen)


def _to_cpu(values: Tensor) -> Tensor:
    return values.float().cpu()


def open_reward_model(
    folder: Path,
    component: Callable[[str, Mapping[str, Any]], Any],
    trust_remote_code: bool = False,
    quantization: str | None = None,
) -> RewardModel:
    """The saved reward model; `component` makes a pooling or head from its spec. Raises as loading does."""
    parts = read_description(folder, trust_remote_code, quantization)
    pooling, head = component("pooling", parts.pooling), component("reward_head", parts.head)
    return load_reward_model(folder, parts.base, pooling, head, load_trunk(parts.base) if parts.frozen else None)


def load_reward_model(folder: Path, base: Base, pooling: Pooling, head: RewardHead, trunk: Any = None) -> RewardModel:
    """The saved reward model with its trained head; its scores are exactly those of the model that was saved.

    Args:
        folder: written by `save`.
        base: the base of its trunk.
        pooling: as it was trained.
        head: as it was trained.
        trunk: the trained trunk, if the folder holds none or it is in memory already.

    Raises:
        RunError: weights are missing, or do not fit the pooling and the head.
    """
    refuse_changed(folder)
    model = RewardModel(_saved_trunk(folder, base) if trunk is None else trunk, pooling, head)
    try:
        weights = load_file(folder / WEIGHTS, device=str(model.trunk.device))
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder}: lacks {WEIGHTS}, and a reward model without its head scores at random") from error
    if wrong := misfit(shapes(model.own.state_dict()), shapes(weights)):
        raise RunError(f"{folder}: {WEIGHTS} does not fit the pooling and the head: it {wrong}")
    model.own.load_state_dict(weights)
    return model.eval()


def _saved_trunk(folder: Path, base: Base) -> Any:
    """An adapter on the base, or a whole trunk."""
    if (folder / ADAPTER).exists():
        return with_saved_adapter(load_trunk(base), folder)
    return load_trunk(Base(str(folder), base.quantization, trust_remote_code=base.trust_remote_code))
