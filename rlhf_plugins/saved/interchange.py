"""Reward models in the forms that the ecosystem opens."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import sub
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.data.file_names import ENSEMBLE, REWARD_MODEL
from rlhf_plugins.engine.forward import merged
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.recipe.options import parts
from rlhf_plugins.recipe.provenance import opener
from rlhf_plugins.registry.registry import registry
from rlhf_plugins.saved.dequantized import TOLERANCE, check_moved
from rlhf_plugins.saved.export_target import dtype_of, empty_folder

if TYPE_CHECKING:
    from rlhf_plugins.contract.records import Prediction
    from rlhf_plugins.reward_models.reward_model import Parts, RewardModel
    from rlhf_plugins.saved.auto_model import RewardModelForSequenceClassification
    from rlhf_plugins.saved.run_reference import Made


def export_reward_model(
    folder: str | Path, out: str | Path, stock: bool = False, dtype: str | None = None, tolerance: float = TOLERANCE
) -> Sequence[str]:
    """Writes a saved reward model as one that `AutoModelForSequenceClassification` opens, with tokenizer and card.

    An adapter is merged into the base, which is loaded unquantized and in float32.

    Args:
        folder: what a `reward_model` stage saved, or `RUN#STAGE`.
        out: where to; a new or an empty folder.
        stock: write a classifier of transformers' own, which needs this package no more; the pooling must be the last
            token and the head one output. Otherwise any pooling and head; `import rlhf_plugins.auto` opens it.
        dtype: `bf16`, `fp16` or `fp32` of the trunk; None is float32. Of a classifier that is not stock, pooling and
            head stay in float32.
        tolerance: for a model that was trained on a quantized base: how far the rewards of a few responses may move on
            the plain base, as a share of the largest reward, or of 1 where that is less.

    Returns:
        Sentences to be read: how far these rewards move, and what else the model says of a response.

    Raises:
        RunError: the folder holds no single reward model, `out` is not empty, the form cannot hold the model, or a
            reward moves too far.
        PluginError: no installed plugin registers the pooling or the head.
    """
    from rlhf_plugins.data.batches.tokens import encodes_pairs, template_to_end
    from rlhf_plugins.engine.prompt_form import copy_note
    from rlhf_plugins.engine.weights.loading import load_tokenizer
    from rlhf_plugins.reward_models.reward_model import read_description
    from rlhf_plugins.saved.card import Form, write_card
    from rlhf_plugins.saved.run_reference import made

    found, out = made(str(folder), "rewards"), Path(out)
    folder = _single(found)
    precision = dtype_of(dtype)
    found.check()
    empty_folder(out)
    parts = read_description(folder, trust_remote_code=False)
    model = _unquantized(folder, parts)
    tokenizer = load_tokenizer(parts.base)
    probes = _probes(tokenizer)
    moved = check_moved(folder, parts, model, probes, tokenizer.pad_token_id, tolerance)
    notes = [*([str(moved)] if moved else []), *_kept_back(model.predict(probes, tokenizer.pad_token_id))]
    if precision:
        model.trunk = merged(model.trunk).to(precision)
    try:
        if stock:
            model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
            _export_stock(model, parts, out, tokenizer)
        else:
            made_of = classifier(model, parts.pooling, parts.head)
            made_of.config.pad_token_id, made_of.config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
            made_of.save_pretrained(out)
            _ask_for_token_types(tokenizer, made_of)
        tokenizer.chat_template = template_to_end(tokenizer)
        tokenizer.save_pretrained(out)
        copy_note(folder, out)
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error}") from error
    pairs, chat = encodes_pairs(tokenizer), bool(tokenizer.chat_template)
    write_card(found, out, Form("classifier", parts.base.path, chat, auto=not stock, pairs=pairs), notes)
    return notes


def classifier(
    model: RewardModel, pooling: Mapping[str, Any], head: Mapping[str, Any]
) -> RewardModelForSequenceClassification:
    """A reward model as a model of transformers that scores the same; it shares the weights.

    Args:
        model: its adapter is merged by this, so save it first.
        pooling: the model's, in a recipe's words.
        head: likewise.

    Raises:
        RunError: the trunk is quantized or runs code of its own, or the pooling needs to know the response where the
            trunk has no mark of it.
    """
    import torch

    from rlhf_plugins.saved.auto_config import RewardModelConfig
    from rlhf_plugins.saved.auto_model import RewardModelForSequenceClassification, tells_response

    if getattr(model.config, "quantization_config", None) is not None:
        raise RunError("a quantized trunk does not export: open the reward model on its unquantized base")
    if model.columns:
        raise RunError(f"head {head['use']} reads columns of the rows, and a sequence classifier is given none")
    if model.pooling.over == "response" and not tells_response(model.trunk):
        raise RunError(
            f"pooling {pooling['use']} is over the response, and a sequence classifier has no mark of it; "
            "use load_reward_function or `rlhf score`"
        )
    trunk = merged(model.trunk)
    if type(trunk).__module__.startswith("transformers_modules."):
        raise RunError(f"{type(trunk).__name__} is code of the base's own, which an Auto class would not open alone")
    made = [
        part for kind, spec in (("pooling", pooling), ("reward_head", head)) for part in parts(component(kind, spec))
    ]
    sources = dict.fromkeys(str(registry().find(type(part)).plugin) for part in made)
    settings = {k: v for k, v in trunk.config.to_dict().items() if k != "_name_or_path"}  # a path of this machine
    config = RewardModelConfig(settings, pooling, head, list(sources), dtype=trunk.dtype)
    with torch.device("meta"):  # its own weights are not needed
        exported = RewardModelForSequenceClassification(config)
    model.trunk, exported.model = trunk, model
    return exported.eval()


def _ask_for_token_types(tokenizer: Any, model: RewardModelForSequenceClassification) -> None:
    """Has a tokenizer give the `token_type_ids` that the model needs, which not every encoder's does by itself."""
    from rlhf_plugins.saved.auto_model import tells_response

    if tells_response(model.model.trunk) and "token_type_ids" not in tokenizer.model_input_names:
        tokenizer.model_input_names = [*tokenizer.model_input_names, "token_type_ids"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # as saved


def _export_stock(model: RewardModel, parts: Parts, out: Path, tokenizer: Any) -> None:
    from rlhf_plugins.engine.forward import is_causal

    if component("pooling", parts.pooling) != component("pooling", "last_token"):
        raise RunError(
            f"a stock classifier reads the last token, not pooling {parts.pooling['use']}: leave --stock out"
        )
    if not is_causal(model.trunk):
        raise RunError(f"a stock classifier of {type(model.trunk).__name__} reads its first token: leave --stock out")
    samples = _probes(tokenizer)
    expected = model.score(samples, tokenizer.pad_token_id)
    model.export(out)
    apart = max(map(abs, map(sub, expected, _stock_rewards(out, samples))))
    close = 1e-4 if model.trunk.dtype.itemsize == 4 else 0.05  # half precision rounds the head too
    if not apart <= close * max(1.0, *map(abs, expected)):
        shutil.rmtree(out)
        raise RunError(
            f"a stock classifier of this base gives rewards that differ by {apart:.3g}: it looks for the last token "
            "elsewhere; leave --stock out"
        )


def _probes(tokenizer: Any) -> Samples:
    """A prompt and responses of two lengths, as the model reads them."""
    from rlhf_plugins.data.batches.tokens import encode

    texts = ("Yes.", "No, that is not what we expected of it.")
    ids = [encode(tokenizer, "Is it so? ", text) for text in texts]
    if tokenizer.chat_template is not None:
        asked = [{"role": "user", "content": "Is it so?"}]
        ids += [encode(tokenizer, asked, [{"role": "assistant", "content": text}]) for text in texts]
    nothing = [""] * len(ids)
    return Samples(nothing, nothing, [prompt for prompt, _ in ids], [response for _, response in ids])


def _kept_back(found: Prediction) -> list[str]:
    """A sentence about what a model says of a response besides its reward, which one logit cannot hold."""
    others = [name for name in ("variance", "quantiles", "members") if getattr(found, name) is not None]
    if found.dimensions:
        others.insert(0, f"dimensions ({', '.join(found.dimensions)})")
    return [f"The one logit is the reward; `rlhf score` also writes: {', '.join(others)}."] if others else []


def _stock_rewards(out: Path, samples: Samples) -> list[float]:
    """What the classifier in a folder gives to rows that are padded on the right."""
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers import AutoModelForSequenceClassification

    classifier = AutoModelForSequenceClassification.from_pretrained(out).eval()
    rows = [torch.tensor([*p, *r]) for p, r in zip(samples.prompt_ids, samples.response_ids, strict=True)]
    ids = pad_sequence(rows, batch_first=True, padding_value=classifier.config.get_text_config().pad_token_id)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    with torch.no_grad():
        found: list[float] = classifier(input_ids=ids, attention_mask=mask).logits[:, 0].float().tolist()
    return found


def _unquantized(folder: Path, parts: Parts) -> RewardModel:
    from rlhf_plugins.engine.weights.loading import load_trunk
    from rlhf_plugins.reward_models.reward_model import load_reward_model

    base = replace(parts.base, quantization=None, adapter=None)  # a base without an adapter is opened in float32
    make = opener(folder)
    pooling, head = make("pooling", parts.pooling), make("reward_head", parts.head)
    return load_reward_model(folder, base, pooling, head, load_trunk(base) if parts.frozen else None)


def _single(found: Made) -> Path:
    """The folder of a reward model. Raises RunError for an ensemble, and where it is not a model in a folder."""
    folder = found.folder
    if folder is None:
        raise RunError(f"{found.label}: is not saved as a model in a folder: {dict(found.spec)}")
    if (folder / ENSEMBLE).exists():
        members = sorted(path.parent.name for path in folder.glob(f"*/{REWARD_MODEL}"))
        raise RunError(f"{folder}: is an ensemble; export one of its members: {', '.join(members)}")
    return folder
