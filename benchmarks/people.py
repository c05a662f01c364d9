"""Trains a reward model, DPO and PPO on people's own preferences, and writes docs/benchmarks/people.md.

    python benchmarks/people.py NAME=FILE [NAME=FILE ...] [--runs runs/people]

Each FILE holds pairs with the columns prompt, chosen, rejected. The model is a Qwen3 of a few million parameters made
from its configuration, with a tokenizer trained on the training pairs' own text: nothing is downloaded. A run whose
report exists is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sandbox_runs import finished
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, set_seed

from rlhf_plugins.contract.rows import Data
from rlhf_plugins.contract.run import Base
from rlhf_plugins.recipe.assemble import component

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "benchmarks"
VOCABULARY, LONGEST = 4096, 1024
ROW = "| {name} | {train} | {test} | {dropped} | {accuracy} | {longer} | {ece} | {seconds:.0f} |"
HEADER = ("data", "train", "held out", "dropped and cut", "accuracy", "longer response", "ECE", "seconds")


def main() -> None:
    """Runs what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "people")
    options = parser.parse_args()
    sources = dict(item.split("=", 1) for item in options.data)
    reports = {name: run(name, source, options.runs / name) for name, source in sources.items()}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "people.md").write_text(page(reports))
    print(page(reports))


def run(name: str, source: str, folder: Path) -> dict[str, Any]:
    """The report of the recipe on one file."""
    if not finished(folder / "run"):
        base = folder / "base"
        write_base(base, component("data_format", {"use": "preference", "source": source}).load(Base(""), 0))
        overrides = [f"base={base}", f"data.source={source}", f"output_dir={folder / 'run'}"]
        recipe = ROOT / "recipes" / "people_small.yaml"
        subprocess.run([sys.executable, "-m", "rlhf_plugins.cli", "run", str(recipe), *overrides], check=True)
    report: dict[str, Any] = json.loads((folder / "run" / "report.json").read_text())
    return report


def write_base(folder: Path, data: Data) -> None:
    """A random Qwen3 and a byte-level BPE tokenizer trained on the training split alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts(data), trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    set_seed(0)
    config = Qwen3Config(
        vocab_size=len(fast),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
        pad_token_id=fast.pad_token_id,
        eos_token_id=fast.eos_token_id,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)


def texts(data: Data) -> Iterator[str]:
    """Prompts and both responses of the training pairs."""
    for group in data.train:
        yield from (str(group.prompt), *map(str, group.responses))


def page(reports: dict[str, dict[str, Any]]) -> str:
    """The Markdown page."""
    hardware = next(iter(reports.values()))["hardware"]
    lines = [
        "# On people's own preferences",
        "",
        f"`python benchmarks/people.py` on {hardware['cores']} cores ({hardware['cpu']}), {hardware['platform']}. "
        "A Qwen3 of a few million parameters from random weights; see the script's first lines for what this shows.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + " --- |" * len(HEADER),
        *(ROW.format(name=name, **row(report)) for name, report in reports.items()),
    ]
    for name, report in reports.items():
        lines += ["", f"## {name}: policies by {report['score_name']}", "", *policies(report)]
    return "\n".join(lines) + "\n"


def row(report: dict[str, Any]) -> dict[str, Any]:
    """One file's row."""
    model, data = report["reward_model"], report["data"]
    interval = model["accuracy_interval"]
    return {
        "train": data["train"],
        "test": data["test"],
        "dropped": reasons(data["dropped"]),
        "accuracy": f"{model['accuracy']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})",
        "longer": f"{model['longer_response_accuracy']:.3f}",
        "ece": f"{model['ece']:.3f}",
        "seconds": sum(stage["cost"]["seconds"] or 0 for stage in report["stages"]),
    }


def reasons(counts: dict[str, int]) -> str:
    """Counts with their reasons, those above 0."""
    return ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)


def policies(report: dict[str, Any]) -> list[str]:
    """A table of the policies."""
    lines = ["| policy | score (95% CI) | KL | win rate | length |", "| --- | --- | --- | --- | --- |"]
    for name, policy in report["policies"].items():
        score, win = policy["gold"], policy["win_rate"]
        rate = f"{win['mean']:.2f}" if win else "-"
        interval = f"{score['mean']:.2f} ({score['low']:.2f} to {score['high']:.2f})"
        lines.append(f"| {name} | {interval} | {policy['kl'] or 0:.2f} | {rate} | {policy['length']:.0f} |")
    return lines


if __name__ == "__main__":
    main()
