"""Times PPO against TRL 1.12, the last release that had it, and writes docs/benchmarks/ppo_speed.md and .json.

    python benchmarks/ppo_speed.py [--repeats 3] [--quick]

TRL 1.12 runs in an environment of its own, `build/trl_1.12`, which is made if missing. Both sides train the same random
Llama on the same prompts, one response to each, with the same number of epochs and updates; runs alternate, and the
table has medians. The clock runs from the end of the first batch of episodes, so that neither start-up counts. What
transformers and PEFT import wherever they find it (scipy, bitsandbytes) is installed on both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from rlhf_plugins.contract.rows import Data, Samples
from rlhf_plugins.contract.run import Adapter, Base, Run, StageResult
from rlhf_plugins.contract.run_kinds import Reward, RewardFunction

ROOT = Path(__file__).parents[1]
OUT, WORK, PEER = ROOT / "docs" / "benchmarks", ROOT / "build" / "ppo_speed", ROOT / "build" / "trl_1.12"
PEER_NEEDS = ("torch==2.13.0", "trl==1.12.0", "transformers==5.23.0", "peft==0.21.2", "rich")
IMPORTED = ("scipy==1.17.1", "bitsandbytes==0.50.2")  # by transformers and PEFT where they are installed
VOCABULARY, PROMPT, RESPONSE, BATCH, EPOCHS, RANK = 4096, 64, 64, 16, 4, 16
PART = 4  # episodes that a training pass holds at once, where it does not hold the batch
SIDES: dict[str, dict[str, Any]] = {
    "rlhf_plugins, LoRA": {"adapter": True},
    "TRL 1.12, LoRA": {"adapter": True},
    "rlhf_plugins, all weights": {"adapter": False},
    "TRL 1.12, all weights": {"adapter": False},
    f"rlhf_plugins, all weights, {PART} at once": {"adapter": False, "part": PART},
    f"TRL 1.12, all weights, {PART} at once": {"adapter": False, "part": PART},
}
TARGETS: tuple[tuple[str, str, float | None, float | None], ...] = (  # ours, theirs, speed at least, memory at most
    ("rlhf_plugins, LoRA", "TRL 1.12, all weights", 2.5, 0.5),
    ("rlhf_plugins, LoRA", "TRL 1.12, LoRA", None, None),
    ("rlhf_plugins, all weights", "TRL 1.12, all weights", 2.0, 0.5),
    (f"rlhf_plugins, all weights, {PART} at once", "TRL 1.12, all weights", 2.0, 0.5),
    (f"rlhf_plugins, all weights, {PART} at once", f"TRL 1.12, all weights, {PART} at once", None, None),
)


def main() -> None:
    """Parses the command line; without `--one` times everything and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two batches, once: to see that it runs")
    parser.add_argument("--one", metavar="OPTIONS", help="one run of ours, as the script calls itself")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(ours(json.loads(options.one))))
        return
    prepare()
    batches, repeats = (3, 1) if options.quick else (5, options.repeats)
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for repeat in range(repeats):
        for side, chosen in SIDES.items():
            runs[side].append(timed(side, settings(chosen, batches, repeat)))
            print(f"{repeat + 1}/{repeats} {side}: {summary(runs[side][-1])}", flush=True)
    if not options.quick:
        OUT.mkdir(parents=True, exist_ok=True)
        rows = {side: row(found) for side, found in runs.items()}
        (OUT / "ppo_speed.json").write_text(
            json.dumps({"machine": machine(), "runs": runs, "rows": rows}, indent=1) + "\n"
        )
        (OUT / "ppo_speed.md").write_text(page(rows))


def summary(run: dict[str, Any]) -> str:
    """One run in words."""
    return f"{median(run['seconds']):.2f} s a batch, {run['peak'] / 2**30:.2f} GiB"


def settings(chosen: dict[str, Any], batches: int, seed: int) -> dict[str, Any]:
    """The options that both sides get."""
    sizes = {"batch": BATCH, "batches": batches, "epochs": EPOCHS, "response": RESPONSE, "rank": RANK}
    return {"part": BATCH, **chosen, **sizes, "seed": seed, "learning_rate": 3e-6}


def timed(side: str, options: dict[str, Any]) -> dict[str, Any]:
    """One run in a process of its own."""
    arguments = [json.dumps(options)]
    if side.startswith("TRL"):
        command = [str(PEER / "bin" / "python"), str(ROOT / "benchmarks" / "ppo_speed_trl.py"), str(WORK), *arguments]
    else:
        command = [sys.executable, __file__, "--one", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    expected = options["batches"] * options["epochs"]
    if found["updates"] != expected:
        raise SystemExit(f"{side} made {found['updates']} updates, not {expected}")
    return found


# ---- our side --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Watch:
    """A reward, and when it was asked, which is once a batch."""

    reward: Reward
    times: list[float]

    def build(self, run: Run) -> RewardFunction:
        """The reward's own function, watched."""
        score = self.reward.build(run)

        def watched(samples: Samples) -> Any:
            self.times.append(time.perf_counter())
            return score(samples)

        return watched


def ours(options: dict[str, Any]) -> dict[str, Any]:
    """One run of the online stage: seconds of each batch but the first, the peak of memory, the updates it made."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from rlhf_plugins.recipe.assemble import component
    from rlhf_plugins.run.stage.stage_run import StageRun

    import_module("rlhf_plugins.trainers.online.trainer")  # which the stage would import when it runs
    before, updates = peak(), [0]
    register_optimizer_step_post_hook(lambda *_: updates.append(1))
    base = Base(str(WORK / "base"), adapter=Adapter(r=RANK) if options["adapter"] else None)
    model = WORK / ("judge_lora" if options["adapter"] else "judge_full")
    judge = StageResult(rewards={"reward": {"use": "saved", "path": str(model)}})
    data = Data((), (), {"train": tuple(json.loads((WORK / "prompts.json").read_text()))})
    watch = Watch(component("reward", "model"), [])
    words = {"trainer": trainer(options), "tokens_per_batch": options["part"] * (PROMPT + RESPONSE)}
    stage = replace(component("stage", {"use": "online", **words}), reward=watch)
    folder = WORK / "ours"
    folder.mkdir(exist_ok=True)
    stage.run(StageRun(base, data, options["seed"], folder, (judge,)))
    return {"seconds": intervals(watch.times), "peak": peak(), "before": before, "updates": sum(updates)}


def trainer(options: dict[str, Any]) -> dict[str, Any]:
    """One response to each prompt, always of full length, and one update an epoch."""
    return {
        "per_device_train_batch_size": options["batch"],
        "num_generations": options.get("group", 1),
        "steps_per_generation": 1,
        "num_iterations": options["epochs"],
        "max_completion_length": options["response"],
        "max_steps": options["batches"] * options["epochs"],
        "learning_rate": options["learning_rate"],
        "generation_kwargs": {"min_new_tokens": options["response"]},
        "disable_tqdm": True,
    }


def intervals(times: Sequence[float]) -> list[float]:
    """Seconds from each moment to the next."""
    return [after - start for start, after in zip(times, times[1:], strict=False)]


def peak() -> int:
    """Bytes of the process's largest resident set so far, as Linux has it; `resource` would begin at its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


# ---- what both sides are given ---------------------------------------------------------------------------
def prepare() -> None:
    """Writes the model, the reward models of both sides and the prompts, and installs TRL 1.12 beside us."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    if not (PEER / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
    subprocess.run([str(PEER / "bin" / "python"), "-m", "pip", "install", "-q", *PEER_NEEDS, *IMPORTED], check=True)
    torch.manual_seed(0)
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=VOCABULARY, **sizes, tie_word_embeddings=True, num_labels=1, **ends)
    words = tokenizer()
    for folder, model in (("base", LlamaForCausalLM(config)), ("reward", LlamaForSequenceClassification(config))):
        model.save_pretrained(WORK / folder)
        words.save_pretrained(WORK / folder)
    draw = random.Random(0)
    prompts = [" ".join(f"w{draw.randrange(2, VOCABULARY)}" for _ in range(PROMPT)) for _ in range(16 * BATCH)]
    (WORK / "prompts.json").write_text(json.dumps(prompts))
    judges()


def tokenizer() -> Any:
    """A word a token: w2, w3 and so on, beside padding and the end of a response."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, VOCABULARY)}}
    plain = Tokenizer(models.WordLevel(words, unk_token="w2"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>")


def judges() -> None:
    """Our reward models with random weights: one that is an adapter of the base, one that is a model of its own."""
    from rlhf_plugins.engine.weights.loading import load_trunk, with_adapter
    from rlhf_plugins.recipe.assemble import component
    from rlhf_plugins.reward_models.reward_model import RewardModel

    for name, adapter in (("judge_lora", Adapter(r=RANK)), ("judge_full", None)):
        trunk = with_adapter(load_trunk(Base(str(WORK / "base"))), adapter, "FEATURE_EXTRACTION")
        model = RewardModel(trunk, component("pooling", "last_token"), component("reward_head", "scalar"))
        described = {"path": str(WORK / "base"), "adapter": asdict(adapter) if adapter else None}
        model.save(WORK / name, {"base": described, "pooling": {"use": "last_token"}, "head": {"use": "scalar"}})


# ---- the page --------------------------------------------------------------------------------------------
def row(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Medians over the runs of one side."""
    return {
        "episodes_per_second": BATCH / median(second for run in runs for second in run["seconds"]),
        "peak_gib": median(run["peak"] for run in runs) / 2**30,
        "over_imports_gib": median(run["peak"] - run["before"] for run in runs) / 2**30,
        "updates": runs[0]["updates"],
    }


def machine() -> dict[str, Any]:
    """Where the numbers were taken."""
    from rlhf_plugins.report.machine import hardware

    return hardware().model_dump()


def page(rows: dict[str, dict[str, float]]) -> str:
    """The table and how the numbers stand to what we aim at."""
    where = machine()
    lines = [
        "# PPO beside TRL 1.12",
        "",
        f"By `python benchmarks/ppo_speed.py` on {where['cores']} cores ({where['cpu']}): a Llama of 7M random weights "
        f"in float32, prompts of {PROMPT} and responses of {RESPONSE} tokens, {BATCH} episodes a batch, {EPOCHS} "
        "epochs of one update each; medians of runs that alternate. Episodes/s leave the first batch out. Where "
        f"{PART} episodes are in a training pass at once (`tokens_per_batch`; TRL's `gradient_accumulation_steps`), "
        "updates are still of the whole batch. What transformers and PEFT import wherever they find it is installed on "
        "both sides.",
        "",
        "| | episodes/s | peak memory, GiB | of it over the imports, GiB |",
        "| --- | --- | --- | --- |",
        *(line(side, found) for side, found in rows.items()),
        "",
        *(verdict(rows, target) for target in TARGETS),
    ]
    return "\n".join(lines) + "\n"


def line(side: str, found: dict[str, float]) -> str:
    """One row of the table."""
    return (
        f"| {side} | {found['episodes_per_second']:.2f} | {found['peak_gib']:.2f} | {found['over_imports_gib']:.2f} |"
    )


def verdict(rows: dict[str, dict[str, float]], target: tuple[str, str, float | None, float | None]) -> str:
    """A ratio, and what we aim at."""
    mine, theirs, faster, smaller = rows[target[0]], rows[target[1]], target[2], target[3]
    speed = mine["episodes_per_second"] / theirs["episodes_per_second"]
    memory, over = (mine[key] / theirs[key] for key in ("peak_gib", "over_imports_gib"))
    shown = [f"at least {faster}x" if faster else "", f"at most {smaller}x" if smaller else ""]
    aims = f" (aim: {', and '.join(filter(None, shown))})" if any(shown) else ""
    held = f"{memory:.2f}x the peak memory, {over:.2f}x of it over the imports"
    return f"- {target[0]} against {target[1]}: {speed:.2f}x the episodes/s, {held}{aims}."


if __name__ == "__main__":
    main()
