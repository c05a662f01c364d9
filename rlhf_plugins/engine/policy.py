"""A policy as a handle: it samples, gives log-probabilities, and chooses.

The reference is the base with its adapters off, a trained policy an adapter on the same base. A policy of which all
weights were trained is a base of its own.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import fields, replace
from functools import reduce
from math import inf
from pathlib import Path
from typing import Any, Unpack
from weakref import finalize

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.rows import Group, Samples, Text
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.contract.sampling import SamplingOptions
from rlhf_plugins.data.batches.branches import BranchBatch, by_prompt
from rlhf_plugins.data.batches.tokens import RowEncoder, encoded, response_ends
from rlhf_plugins.data.file_names import ADAPTER, POLICY
from rlhf_plugins.data.files import read_json
from rlhf_plugins.data.values import by_name
from rlhf_plugins.engine.backbone import Backbone, own_weights, shared
from rlhf_plugins.engine.forward import evaluating
from rlhf_plugins.engine.log_probs import response_logits, response_logps
from rlhf_plugins.engine.passes import Passes
from rlhf_plugins.engine.probing import layout_of
from rlhf_plugins.engine.sampling import Decoding, end_tokens, sample
from rlhf_plugins.engine.token_budget import tokens_at_once
from rlhf_plugins.engine.weights.base_paths import described, noted_base, path_to_note
from rlhf_plugins.engine.weights.end_tokens import note_ends, noted_ends
from rlhf_plugins.engine.weights.external_adapters import unopened
from rlhf_plugins.engine.weights.loading import base_weights, load_causal, load_row_encoder
from rlhf_plugins.errors import DataError, RunError

SEEDS = 1_000_003  # between those of two processes


class Handle(ABC):
    """What policies and mixtures of them share: everything that follows from their models and their log-probabilities.

    It is a `contract.handles.Policy`, whose docstrings hold here too.
    """

    encoder: RowEncoder
    tokens_per_batch: int | None = None  # its own limit, below the one that holds for all

    def __init__(self) -> None:
        self._entered: list[AbstractContextManager[Any]] = []

    def __enter__(self) -> Handle:
        self._entered.append(self._active())
        self._entered[-1].__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().__exit__(*error)

    @property
    @abstractmethod
    def module(self) -> Any:
        """See `Policy`."""

    @property
    @abstractmethod
    def models(self) -> Sequence[Any]:
        """The models of transformers that it computes with."""

    @abstractmethod
    def logits(self, batch: BranchBatch) -> Tensor:
        """Where each response token is predicted, (tokens, vocabulary)."""

    @abstractmethod
    def next_logits(self, ids: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        """See `Policy`."""

    @abstractmethod
    def _active(self) -> AbstractContextManager[Any]:
        """A context in which its adapter is active."""

    @abstractmethod
    def _logps(self, batch: BranchBatch, temperature: float) -> Tensor:
        """Log-probabilities of response tokens, (B, T)."""

    @abstractmethod
    def _sample(self, prompts: Sequence[Text], n: int, decoding: Decoding) -> Samples:
        """Samples without columns."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of its base."""
        return self.encoder.tokenizer

    @property
    def ends(self) -> list[int]:
        """Every token that ends a response."""
        return end_tokens(self.models[0], self.tokenizer)

    def sample(
        self,
        prompts: Sequence[Text | Group],
        n: int = 1,
        *,
        temperature: float = 1.0,
        max_new_tokens: int = 64,
        seed: int = 0,
        columns: Mapping[str, Sequence[Any]] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Samples:
        """See `Policy`."""
        decoding = Decoding(max_new_tokens, temperature, seed, **options)
        _check_counts(n, max_new_tokens)
        known = {**_columns(prompts), **(columns or {})}
        for name, values in known.items():
            if len(values) != len(prompts):
                raise DataError(f"column {name!r} has {len(values)} values for {len(prompts)} prompts")
        if not prompts:
            return Samples([], [], [], [], {name: [] for name in known})
        found = self._sample_in_shares(_texts(prompts), n, decoding)
        repeated = {name: [v for v in values for _ in range(n)] for name, values in known.items()}
        return replace(found, columns={**found.columns, **repeated})

    def encode(self, prompts: Sequence[Text | Group], responses: Sequence[Text]) -> Samples:
        """See `Policy`."""
        return encoded(_texts(prompts), responses, self.encoder)

    def log_probs(self, samples: Samples, *, temperature: float = 1.0, grad: bool = False) -> Tensor:
        """See `Policy`."""
        if grad:
            self._check_trainable()
        elif processes.count() > 1 and samples.responses:
            return self._log_probs_in_shares(samples, temperature)
        return self._log_probs(samples, temperature, grad)

    def _sample_in_shares(self, prompts: Sequence[Text], n: int, decoding: Decoding) -> Samples:
        """Samples to all prompts, of which each process generates its share, with a seed of its own."""
        if processes.count() == 1:
            return self._sample(prompts, n, decoding)
        own = prompts[processes.share(len(prompts))]
        seeded = replace(decoding, seed=decoding.seed + SEEDS * processes.index())
        with processes.alone():
            found = self._sample(own, n, seeded) if own else None
        return reduce(Samples.__add__, [part for part in processes.gathered(found) if part is not None])

    def _log_probs_in_shares(self, samples: Samples, temperature: float) -> Tensor:
        """`log_probs`, of which each process computes its share of the rows."""
        rows = range(len(samples.responses))[processes.share(len(samples.responses))]
        own, longest = samples.take(rows), max(map(len, samples.response_ids))
        with processes.alone():
            found = self._log_probs(own, temperature, False).cpu() if rows else torch.zeros(0, 0)
        whole = torch.nn.functional.pad(found, (0, longest - found.shape[1]))
        return torch.cat(processes.gathered(whole)).to(self.models[0].device)

    def _log_probs(self, samples: Samples, temperature: float, grad: bool) -> Tensor:
        longest = max(map(len, samples.response_ids), default=0)
        parts = []
        with self, self._mode(grad):
            groups = by_prompt(samples.prompt_ids, samples.response_ids)
            for _, logps in self._passes().over(groups, lambda batch, _: self._logps(batch, temperature)):
                parts.append(torch.nn.functional.pad(logps, (0, longest - logps.shape[1])))
        return torch.cat(parts) if parts else torch.zeros(0, 0)

    def choose(self, prompts: Sequence[Text | Group], choices: Sequence[str]) -> Tensor:
        """See `Policy`."""
        if len(set(choices)) < max(2, len(choices)):
            raise DataError(f"choices: two or more different ones, got {list(choices)}")
        rows = [row for prompt in _texts(prompts) for row in self._choices(prompt, choices)]
        prompt_ids, choice_ids = [prompt for prompt, _ in rows], [choice for _, choice in rows]
        found = self.log_probs(Samples([""] * len(rows), [""] * len(rows), prompt_ids, choice_ids))
        return found.sum(1).view(len(prompts), len(choices)).log_softmax(1)

    def _choices(self, prompt: Text, choices: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """Token ids of the prompt and of each choice; all have one prompt, also where a choice merges with its end."""
        as_response = (c if isinstance(prompt, str) else [{"role": "assistant", "content": c}] for c in choices)
        rows = [self.encoder.encode_within_limit(prompt, response) for response in as_response]
        shortest = min(len(ids) for ids, _ in rows)
        whole = [[*ids[shortest:], *response] for ids, response in rows]
        ends = response_ends(self.tokenizer)
        bare = [ids[:-1] if ids[-1] in ends else ids for ids in whole]
        if not all(bare):
            raise DataError(f"choices: one has no token, got {list(choices)}")
        begins = any(a is not b and b[: len(a)] == a for a in bare for b in bare)
        return [(rows[0][0][:shortest], ids) for ids in (whole if begins else bare)]

    def _passes(self) -> Passes:
        tokens = int(min(self.tokens_per_batch or inf, tokens_at_once()))
        return Passes(self.models[0], layout_of(*self.models), int(self.tokenizer.pad_token_id), tokens)

    @contextmanager
    def _mode(self, grad: bool) -> Iterator[None]:
        """Without gradients and dropout, unless a gradient is wanted."""
        if grad:
            with torch.enable_grad():
                yield
            return
        with ExitStack() as modes:
            for model in self.models:
                modes.enter_context(evaluating(model))
            yield

    def _check_trainable(self) -> None:
        if not any(weights.requires_grad for weights in self._weights()):
            raise RunError("log_probs(grad=True): the policy is frozen; open it with trainable=True")

    @abstractmethod
    def _weights(self) -> Iterator[Tensor]:
        """The policy's own weights: its adapter's, or all."""


class ModelPolicy(Handle):
    """A base, or a base with one of its adapters.

    Args:
        backbone: the base in memory.
        adapter: the adapter's name on it; None is the base alone.
        encoder: renders and tokenizes for the base; None loads it.
        base: how the policy was opened, where others share its weights but render otherwise.
        ends: tokens that end its responses beside those of the base.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: str | None = None,
        encoder: RowEncoder | None = None,
        base: Base | None = None,
        ends: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self._ends = tuple(ends)
        self.backbone, self.adapter, self.base = backbone, adapter, base or backbone.base
        self.encoder = encoder or load_row_encoder(self.base)

    @property
    def module(self) -> Any:
        """The model as PEFT has it; this policy's adapter is active inside `with policy:` only."""
        return self.backbone.model

    @property
    def models(self) -> Sequence[Any]:
        """One."""
        return (self.backbone.inner,)

    @property
    def ends(self) -> list[int]:
        """See `Handle`."""
        return sorted({*self._ends, *super().ends})

    def next_logits(self, ids: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        """See `Handle`."""
        with self, self._mode(False):
            output = self.backbone.inner(input_ids=ids, past_key_values=cache, use_cache=True)
        return output.logits[:, -1].float(), output.past_key_values

    def logits(self, batch: BranchBatch) -> Tensor:
        """See `Handle`."""
        with self:
            return response_logits(self.backbone.inner, batch)

    def save(self, folder: Path) -> None:
        """Writes the adapter, or the whole model, with the tokenizer and what base it belongs to."""
        if self.adapter is None:
            self.backbone.inner.save_pretrained(folder, state_dict=base_weights(self.backbone.inner))
        else:
            self.backbone.save(self.adapter, folder)
            if self._ends:
                note_ends(folder, self._ends)
        self.tokenizer.save_pretrained(folder)
        describe(folder, self.base)

    def _active(self) -> AbstractContextManager[Any]:
        return self.backbone.using(self.adapter)

    def _logps(self, batch: BranchBatch, temperature: float) -> Tensor:
        return response_logps(self.backbone.inner, batch, temperature).logps

    def _sample(self, prompts: Sequence[Text], n: int, decoding: Decoding) -> Samples:
        with self:
            return sample(self.backbone.inner, self.tokenizer, prompts, n, decoding, ends=self._ends)

    def _weights(self) -> Iterator[Tensor]:
        model = self.backbone.model
        return iter(model.parameters() if self.adapter is None else own_weights(model, self.adapter).values())


def open_policy(
    folder: Path | None, base: Base, trainable: bool = False, backbone: Backbone | None = None
) -> ModelPolicy:
    """A saved policy; without a folder the base, on which a trainable policy is a new adapter.

    Policies of one base share its weights. One of which all weights are saved, or are to be trained, is a model of its
    own.

    Args:
        folder: where a stage saved it.
        base: what an adapter was trained on.
        trainable: let its weights have gradients.
        backbone: a base in memory, used where it is this one.

    Raises:
        RunError: it does not load, or does not fit its base.
    """
    if folder is not None and not (folder / ADAPTER).exists():
        folder, base = None, Base(str(folder), trust_remote_code=base.trust_remote_code)
    if trainable and folder is None and base.adapter is None:
        return ModelPolicy(Backbone(load_causal(base).eval(), base))
    if backbone is None or not backbone.matches(base):
        backbone = shared(base)
    if folder is None:
        own = backbone.add(base.adapter) if trainable and base.adapter else None
        return ModelPolicy(backbone, own, base=base)
    policy = ModelPolicy(backbone, adapter := backbone.load(folder, trainable), base=base, ends=noted_ends(folder))
    if not trainable:  # a trainer may hold the model of a trainable one for longer
        finalize(policy, backbone.remove, adapter)
    return policy


def describe(folder: Path, base: Base, root: Path | None = None) -> None:
    """Writes beside a saved policy which base it belongs to, so that `saved_base` finds it.

    The path of a base in the same run, or below `root`, is written relative to the folder: both may be moved together.
    """
    known = {**described(base), "path": path_to_note(base.path, folder, root)}
    (folder / POLICY).write_text(json.dumps({"base": known}, indent=2) + "\n")


def base_of(folder: Path | None, base: Base) -> Base:
    """The base of a saved policy where it is noted, else this one. Raises RunError as `saved_base` does."""
    if folder is None:
        return base
    noted = (folder / POLICY).exists() or not (folder / ADAPTER).exists()
    return saved_base(folder, base.trust_remote_code) if noted else base


def saved_base(folder: Path, trust_remote_code: bool = False) -> Base:
    """The base of a saved policy: the one that was described, else the one that PEFT noted.

    Raises:
        RunError: the folder holds no policy, its description cannot be read, or an adapter names no base.
    """
    try:
        if (folder / POLICY).exists():
            return noted_base(read_json(folder / POLICY)["base"], folder, trust_remote_code)
        if (folder / ADAPTER).exists():
            return _of_adapter(folder, trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder}: the base of this policy cannot be read: {error}") from error
    if not (folder / "config.json").exists():
        raise RunError(f"{folder}: holds no policy: neither an adapter nor a whole model")
    return Base(str(folder), trust_remote_code=trust_remote_code)


def _of_adapter(folder: Path, trust_remote_code: bool) -> Base:
    """The base that PEFT noted beside an adapter, with the adapter's own options.

    Raises:
        RunError: the adapter is none that opens here.
        ValueError: the file is damaged, with the other errors of reading JSON.
    """
    config = read_json(folder / ADAPTER)
    if why := "; ".join(unopened(config)):
        raise RunError(f"{folder}: {why}; PEFT's `merge_and_unload` makes a whole model of it, which opens here")
    if not config.get("base_model_name_or_path"):
        raise RunError(f"{folder}: its adapter names no base; write it as base_model_name_or_path in {ADAPTER}")
    names = {field.name for field in fields(Adapter)} - {"init_lora_weights"}  # its beginning is past
    adapter = Adapter(**{name: value for name, value in config.items() if name in names and value is not None})
    return Base(config["base_model_name_or_path"], None, adapter, trust_remote_code)


def _texts(prompts: Sequence[Text | Group]) -> list[Text]:
    return [one.prompt if isinstance(one, Group) else one for one in prompts]


def _columns(prompts: Sequence[Text | Group]) -> dict[str, list[Any]]:
    """The columns of those that are groups, a value for each prompt; None where it lacks one."""
    return by_name([one.columns if isinstance(one, Group) else {} for one in prompts])


def _check_counts(n: int, max_new_tokens: int) -> None:
    for name, value in (("n", n), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise RunError(f"sample: {name} cannot be {value}: it is 1 or above")
