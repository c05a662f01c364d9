"""Measures rewards of tokens in the sandbox and writes docs/benchmarks/token_rewards.md.

    python benchmarks/token_rewards.py [--seeds 5] [--steps 24] [--runs runs/token_rewards]

Reward models of four poolings are trained on judgements of whole responses. Their numbers for tokens are compared with
what each token adds to the true reward of the response so far. PPO then learns from one of them, paid at the end, by
prefixes and by token. A finished run is read, not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from sandbox_runs import Ran, Recipe, ran

from rlhf_plugins import session

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "benchmarks" / "token_rewards.md"
POOLINGS: dict[str, Any] = {
    "last_token": "last_token",
    "attention": {"use": "attention", "over": "response"},
    "mean": {"use": "mean", "over": "response"},
    "sum": {"use": "sum", "over": "response"},
}
LEARNED_FROM = "sum"  # the reward model of PPO
PAID = {
    "at the end": {"use": "model", "stage": LEARNED_FROM},
    "`prefixes`, every 8 tokens": {"use": "prefixes", "reward": {"use": "model", "stage": LEARNED_FROM}},
    "`by_token`": {"use": "by_token", "reward": {"use": "model", "stage": LEARNED_FROM}},
}
PROMPTS = 128
Numbers = dict[str, float]


def main() -> None:
    """Parses the command line, runs what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=24, help="of PPO; 0 does without")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "token_rewards")
    options = parser.parse_args()
    runs, found = [], []
    for seed in range(1, options.seeds + 1):
        runs.append(ran({**recipe(options.steps), "seed": seed}, options.runs / str(seed)))
        found.append(agreements(options.runs / str(seed)))
        print(
            seed,
            found[-1],
            {name: one["gold"]["mean"] for name, one in runs[-1].report["policies"].items()},
            flush=True,
        )
    OUT.write_text(page(runs, found, options.steps))
    print(OUT.read_text())


def recipe(steps: int) -> Recipe:
    """The reward models, PPO on one of them paid in three ways, and an evaluation by the true reward."""
    common = {"per_device_train_batch_size": 64, "learning_rate": 1e-3, "warmup_steps": 5, "num_train_epochs": 1}
    online = {
        **common,
        "num_generations": 4,
        "steps_per_generation": 2,
        "num_iterations": 2,
        "max_completion_length": 48,
        "max_steps": steps,
    }
    rewards = [
        {"stage": "reward_model", "name": name, "from": "base", "pooling": pooling, "trainer": common}
        for name, pooling in POOLINGS.items()
    ]
    policies = [
        {
            "stage": "online",
            "name": f"ppo{place}",
            "from": "base",
            "reward": reward,
            "kl": {"coef": 0.1},
            "trainer": online,
        }
        for place, reward in enumerate(PAID.values())
    ]
    evaluate = {"stage": "evaluate", "prompts": PROMPTS, "best_of": 1, "ceiling": 2, "max_new_tokens": 48}
    return {
        "base": "sandbox",
        "adapter": {"r": 16, "lora_alpha": 32, "target_modules": ["o_proj", "down_proj"]},
        "data": {"format": "sandbox", "writer": "sloppy", "prompts": 300, "responses": 4, "pairs": 6},
        "stages": [*rewards, *([*policies, evaluate] if steps else ())],
    }


def agreements(folder: Path) -> dict[str, Numbers]:
    """Of each reward model: the share of pairs in the true order, and the correlation of its numbers with the true.

    On two responses of the base to each held-out prompt; the true number of a token is what it adds to the true reward
    of the response so far.
    """
    data = {"use": "sandbox", "writer": "sloppy", "prompts": 1, "pairs": 1, "test_prompts": PROMPTS}
    with TemporaryDirectory() as scratch:
        run = session("sandbox", data, scratch)
        policy: Any = run.policy()
        samples = policy.sample(run.data.prompts["test"], 2, max_new_tokens=48, seed=1)
        true = [
            added(run.data.gold, policy.tokenizer, *row)
            for row in zip(samples.prompts, samples.response_ids, strict=True)
        ]
        totals = np.array([sum(row) for row in true]).reshape(-1, 2)
        found = {}
        for name in POOLINGS:
            reward = {"use": "by_token", "reward": {"use": "saved", "path": f"{folder}#{name}"}}
            said = run.open("reward", reward)(samples)
            gaps = np.diff(said.reward.view(-1, 2).numpy())[:, 0] * np.diff(totals)[:, 0]
            rows = zip(said.tokens.tolist(), true, strict=True)
            ours = np.concatenate([np.array(row[1 : len(own)]) for row, own in rows])
            known = np.concatenate([np.array(own[1:]) for own in true])
            found[name] = {
                "pairs": float((gaps[gaps != 0] > 0).mean()),
                "tokens": float(np.corrcoef(ours, known)[0, 1]),
            }
    return found


def added(gold: Any, tokenizer: Any, prompt: str, ids: Sequence[int]) -> list[float]:
    """What each token adds to the true reward of the response so far."""
    texts = [tokenizer.decode(ids[:end], skip_special_tokens=True) for end in range(1, len(ids) + 1)]
    return np.diff([gold(prompt, text)["total"] for text in texts], prepend=0.0).tolist()


def page(runs: Sequence[Ran], found: Sequence[Mapping[str, Numbers]], steps: int) -> str:
    """The table of poolings, and that of PPO."""
    machine = runs[0].report["hardware"]
    lines = [
        "# Rewards of tokens",
        "",
        f"By `python benchmarks/token_rewards.py --seeds {len(runs)} --steps {steps}` "
        f"on {machine['cores']} cores ({machine['cpu']}). "
        "Means over seeds, with the deviation over seeds in brackets.",
        "",
        "Reward models trained on judgements of whole responses, on two responses of the base to each of "
        f"{PROMPTS} held-out prompts: the share of pairs in the true order, and the correlation of the number of a "
        "token, by differences, with what it adds to the true reward of the response so far (without the first token, "
        "whose number holds what the prompt is worth).",
        "",
        "| pooling | pairs | tokens |",
        "|---|---|---|",
        *(
            f"| `{name}` | {mean([f[name]['pairs'] for f in found])} | {mean([f[name]['tokens'] for f in found])} |"
            for name in POOLINGS
        ),
    ]
    return "\n".join([*lines, *(of_ppo(runs, steps) if steps else ())]) + "\n"


def of_ppo(runs: Sequence[Ran], steps: int) -> list[str]:
    """The table of PPO."""
    lines = [
        "",
        f"PPO of {steps} steps on the reward model with pooling `{LEARNED_FROM}`, GAE with lam 0.95, KL coefficient "
        "0.1; the difference from what is paid at the end, with its standard error.",
        "",
        "| paid | gold reward | KL | difference |",
        "|---|---|---|---|",
    ]
    first = [run.report["policies"]["ppo0"]["gold"]["mean"] for run in runs]
    for place, title in enumerate(PAID):
        policies = [run.report["policies"][f"ppo{place}"] for run in runs]
        values = [one["gold"]["mean"] for one in policies]
        gaps = [value - other for value, other in zip(values, first, strict=True)]
        shown = f"{fmean(gaps):+.3f} ± {stdev(gaps) / len(gaps) ** 0.5:.3f}" if place else ""
        lines.append(f"| {title} | {mean(values)} | {mean([one['kl'] for one in policies])} | {shown} |")
    return lines


def mean(values: Sequence[float]) -> str:
    """With the deviation."""
    return f"{fmean(values):.3f} ({stdev(values):.3f})"


if __name__ == "__main__":
    main()
