"""All that somebody new does, by the commands of the pages: from own pairs to a model in plain transformers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

DOCS = Path(__file__).parents[2] / "docs"
ASKED = ("What does the heron eat?", "Where does the otter sleep?", "Who built the old bridge?", "Why is the sky blue?")
PAIRS = [
    {"prompt": f"{asked} ({n})", "chosen": "Nobody knows.", "rejected": "That is a question, and a question."}
    for asked in ASKED
    for n in range(10)
]
INSTRUCTIONS = [{"prompt": f"{asked} [{n}]", "completion": "It is known."} for asked in ASKED for n in range(6)]
SMALL = ["adapter.r=4", *(f"stages.{name}.trainer.max_steps=2" for name in ("sft", "reward_model", "dpo", "ppo"))]
SMALL += ["stages.ppo.trainer.max_completion_length=8"]
SMALL += [f"stages.evaluate.{option}" for option in ("prompts=4", "best_of=2", "max_new_tokens=8")]
OPENS = """\
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
assert not any(name.startswith("rlhf") for name in sys.modules)
model, tokenizer = (cls.from_pretrained("mine") for cls in (AutoModelForCausalLM, AutoTokenizer))
asked = tokenizer(["Why?"], return_tensors="pt")
if sys.argv[1:]:
    said = [{"role": "user", "content": "Why?"}]
    asked = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=True, return_tensors="pt")
said = model.generate(**asked, max_new_tokens=6, do_sample=False)[0, asked["input_ids"].shape[1]:]
print(tokenizer.decode(said, skip_special_tokens=True))
"""


def in_messages(row: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    role = {"prompt": "user"}
    return {name: [{"role": role.get(name, "assistant"), "content": text}] for name, text in row.items()}


@pytest.mark.slow
@pytest.mark.parametrize("base", ["sandbox", "tiny"])
def test_from_own_pairs_to_a_model_in_plain_transformers(
    base: str, rlhf: Callable[..., Result], tmp_path: Path
) -> None:
    def done(*words: str, **options: str) -> str:
        result = rlhf(*words, **options)
        assert result.exit_code == 0, result.output
        return result.stdout

    for name, rows in (("pairs", PAIRS), ("instructions", INSTRUCTIONS)):
        written = (in_messages(row) if base == "tiny" else row for row in rows)
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    if base == "tiny":
        exec(re.findall(r"```python\n(.*?)```", (DOCS / "faq.md").read_text(), re.DOTALL)[0], {})  # noqa: S102 (of our own page)
    page = (DOCS / "quickstart.md").read_text()
    Path("mine.yaml").write_text(re.findall(r"```text\n(.*?)```", page, re.DOTALL)[0])
    changed = (f"base={base}", *SMALL)
    assert "rows: 40" in done("data", "check", "pairs.jsonl")
    done("check", "mine.yaml", *changed)
    done("run", "mine.yaml", *changed)
    report = json.loads(Path("runs/mine/report.json").read_text())
    assert list(report["policies"]) == ["base", "best-of-2", "sft", "dpo", "ppo"]
    assert {stage["name"]: stage["start"] for stage in report["stages"]}["ppo"] == "dpo"
    done("run", "mine.yaml", *changed, "seed=1", "output_dir=runs/other")
    compared = done("report", "runs/mine", "runs/other")
    assert all(f"{run} " in compared and "ppo" in compared for run in ("mine", "other"))
    assert done("runs", "diff", "runs/mine", "runs/other").startswith("seed")
    assert done("chat", "runs/mine#ppo", "--max-new-tokens", "4", input="Why?\n/quit\n")
    Path("asked.txt").write_text("Why?\n")
    done("generate", "runs/mine#ppo", "asked.txt", "--temperature", "0", "--max-new-tokens", "6", "--out", "said.jsonl")
    said = json.loads(Path("said.jsonl").read_text())["response"]
    expected = said if base == "sandbox" else said[0]["content"]
    done("export", "runs/mine#ppo", "out", "--merge")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    shutil.move("out", elsewhere / "mine")
    shutil.rmtree("runs")
    command = [sys.executable, "-c", OPENS, *(["messages"] if base == "tiny" else [])]
    plain = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=True)
    assert plain.stdout.removesuffix("\n") == expected
