"""`python -m rlhf_plugins.sandbox build|show`: rebuild the shipped policy, or look at what it writes.

    python -m rlhf_plugins.sandbox build                # the shipped folder again: 7 minutes of one CPU core
    python -m rlhf_plugins.sandbox build --policy sandbox_arithmetic       # the other one: 2 minutes
    python -m rlhf_plugins.sandbox build --out FOLDER --seed 1
    python -m rlhf_plugins.sandbox show --policy FOLDER --number 6

`build` runs from nothing but the code and the seed: the tokenizer from the world's vocabulary, the weights from texts
of the sloppy writer. The shipped files are what it makes with its defaults; another machine may differ by rounding.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from rlhf_plugins.errors import nearest
from rlhf_plugins.sandbox import MAX_TOTAL, POLICIES, POLICY, gold, prompts

app = typer.Typer(add_completion=False, help="The sandbox: a small world with a known gold reward.")


@app.command()
def build(
    policy: Annotated[str, typer.Option(help="sandbox or sandbox_arithmetic")] = "sandbox",
    out: Annotated[Path | None, typer.Option(help="folder to write; by default the shipped one")] = None,
    seed: Annotated[int, typer.Option(help="seed of texts and weights")] = 0,
) -> None:
    """Make tokenizer and policy again from nothing."""
    from rlhf_plugins.sandbox.build import SHIPPED
    from rlhf_plugins.sandbox.build import build as make

    if policy not in SHIPPED:
        raise typer.BadParameter(f"no policy {policy!r} {nearest(policy, SHIPPED)}")
    folder = out or POLICIES[policy]
    make(folder, replace(SHIPPED[policy], seed=seed))
    typer.echo(f"wrote {folder}")


@app.command()
def show(
    policy: Annotated[Path, typer.Option(help="folder of the policy")] = POLICY,
    split: Annotated[str, typer.Option(help="train, test or out_of_distribution")] = "test",
    number: Annotated[int, typer.Option(help="prompts to show")] = 4,
    seed: Annotated[int, typer.Option(help="seed of the samples")] = 0,
) -> None:
    """Print a few prompts, sampled responses and their gold scores."""
    from rich.console import Console
    from rich.table import Table
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rlhf_plugins.engine.sampling import Decoding, sample

    asked = prompts(split)[:number]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(policy), AutoTokenizer.from_pretrained(policy)
    table = Table("prompt", "response", "helpful", "harmless", "honest", "concise", f"total of {MAX_TOTAL:g}")
    samples = sample(model, tokenizer, asked, per_prompt=3, decoding=Decoding(seed=seed))
    for prompt, text in zip(samples.prompts, samples.responses, strict=True):
        worth = gold(str(prompt), text)
        scores = (worth.helpful, worth.harmless, worth.honest, worth.concise, worth.total)
        table.add_row(str(prompt).strip(), text, *(f"{score:.2f}" for score in scores))
    Console().print(table)


if __name__ == "__main__":
    app()
