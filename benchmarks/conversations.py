"""Measures PPO in conversations in the sandbox and writes docs/benchmarks/conversations.md.

    python benchmarks/conversations.py [--seeds 5] [--runs runs/conversations]

recipes/conversations.yaml is run under several seeds: one policy is paid for whole conversations, one for each answer
alone. Both talk with the sandbox's reader about held-out prompts. A finished run is read, not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any

from sandbox_runs import Ran, ran, read

from rlhf_plugins import session
from rlhf_plugins.data.conversations import converse, discounted_returns

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "benchmarks" / "conversations.md"
RECIPE = ROOT / "recipes" / "conversations.yaml"
POLICIES = {"sft": "before", "single": "paid for each answer", "whole": "paid for whole conversations"}
PROMPTS, TURNS, NEW_TOKENS = 256, 3, 48
Numbers = dict[str, float]


def main() -> None:
    """Parses the command line, runs what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "conversations")
    options = parser.parse_args()
    runs, found = [], []
    for seed in range(1, options.seeds + 1):
        folder = options.runs / str(seed)
        runs.append(ran({**read(RECIPE), "seed": seed}, folder))
        found.append(talked(folder))
        print(seed, found[-1], flush=True)
    OUT.write_text(page(runs, found))
    print(OUT.read_text())


def talked(folder: Path) -> dict[str, Numbers]:
    """Numbers of each policy's conversations on held-out openings of one question."""
    data = {"use": "sandbox", "writer": "sloppy", "prompts": 1, "pairs": 1, "test_prompts": PROMPTS}
    found = {}
    with TemporaryDirectory() as scratch:
        run = session("sandbox", data, scratch)
        for place, name in enumerate(("sft", "whole", "single"), 1):
            policy = run.open("generator", {"use": "trained", "path": str(folder / f"{place:02}-{name}" / "model")})
            found[name] = numbers(policy, run)
    return found


def numbers(policy: Any, run: Any) -> Numbers:
    """The true reward of a conversation, its turns, and the true reward of an answer and of the first one."""
    sample = partial(policy.sample, max_new_tokens=NEW_TOKENS, seed=1)
    first = sample([group.prompt for group in run.data.prompts["test"]])
    reader = run.open("environment", "sandbox")
    talks = converse(first, lambda asked, _: sample(asked), reader, TURNS, lambda _: True)
    both = zip(talks.samples.prompts, talks.samples.responses, strict=True)
    rewards = [run.data.gold(str(prompt), response)["total"] for prompt, response in both]
    totals = discounted_returns(rewards, talks.following(), 1.0)
    return {
        "conversation": fmean(total for total in totals[: talks.count] if total is not None),
        "turns": len(rewards) / talks.count,
        "answer": fmean(rewards),
        "first answer": fmean(rewards[: talks.count]),
    }


def page(runs: Sequence[Ran], found: Sequence[Mapping[str, Numbers]]) -> str:
    """The table, and what the two ways to be paid differ by, seed by seed."""
    machine = runs[0].report["hardware"]
    lines = [
        "# Conversations as episodes",
        "",
        f"By `python benchmarks/conversations.py --seeds {len(runs)}` on {machine['cores']} cores ({machine['cpu']}). "
        "Means over seeds, with the deviation over seeds in brackets.",
        "",
        "`recipes/conversations.yaml`: PPO by the true reward, in conversations of up to "
        f"{TURNS} turns with the sandbox's reader, who asks on after an answer with a sentence of filler. The sentence "
        f"costs the answer up to 0.3. On {PROMPTS} held-out openings:",
        "",
        "| policy | `turn_discount` | true reward of a conversation | turns | of an answer | of the first answer |",
        "|---|---|---|---|---|---|",
    ]
    discounts = {"sft": "", "single": "0", "whole": "1"}
    for name, words in POLICIES.items():
        cells = [
            spread([one[name][key] for one in found]) for key in ("conversation", "turns", "answer", "first answer")
        ]
        lines.append(f"| {words} | {discounts[name]} | {' | '.join(cells)} |")
    gains = {key: [one["whole"][key] - one["single"][key] for one in found] for key in ("conversation", "first answer")}
    said = [f"{fmean(gain):+.2f} ± {stdev(gain) / len(gain) ** 0.5:.2f} for {key}" for key, gain in gains.items()]
    lines += ["", f"Whole conversations less each answer, with the standard error over seeds: {', '.join(said)}.", ""]
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Mean and deviation over seeds."""
    return f"{fmean(values):.3f} ({stdev(values):.3f})"


if __name__ == "__main__":
    main()
