"""What we save, the ecosystem opens: the same scores through Auto classes, TRL's reward functions and stock models."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from marks import slow
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import rlhf_plugins.auto  # noqa: F401
from rlhf_plugins import export_reward_model, load_reward_function, load_reward_model
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.data.batches.tokens import encode
from rlhf_plugins.engine.weights.loading import load_tokenizer, load_trunk, with_adapter
from rlhf_plugins.errors import DataError, PluginError, RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.ensemble import describe
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.testing import tiny_base, tiny_encoder

PROMPTS = ["how is the ", "why ", "what who is the why "] * 4  # enough for short rows to be laid apart from long ones
RESPONSES = ["ant bee", "gas ice jam key", "elk", "cat dog fox elk ant bee jam key gas ice log mud"] * 3
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if not add_generation_prompt %}<eos>{% endif %}"
Parts = dict[str, Any]


def saved(folder: Path, base: Base, pooling: Any = "last_token", head: Any = "scalar") -> Path:
    """A saved reward model whose every trained weight differs from its base's."""
    torch.manual_seed(3)
    trunk = with_adapter(load_trunk(base), base.adapter, "FEATURE_EXTRACTION")
    model = RewardModel(trunk, component("pooling", pooling), component("reward_head", head))
    for weights in filter(lambda p: p.requires_grad, model.parameters()):
        weights.data += 0.1 * torch.randn_like(weights)
    words = {
        name: spec if isinstance(spec, dict) else {"use": spec} for name, spec in (("pooling", pooling), ("head", head))
    }
    model.save(folder, {"base": {k: v for k, v in asdict(base).items() if k != "trust_remote_code"}, **words})
    return folder


def rewards(folder: Path, base: Base) -> Tensor:
    """What the saved model itself says of the responses, (B, 1)."""
    tokenizer = load_tokenizer(base)
    ids = [encode(tokenizer, p, r) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    samples = Samples(PROMPTS, RESPONSES, [p for p, _ in ids], [r for _, r in ids])
    return torch.tensor(load_reward_model(folder).predict(samples).reward.tolist()).unsqueeze(1)


@torch.no_grad()
def logits(folder: Path, side: str = "right", **options: Any) -> Tensor:
    """What the exported model says of them through Auto classes, (B, 1)."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, **options).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    if tokenizer.cls_token is not None:
        inputs = tokenizer(PROMPTS, RESPONSES, padding=True, return_tensors="pt")
    else:
        whole = [p + r + tokenizer.eos_token for p, r in zip(PROMPTS, RESPONSES, strict=True)]
        inputs = tokenizer(whole, padding=True, return_tensors="pt", return_token_type_ids=False)
    found: Tensor = model(**inputs).logits
    return found


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return tiny_base(tmp_path / "base", "qwen3")


POOLINGS = ["mean", "max", "attention", "learned_hierarchical", {"use": "multi_scale", "window": 2}]
HEADS = [
    "mlp",
    {"use": "multi", "dimensions": ["helpful", "brief"], "weights": [0.3, 0.6]},
    "gaussian",
    {"use": "quantile", "quantiles": 4},
]


@pytest.mark.parametrize("parts", [*(("pooling", p) for p in POOLINGS), *(("head", h) for h in HEADS)], ids=str)
def test_any_pooling_and_head_score_the_same_through_auto_classes(base: Base, tmp_path: Path, parts: Any) -> None:
    folder = saved(tmp_path / "saved", base, **dict([parts]))
    export_reward_model(folder, tmp_path / "out")
    for side in ("left", "right"):
        torch.testing.assert_close(logits(tmp_path / "out", side), rewards(folder, base), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("head", "others"),
    [
        ("scalar", None),
        (HEADS[1], "dimensions (helpful, brief)"),
        ("gaussian", "variance"),
        (HEADS[3], "variance, quantiles"),
    ],
    ids=str,
)
def test_what_one_logit_cannot_hold_is_named(base: Base, tmp_path: Path, head: Any, others: str | None) -> None:
    notes = export_reward_model(saved(tmp_path / "saved", base, head=head), tmp_path / "out")
    said = f"The one logit is the reward; `rlhf score` also writes: {others}."
    assert notes == ([] if others is None else [said])
    assert (said in (tmp_path / "out/README.md").read_text()) == (others is not None)


@pytest.mark.parametrize("architecture", ["llama", "mamba", *slow("gpt2", "opt")])
@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_padding_of_any_kind_changes_nothing(tmp_path: Path, architecture: str, pad_is_eos: bool) -> None:
    base = tiny_base(tmp_path / "base", architecture, pad_is_eos=pad_is_eos)
    folder = saved(tmp_path / "saved", base, "hierarchical")
    export_reward_model(folder, tmp_path / "out")
    sides = ["right"] if architecture == "mamba" else ["left", "right"]  # a state goes through padding on the left
    for side in sides:
        torch.testing.assert_close(logits(tmp_path / "out", side), rewards(folder, base), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["last_token", {"use": "mean", "over": "response"}], ids=str)
def test_an_encoder_is_told_the_response_by_token_types(tmp_path: Path, pooling: Any) -> None:
    base = tiny_encoder(tmp_path / "base")
    folder = saved(tmp_path / "saved", base, pooling)
    export_reward_model(folder, tmp_path / "out")
    torch.testing.assert_close(logits(tmp_path / "out"), rewards(folder, base), rtol=1e-5, atol=1e-5)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match="token_type_ids are needed"):
        model(torch.tensor([[2, 5, 3]]))


@pytest.mark.parametrize("adapter", [None, Adapter(r=4)], ids=["full", "lora"])
def test_saving_again_keeps_every_bit(base: Base, tmp_path: Path, adapter: Adapter | None) -> None:
    base = replace(base, adapter=adapter)
    folder = saved(tmp_path / "saved", base, "attention", {"use": "quantile", "quantiles": 4})
    export_reward_model(folder, tmp_path / "out")
    first = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    first.save_pretrained(tmp_path / "again")
    AutoTokenizer.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "again")
    torch.testing.assert_close(logits(tmp_path / "out"), rewards(folder, base), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(tmp_path / "again"), logits(tmp_path / "out"), rtol=0, atol=0)
    config = AutoConfig.from_pretrained(tmp_path / "again")
    assert (config.model_type, config.pooling["use"], config.trunk_config.model_type) == (
        "rlhf_reward",
        "attention",
        "qwen3",
    )
    assert str(tmp_path) not in (tmp_path / "again" / "config.json").read_text()


def test_a_trunk_in_bfloat16_keeps_its_head_precise(base: Base, tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", base, "attention", {"use": "quantile", "quantiles": 4})
    export_reward_model(folder, tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    types = {name.split(".")[1]: weights.dtype for name, weights in model.named_parameters()}
    assert types == {"trunk": torch.bfloat16, "pooling": torch.float32, "head": torch.float32}
    assert model.model.head.steps.dtype == torch.float32
    torch.testing.assert_close(
        logits(tmp_path / "out", dtype=torch.bfloat16), rewards(folder, base), rtol=0.1, atol=0.1
    )


def test_a_quantized_adapter_is_merged_into_the_whole_base(base: Base, tmp_path: Path) -> None:
    base = replace(base, adapter=Adapter(r=4))
    folder = saved(tmp_path / "saved", base)
    expected, described = rewards(folder, base), json.loads((folder / "reward_model.json").read_text())
    described["base"]["quantization"] = "nf4"
    (folder / "reward_model.json").write_text(json.dumps(described))
    export_reward_model(folder, tmp_path / "out", tolerance=10.0)  # a random model moves far
    torch.testing.assert_close(logits(tmp_path / "out"), expected, rtol=1e-5, atol=1e-5)


def test_a_frozen_trunk_is_written_out(base: Base, tmp_path: Path) -> None:
    model = RewardModel(
        load_trunk(base).requires_grad_(False), component("pooling", "mean"), component("reward_head", "scalar")
    )
    model.save(tmp_path / "saved", {"base": {"path": base.path}, "pooling": {"use": "mean"}, "head": {"use": "scalar"}})
    export_reward_model(tmp_path / "saved", tmp_path / "out")
    torch.testing.assert_close(logits(tmp_path / "out"), rewards(tmp_path / "saved", base), rtol=1e-5, atol=1e-5)


def test_an_exported_model_gives_gradients_and_needs_none(base: Base, tmp_path: Path) -> None:
    export_reward_model(saved(tmp_path / "saved", base), tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    model(torch.tensor([[5, 6, 1]])).logits.sum().backward()
    assert model.get_input_embeddings().weight.grad[5].abs().sum() > 0
    assert not model.requires_grad_(False)(torch.tensor([[5, 6, 1]])).logits.requires_grad


def test_padding_without_a_mask_is_refused(base: Base, tmp_path: Path) -> None:
    export_reward_model(saved(tmp_path / "saved", base), tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match="are padded, so attention_mask is needed"):
        model(torch.tensor([[5, 6, 1], [5, 1, 0]]))
    with pytest.raises(ValueError, match="a row of attention_mask has no token"):
        model(torch.tensor([[5, 6, 1]]), torch.tensor([[0, 0, 0]]))


BEFORE = """
import rlhf_plugins.auto
from transformers import AutoModelForSequenceClassification
print(type(AutoModelForSequenceClassification.from_pretrained({out!r})).__name__)
"""


@pytest.mark.slow
def test_the_order_of_imports_does_not_matter(base: Base, tmp_path: Path) -> None:
    """All other tests of this file import transformers first."""
    export_reward_model(saved(tmp_path / "saved", base), tmp_path / "out")
    command = [sys.executable, "-c", BEFORE.format(out=str(tmp_path / "out"))]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["RewardModelForSequenceClassification"], done.stderr


def test_a_model_of_an_unknown_plugin_names_it(base: Base, tmp_path: Path) -> None:
    export_reward_model(saved(tmp_path / "saved", base), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    changed = {**config, "head": {"use": "scaler"}, "plugins": ["rlhf_scaler (rlhf-scaler 0.3)"]}
    (tmp_path / "out" / "config.json").write_text(json.dumps(changed))
    with pytest.raises(PluginError, match=r"did you mean scalar\?.*made with rlhf_scaler \(rlhf-scaler 0.3\)"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("adapter", [None, Adapter(r=4)], ids=["full", "lora"])
def test_transformers_alone_opens_a_stock_export(base: Base, tmp_path: Path, adapter: Adapter | None) -> None:
    base = replace(base, adapter=adapter)
    folder = saved(tmp_path / "saved", base)
    export_reward_model(folder, tmp_path / "out", stock=True)
    assert AutoConfig.from_pretrained(tmp_path / "out").model_type == "qwen3"
    for side in ("left", "right"):
        torch.testing.assert_close(logits(tmp_path / "out", side), rewards(folder, base), rtol=1e-5, atol=1e-5)


def as_ensemble(folder: Path, base: Base) -> Path:
    for member in ("0", "1"):
        saved(folder / member, base, "mean" if member == "1" else "last_token")
    describe(folder, ["0", "1"], {"use": "mean"}, accuracy=[1.0, 1.0], early_exit=False)
    return folder


REFUSALS: list[tuple[Callable[[Path, Base], Path], bool, str]] = [
    (lambda at, base: saved(at, base, {"use": "mean", "over": "response"}), False, "is over the response"),
    (lambda at, base: saved(at, base, "mean"), True, "reads the last token, not pooling mean: leave --stock out"),
    (lambda at, base: saved(at, base, head="mlp"), True, "only a scalar head exports"),
    (lambda at, base: saved(at, tiny_encoder(at / "bert")), True, "BertModel reads its first token"),
    (lambda at, base: saved(at, tiny_base(at / "eos", pad_is_eos=True)), True, "which must not be EOS"),
    (lambda at, base: as_ensemble(at, base), False, "is an ensemble; export one of its members: 0, 1"),
    (lambda at, base: at, False, "holds no reward model"),
]


@pytest.mark.parametrize(("make", "stock", "message"), REFUSALS)
def test_what_a_form_cannot_hold_is_refused(
    base: Base, tmp_path: Path, make: Callable[[Path, Base], Path], stock: bool, message: str
) -> None:
    with pytest.raises(RunError, match=message):
        export_reward_model(make(tmp_path / "saved", base), tmp_path / "out", stock)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_not_written_into(base: Base, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path, tmp_path / "file"):
        with pytest.raises(RunError, match="exists and is not an empty folder"):
            export_reward_model(saved(tmp_path / "saved", base), out)


def grpo(base: Base, folder: Path, reward: Any, messages: bool) -> tuple[list[float], list[tuple[Any, Any]]]:
    """The mean reward that TRL logs for each of two steps, and the prompts and completions of each."""
    seen: list[tuple[Any, Any]] = []

    def record(prompts: Any, completions: Any, **_: Any) -> list[float]:
        seen.append((prompts, completions))
        return [0.0] * len(prompts)

    prompts: Any = [[{"role": "user", "content": p}] for p in PROMPTS] if messages else PROMPTS
    sizes = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 4, "max_steps": 2}
    off = {"report_to": [], "bf16": False, "gradient_checkpointing": False, "use_cpu": True, "save_strategy": "no"}
    args = trl.GRPOConfig(str(folder), logging_steps=1, disable_tqdm=True, **sizes, **off)
    trainer = trl.GRPOTrainer(base.path, [reward, record], args, Dataset.from_dict({"prompt": prompts}))
    trainer.train()
    name = f"rewards/{trainer.reward_func_names[0]}/mean"
    return [row[name] for row in trainer.state.log_history if name in row], seen


@pytest.fixture
def policy(tmp_path: Path) -> Base:
    """A base with a chat template."""
    base = tiny_base(tmp_path / "policy")
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(base.path)
    return base


@pytest.mark.parametrize("by_path", [False, True], ids=["model", "path"])
@pytest.mark.parametrize("messages", [False, True], ids=["text", "messages"])
def test_trl_takes_an_exported_model_as_reward(policy: Base, tmp_path: Path, messages: bool, by_path: bool) -> None:
    export_reward_model(saved(tmp_path / "saved", policy, "mean"), tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    found, seen = grpo(policy, tmp_path / "grpo", str(tmp_path / "out") if by_path else model, messages)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for mean, (prompts, completions) in zip(found, seen, strict=True):
        whole = [p + c for p, c in zip(prompts, completions, strict=True)]
        texts = [tokenizer.apply_chat_template(w, tokenize=False) for w in whole] if messages else whole
        alone = [model(tokenizer(t, return_tensors="pt")["input_ids"]).logits.item() for t in texts]
        assert mean == pytest.approx(sum(alone) / len(alone), abs=1e-5)


@pytest.mark.parametrize("messages", [False, True], ids=["text", "messages"])
def test_trl_takes_an_ensemble_as_reward_function(policy: Base, tmp_path: Path, messages: bool) -> None:
    reward = load_reward_function(as_ensemble(tmp_path / "judges" / "model", policy))
    assert reward.__name__ == "judges"
    found, seen = grpo(policy, tmp_path / "grpo", reward, messages)
    alone = [[reward([p], [c])[0] for p, c in zip(*step, strict=True)] for step in seen]
    assert found == pytest.approx([sum(step) / len(step) for step in alone], abs=1e-5)


def test_a_reward_function_scores_as_the_model_does(policy: Base, tmp_path: Path) -> None:
    folder = saved(tmp_path / "01-reward" / "model", policy)
    reward = load_reward_function(folder)
    assert reward.__name__ == "01-reward"
    expected = rewards(folder, policy).squeeze(1).tolist()
    assert reward(prompts=PROMPTS, completions=RESPONSES, trainer_state=None) == pytest.approx(expected, abs=1e-6)
    assert reward(prompts=[], completions=[]) == []
    with pytest.raises(DataError, match="both be text or both be messages"):
        reward(prompts=["how"], completions=[[{"role": "assistant", "content": "ant"}]])
