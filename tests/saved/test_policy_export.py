"""An exported policy is the policy: PEFT and transformers alone open it, and its card runs."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from finished import finished_run
from marks import slow
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_plugins import Data, Group, export_reward_model, load_reward_function
from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.engine.policy import describe, saved_base
from rlhf_plugins.engine.prompt_form import note_prompts
from rlhf_plugins.errors import RunError
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.saved.policy_export import export_policy
from rlhf_plugins.saved.run_reference import made

IDS = torch.tensor([[3, 5, 8, 4]])


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return finished_run(tmp_path / "run")


@torch.no_grad()
def logits(model: object) -> Tensor:
    found: Tensor = model.eval()(input_ids=IDS).logits.float()  # type: ignore[attr-defined]
    return found


def unmerged(run: RunFolder) -> PeftModel:
    base = AutoModelForCausalLM.from_pretrained(run.path / "01-sft/model")
    return PeftModel.from_pretrained(base, run.path / "02-dpo/model")


def in_bfloat16(folder: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)


def test_an_adapter_opens_in_peft(run: RunFolder, tmp_path: Path) -> None:
    done = export_policy(made(f"{run.path}#dpo"), tmp_path / "out")
    opened = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(opened), logits(unmerged(run)))
    assert done.needs == str(run.path / "01-sft/model")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "<eos>"


def test_a_merged_policy_opens_in_transformers_alone(run: RunFolder, tmp_path: Path) -> None:
    done = export_policy(made(f"{run.path}#dpo"), tmp_path / "out", merge=True)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(opened), logits(unmerged(run)), rtol=1e-4, atol=1e-4)
    assert done.rounding is not None
    assert done.rounding.difference < 1e-4
    assert done.rounding.agreed == done.rounding.positions == 4  # the prompts of the evaluation have a token each
    assert not list((tmp_path / "out").glob("adapter*"))


def test_a_merged_weight_is_rounded_once(run: RunFolder, tmp_path: Path) -> None:
    """W + alpha / r B A, with alpha 8 and r 4."""
    in_bfloat16(run.path / "01-sft/model")
    describe(run.path / "02-dpo/model", saved_base(run.path / "02-dpo/model"))
    export_policy(made(f"{run.path}#dpo"), tmp_path / "out", merge=True)
    name, lora = "model.layers.1.self_attn.q_proj", load_file(run.path / "02-dpo/model/adapter_model.safetensors")
    a, b = (lora[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    before = load_file(run.path / "01-sft/model/model.safetensors")[f"{name}.weight"]
    after = load_file(tmp_path / "out/model.safetensors")[f"{name}.weight"]
    assert before.dtype == after.dtype == torch.bfloat16
    assert torch.equal(after, (before.float() + 2 * (b @ a)).to(torch.bfloat16))


@pytest.mark.parametrize(("dtype", "expected"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_precision_is_that_of_every_weight(
    run: RunFolder, tmp_path: Path, stage: str, dtype: str, expected: torch.dtype
) -> None:
    done = export_policy(made(f"{run.path}#{stage}"), tmp_path / "out", merge=True, dtype=dtype)
    weights = load_file(tmp_path / "out/model.safetensors")
    assert {one.dtype for one in weights.values()} == {expected}
    assert done.rounding is not None
    assert 0 < done.rounding.difference < 0.05 * done.rounding.largest
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == expected


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_tied_embeddings_come_apart_where_one_is_trained(tmp_path: Path, target: str) -> None:
    adapter = Adapter(r=4, lora_alpha=8, target_modules=[target, "q_proj"])
    run = finished_run(tmp_path / "run", adapter=adapter, tie_word_embeddings=True)
    done = export_policy(made(f"{run.path}#dpo"), tmp_path / "out", merge=True)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(opened), logits(unmerged(run)), rtol=1e-4, atol=1e-4)
    assert not torch.equal(opened.lm_head.weight, opened.model.embed_tokens.weight)
    assert done.notes == [
        "The output layer has weights of its own: it was tied to the embeddings, and one of them was trained."
    ]


def test_tied_embeddings_stay_tied_where_neither_is_trained(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", tie_word_embeddings=True)
    export_policy(made(f"{run.path}#dpo"), tmp_path / "out", merge=True)
    assert "lm_head.weight" not in load_file(tmp_path / "out/model.safetensors")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(opened), logits(unmerged(run)), rtol=1e-4, atol=1e-4)


def with_a_large_weight(run: RunFolder) -> None:
    model = AutoModelForCausalLM.from_pretrained(run.path / "01-sft/model")
    model.model.norm.weight.data[0] = 1e6
    model.save_pretrained(run.path / "01-sft/model")


def with_dora(run: RunFolder) -> None:
    file = run.path / "02-dpo/model/adapter_config.json"
    file.write_text(file.read_text().replace('"use_dora": false', '"use_dora": true'))


def without_its_base(run: RunFolder) -> None:
    (run.path / "01-sft/model/config.json").unlink()


REFUSED: list[tuple[Callable[[RunFolder], None], str, str]] = [
    (with_a_large_weight, "fp16", "model.norm.weight: float16 cannot hold its weights: give another --dtype"),
    (with_dora, "bf16", "its adapter uses use_dora, and only a plain LoRA is merged: leave --merge out"),
    (without_its_base, "bf16", "01-sft/model: does not load"),
    (lambda run: None, "bf61", r"--dtype: unknown precision 'bf61' \(did you mean bf16\?"),
]


@pytest.mark.parametrize(("change", "dtype", "message"), REFUSED)
def test_what_cannot_be_merged_is_refused(
    run: RunFolder, tmp_path: Path, change: Callable[[RunFolder], None], dtype: str, message: str
) -> None:
    change(run)
    with pytest.raises(RunError, match=message):
        export_policy(made(f"{run.path}#dpo"), tmp_path / "out", merge=True, dtype=dtype)
    assert not (tmp_path / "out").exists()


def ran(card: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the code of a card prints in the folder that holds it."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", card.read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(card.parents[1])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    return printed.getvalue()


@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_a_card_is_filled_in_and_its_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merge: bool, chat: bool
) -> None:
    run = finished_run(tmp_path / "run", chat)
    export_policy(made(f"{run.path}#dpo"), tmp_path / "out", merge)
    _, head, text = (tmp_path / "out/README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["tags"] == ["rlhf-plugins", "preference", "dpo", *([] if merge else ["lora"])]
    assert "| base | 0.500 (-0.419 to 1.419) | - | - | - | 4 |" in text  # 0, 0, 1, 1: 0.5 +- 3.182 * 0.577 / 2
    assert "beta: 0.1" in text
    assert "8 groups of rows to train on, 4 held out" in text
    assert str(tmp_path) not in text
    assert ran(tmp_path / "out/README.md", monkeypatch).strip()


def test_a_card_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    recipe = run.recipe()
    recipe["data"]["source"] = [str(tmp_path / "pairs.jsonl"), "hub/name"]
    recipe["stages"][1]["reward"] = {"use": "python", "path": f"{tmp_path}/score.py:good"}
    (run.path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    export_policy(made(f"{run.path}#dpo"), tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert ("- pairs.jsonl" in card, "- hub/name" in card, "path: score.py:good" in card) == (True, True, True)
    assert str(tmp_path) not in card


def test_a_card_asks_as_the_training_did(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", chat=True)
    export_policy(made(f"{run.path}#dpo"), tmp_path / "older")
    assert "No note says whether it was trained on text" in (card := (tmp_path / "older/README.md").read_text())
    assert "apply_chat_template" in card
    note_prompts(run.path / "02-dpo/model", Data((Group("how\n"),)), run.path)
    export_policy(made(f"{run.path}#dpo"), tmp_path / "text")
    assert "apply_chat_template" not in (card := (tmp_path / "text/README.md").read_text())
    assert r'tokenizer("Hello\n"' in card
    assert made(str(tmp_path / "text")).prompted().as_text


@pytest.mark.parametrize("stock", [False, True], ids=["auto", "stock"])
@pytest.mark.parametrize("chat", [*slow(False), True], ids=["plain", "chat"])
def test_a_reward_models_card_scores_as_the_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stock: bool, chat: bool
) -> None:
    run = finished_run(tmp_path / "run", chat)
    export_reward_model(f"{run.path}#judge", tmp_path / "out", stock)
    asked, said = ("Hello", "Hi")
    prompt = [{"role": "user", "content": asked}] if chat else f"{asked} "
    response = [{"role": "assistant", "content": said}] if chat else said
    (expected,) = load_reward_function(run.path / "03-judge/model")([prompt], [response])
    printed = ran(tmp_path / "out/README.md", monkeypatch)
    assert float(re.findall(r"-?\d+\.\d+", printed)[0]) == pytest.approx(expected, abs=2e-4)
    assert "reward-model" in (tmp_path / "out/README.md").read_text()


def test_a_reward_model_in_bfloat16_keeps_its_head(run: RunFolder, tmp_path: Path) -> None:
    export_reward_model(f"{run.path}#judge", tmp_path / "out", dtype="bf16")
    weights = load_file(tmp_path / "out/model.safetensors")
    types = {name.split(".")[1]: one.dtype for name, one in weights.items()}
    assert types == {"trunk": torch.bfloat16, "head": torch.float32}
