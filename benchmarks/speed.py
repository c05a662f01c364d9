"""Times our trainers beside stock TRL's on the same rows, and writes docs/benchmarks/speed.json, .md and .png.

    python benchmarks/speed.py [--repeats 3] [--only NAME ...]

Every run is a process of its own (`speed_one.py`); ours and TRL's alternate. A case counts only if both sides report
the same loss at every step. What is timed is an optimizer step, its batch collated; a policy's reference is added: TRL
computes it within every step, we once for all epochs, so that a step of ours bears a third of it (TRL's default is
three epochs). Each case is saved when it is done, and `--only` makes some of them again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from speed_one import MODELS, Case

from rlhf_plugins.report.machine import hardware

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
EPOCHS = 3
CASES = {
    "DPO": Case("dpo", "7M", 192, 64),
    "IPO": Case("ipo", "7M", 192, 64),
    "DPO, TRL's reference once too": Case("dpo", "7M", 192, 64, remembered=True),
    "DPO, rows of unequal length": Case("dpo", "7M", 192, 64, ragged=True),
    "DPO, in pieces of 1024 tokens": Case("dpo", "7M", 192, 64, tokens=1024),
    "DPO, long prompt": Case("dpo", "7M", 512, 32),
    "DPO, prompt of one token": Case("dpo", "7M", 1, 64),
    "DPO, bfloat16": Case("dpo", "7M", 192, 64, precision="bfloat16", steps=3),
    "DPO, larger model": Case("dpo", "42M", 192, 64, batch=4, steps=3),
    "reward": Case("reward", "7M", 192, 64),
    "reward, rows of unequal length": Case("reward", "7M", 192, 64, ragged=True),
    "reward, in pieces of 1024 tokens": Case("reward", "7M", 192, 64, tokens=1024),
    "reward, long prompt": Case("reward", "7M", 512, 32),
    "reward, prompt of one token": Case("reward", "7M", 1, 64),
    "reward, larger model": Case("reward", "42M", 192, 64, batch=4, steps=3),
    "ranking of 4": Case("ranking", "7M", 192, 64, k=4, batch=4),
}
AIMS = {  # by work and prompt: times as fast at least, times the memory at most
    ("dpo", 192): (4.0, 0.5),
    ("ipo", 192): (4.0, 0.5),
    ("dpo", 512): (5.0, None),
    ("reward", 192): (2.0, 0.6),
    ("ranking", 192): (3.0, None),
    ("dpo", 1): (1.0, None),
    ("reward", 1): (1.0, None),
}
GROWTH = (2, 4, 8, 16)  # groups a batch, of ours alone


def main() -> None:
    """Parses the command line, runs the cases and writes after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[*CASES, "growth"], help="some of the cases")
    chosen = parser.parse_args()
    found = (
        json.loads((OUT / "speed.json").read_text()) if (OUT / "speed.json").exists() else {"rows": [], "growth": []}
    )
    for name in chosen.only or [*CASES, "growth"]:
        print(name, flush=True)
        if name == "growth":
            found["growth"] = growth()
        else:
            others = [row for row in found["rows"] if row["name"] != name]
            found["rows"] = sorted(
                [*others, compared(name, chosen.repeats)], key=lambda row: [*CASES].index(row["name"])
            )
        write({"machine": hardware().model_dump(), **{key: found[key] for key in ("rows", "growth")}})


def compared(name: str, repeats: int) -> dict[str, Any]:
    """One row: our medians beside TRL's, and the ratio with the least and the most of any repetition."""
    case = CASES[name]
    both: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for repeat in range(repeats):
        order = ("ours", "stock") if repeat % 2 else ("stock", "ours")
        runs = {side: run(side, case) for side in order}
        both.append((runs["ours"], runs["stock"]))
        agree(name, *both[-1])
    ratios = [seconds(stock, case) / seconds(ours, case) for ours, stock in both]
    ours, stock = (median(seconds(side, case) for side in sides) for sides in zip(*both, strict=True))
    row = {
        "name": name,
        **{key: getattr(case, key) for key in ("work", "precision", "model", "prompt", "response", "k", "ragged")},
        "against": f"TRL 1.16, {'reference once' if case.remembered else 'as it comes'}",
        "device": "cpu",
        "ratio": median(ratios),
        "runs": repeats,
        "low": min(ratios),
        "high": max(ratios),
        "memory_ratio": median(a["bytes"] / b["bytes"] for a, b in both),
        "groups_per_second": 1 / ours,
        "stock_groups_per_second": 1 / stock,
        "tokens_per_second": case.k * (case.prompt + case.response) / ours,
        "utilisation": median(utilisation(a, case) for a, _ in both),
        "dispatch": median(a["dispatch"] / step(a) for a, _ in both),
    }
    print(
        f"  {row['ratio']:.2f}x ({row['low']:.2f} to {row['high']:.2f}), memory {row['memory_ratio']:.2f}x", flush=True
    )
    return row


def run(side: str, case: Case) -> dict[str, Any]:
    """One training in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("speed_one.py")), side, json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} of {case} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def agree(name: str, ours: dict[str, Any], stock: dict[str, Any]) -> None:
    """Stops unless both sides had the same losses, to the rounding of their precision."""
    rounding = 0.05 if CASES[name].precision == "bfloat16" else 2e-3
    if not np.allclose(ours["losses"], stock["losses"], rtol=rounding, atol=rounding):
        raise SystemExit(f"{name}: the losses differ, {ours['losses']} and {stock['losses']}: nothing to time")


def step(run: dict[str, Any]) -> float:
    """Seconds of a step: the median, without the first, in which memory is first asked for."""
    return median(run["seconds"][1:])


def seconds(run: dict[str, Any], case: Case) -> float:
    """Seconds a group: of a step, and of a reference that was computed before the first one."""
    return step(run) / case.batch + run["reference"] / (case.batch * case.steps) / EPOCHS


def utilisation(run: dict[str, Any], case: Case) -> float:
    """Floating-point operations that our step needs, a second, over those of a large matrix product on this machine."""
    return 3 * case.batch * operations(case) / step(run) / run["rate"]


def operations(case: Case) -> float:
    """Of one forward pass over a group: linear layers, attention over what tokens see, and the head.

    Training takes three times as many; what is computed again in the backward pass does not count as needed.
    """
    size = MODELS[case.model]
    width, inner, layers = size["hidden_size"], size["intermediate_size"], size["num_hidden_layers"]
    tokens, wanted = case.prompt + case.k * case.response, case.k * (case.response if case.policy else 1)
    linear = 2 * tokens * layers * (4 * width**2 + 3 * width * inner)
    linear -= 2 * (tokens - wanted) * 3 * width * inner  # the last layer
    seen = case.prompt**2 / 2 + case.k * case.response * (case.prompt + case.response / 2)
    head = 2 * size["vocab_size"] * width * wanted if case.policy else 0
    return linear + 4 * width * layers * seen + head


def growth() -> list[dict[str, float]]:
    """Seconds of our step by tokens, at lengths of 192 and 64."""
    found = []
    for batch in GROWTH:
        case = Case("dpo", "7M", 192, 64, batch=batch, steps=4)
        found.append({"tokens": batch * (192 + 2 * 64), "seconds": step(run("ours", case))})
        print(f"  {found[-1]['tokens']} tokens: {found[-1]['seconds']:.3f} s", flush=True)
    return found


# ---- the page ------------------------------------------------------------------------------------------------
def write(found: dict[str, Any]) -> None:
    """The three files."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "speed.json").write_text(json.dumps(found, indent=1) + "\n")
    (OUT / "speed.md").write_text(page(found))
    plot(found["rows"])


def page(found: dict[str, Any]) -> str:
    """The table, and what it says of growth, utilisation and dispatch."""
    where = found["machine"]
    lines = [
        "# Speed beside stock TRL 1.16",
        "",
        f"By `make bench-speed` on {where['cores']} cores ({where['cpu']}), no GPU: Llamas of random weights, all "
        "of them trained, eight groups a step (four of the larger model and of rankings), the same rows in the "
        "same order, equal losses at every step. A ratio is groups/s over TRL's, the median of "
        f"{min((row['runs'] for row in found['rows']), default=0)} alternating runs or more with the least and the "
        "most; memory is what building and training took at its peak, over TRL's.",
        "",
        "| what | prompt + response | ratio | aim | memory | aim | groups/s | TRL's | of the matrix rate |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *map(line, found["rows"]),
        "",
        *remarks(found),
    ]
    return "\n".join(lines) + "\n"


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    faster, smaller = AIMS.get((row["work"], row["prompt"]), (None, None))
    aims = [f">= {faster:g}" if faster else "", f"<= {smaller:g}" if smaller else ""]
    lengths = f"{row['prompt']} + {row['k']} x {row['response']}, {row['model']}"
    ratio = f"**{row['ratio']:.2f}** ({row['low']:.2f} to {row['high']:.2f})"
    rates = f"{row['groups_per_second']:.2f} | {row['stock_groups_per_second']:.2f}"
    return (
        f"| {row['name']} | {lengths} | {ratio} | {aims[0]} | {row['memory_ratio']:.2f} | {aims[1]} | {rates} | "
        f"{row['utilisation']:.0%} |"
    )


def remarks(found: dict[str, Any]) -> list[str]:
    """What the table does not show."""
    said = []
    if found["rows"]:
        most = max(row["dispatch"] for row in found["rows"])
        said.append(
            f"- The guarded call of a loss component costs at most {most:.2%} of a step more than the bare one."
        )
    if len(found["growth"]) > 2:
        tokens, spent = ([point[key] for point in found["growth"]] for key in ("tokens", "seconds"))
        slope, start = np.polyfit(tokens, spent, 1)
        fit = float(np.corrcoef(tokens, spent)[0, 1] ** 2)
        said.append(
            f"- A step of ours takes {start:.2f} s + {slope * 1000:.3f} s for every 1000 tokens, from {tokens[0]} to "
            f"{tokens[-1]} tokens (R^2 {fit:.4f}): what a batch costs grows with its tokens, not with their square."
        )
    said.append(
        "- The last column is the operations that a step needs, over the rate of torch's own product of 2048 x 2048 "
        "float32 matrices, measured in the same process; on AMD processors ours are faster than that. The rest goes "
        "to what is no matrix product: norms, rotations, activations, softmax and the optimizer, each a pass over "
        "memory; small models have most of it."
    )
    return said


def plot(rows: Sequence[dict[str, Any]]) -> None:
    """The ratios as bars, with what we aim at."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(rows) + 1.2), layout="constrained")
    ratios = [row["ratio"] for row in rows]
    spread = [[row["ratio"] - row["low"] for row in rows], [row["high"] - row["ratio"] for row in rows]]
    axes.barh(range(len(rows)), ratios, xerr=spread, color="#4c72b0", ecolor="#222222", capsize=2)
    aims = [(i, AIMS.get((row["work"], row["prompt"]), (None,))[0]) for i, row in enumerate(rows)]
    marks = [(aim, i) for i, aim in aims if aim is not None]
    axes.scatter(
        [aim for aim, _ in marks], [i for _, i in marks], marker="|", s=220, color="#c44e52", zorder=3, label="aim"
    )
    axes.axvline(1, color="#222222", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("groups/s, as a multiple of stock TRL 1.16 (2 CPU cores)")
    axes.legend(loc="lower right")
    figure.savefig(OUT / "speed.png", dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
