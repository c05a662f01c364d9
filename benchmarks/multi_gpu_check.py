"""Checks a machine with several GPUs: do several processes train what one trains, and does a killed one stop the run?

    python benchmarks/multi_gpu_check.py [--processes N] [--steps 8] [--out FOLDER]

N is the number of GPUs here; without one, two gloo processes on the CPU, which is how it is rehearsed. On the sandbox:

    same     each stage with a batch in one process, and with N parts of it in N; losses, norms of gradients and weights
             are compared of those that sample nothing at random (not of `online`, whose weights are shown)
    shards   the same of the stages that train in shards (FSDP2), which accelerate makes on GPUs alone
    zero2    the same with the optimizer's state in parts, and
    zero3    with the weights too, where DeepSpeed is installed
    killed   one of N is killed in the middle of a stage: seconds until all have stopped, who was named, and resuming
    speed    seconds of each stage in one process and in N

The exit code is 1 where something is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from rlhf_plugins.report.machine import hardware, versions

CLOSE = {"cpu": 1e-3, "cuda": 2e-2}  # of losses and norms, relative: float32 is summed in another order
PER_PROCESS = 8  # rows
COMPARED = ("loss", "grad_norm")
MINUTE = 60.0
ALIKE = ("sft", "reward_model", "dpo", "ipo")  # stages that sample nothing at random
DIVIDED = (*ALIKE, "ppo")  # stages that train in shards, or with the optimizer in parts
FSDP2 = {
    "distributed_type": "FSDP",
    "mixed_precision": "no",
    "fsdp_config": {
        "fsdp_version": 2,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_cpu_ram_efficient_loading": False,
    },
}
ZERO = {"distributed_type": "DEEPSPEED", "mixed_precision": "no"}
NAMES = re.compile(r"process \d+ \(pid \d+")


def recipe(batch: int, steps: int) -> dict[str, Any]:
    """Every stage that trains, whose rows and start do not depend on how many processes there are."""
    trainer = {
        "max_steps": steps,
        "logging_steps": 1,
        "per_device_train_batch_size": batch,
        "bf16": False,
        "optim": "sgd",
        "learning_rate": 0.05,
    }
    stages: list[dict[str, Any]] = [
        {"stage": "sft", "trainer": trainer},
        {"stage": "reward_model", "from": "base", "trainer": trainer},
        {"stage": "preference", "name": "dpo", "from": "base", "trainer": trainer},
        {"stage": "preference", "name": "ipo", "from": "base", "loss": "ipo", "trainer": trainer},
    ]
    rollouts = {**trainer, "max_completion_length": 16, "num_generations": 2}
    stages.append({"stage": "online", "name": "ppo", "from": "base", "trainer": rollouts})
    stages.append({"stage": "evaluate", "prompts": 8, "max_new_tokens": 16, "best_of": 2, "ceiling": 2})
    data = {"format": "sandbox", "prompts": 128, "responses": 2, "pairs": 1}
    return {"base": "sandbox", "adapter": {"r": 4}, "data": data, "checkpoint": {"every": "1 steps"}, "stages": stages}


def main() -> None:
    """Runs all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=max(2, torch.cuda.device_count()))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "build/multi_gpu_check")))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, value in {**hardware(_card()).model_dump(), **versions(), "processes": options.processes}.items():
        print(f"{name}: {value}")
    config = options.out / "accelerate.yaml"
    config.write_text(yaml.safe_dump({"distributed_type": "MULTI_GPU", "num_processes": options.processes}))
    faults = [
        *_same(options.out, config, options.processes, options.steps),
        *_divided(options.out, options.processes, options.steps),
        *_killed(options.out, config, options.steps),
    ]
    print("\n".join(faults) or "all as it should be")
    raise SystemExit(bool(faults))


def _card() -> str | None:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _same(out: Path, config: Path, count: int, steps: int) -> Iterator[str]:
    """What differs between one process and several."""
    one, several = _written(out / "one", PER_PROCESS * count, steps), _written(out / "several", PER_PROCESS, steps)
    for folder, words in ((one, []), (several, ["--launch", str(config.resolve())])):
        done = _run(folder, *words)
        if done.returncode:
            yield f"{folder.name}: exit code {done.returncode}: {done.stderr[-2000:]}"
            return
    yield from _differences(one, several, ALIKE)
    for name, (alone, together) in _seconds(one, several).items():
        print(f"{name}: {alone:.1f} s in one process, {together:.1f} s in {count}")


def _divided(out: Path, count: int, steps: int) -> Iterator[str]:
    """What differs between one process, which `_same` ran, and several that hold shards, or parts of the optimizer."""
    ways: list[tuple[str, Mapping[str, Any], Collection[str]]] = []
    if torch.cuda.is_available():
        ways.append(("shards", FSDP2, DIVIDED))
    if find_spec("deepspeed"):
        ways += [(f"zero{stage}", {**ZERO, "deepspeed_config": {"zero_stage": stage}}, DIVIDED) for stage in (2, 3)]
    for name, config, stages in ways:
        file, folder = out / f"{name}.yaml", _written(out / name, PER_PROCESS, steps, only=stages)
        file.write_text(yaml.safe_dump({**config, "num_processes": count}))
        done = _run(folder, "--launch", str(file.resolve()))
        if done.returncode:
            yield f"{name}: exit code {done.returncode}: {done.stderr[-2000:]}"
            continue
        compared = [stage for stage in stages if stage in ALIKE]
        yield from _differences(out / "one", folder, compared)
        print(f"{name}: {', '.join(compared)} are compared with one process")


def _differences(one: Path, several: Path, stages: Collection[str]) -> Iterator[str]:
    """The numbers that stages logged in one process and not in several, and the weights that they left."""
    close, theirs = _close(), _logged(several)
    found = _weights(one, several)
    for name, far in found.items():
        print(f"{several.name}: {name}: weights differ by {far:.1e} of the largest")
    for name in stages:
        if not found.get(name, math.inf) <= close:
            yield f"{several.name}: {name}: weights differ, by {found.get(name, math.inf):.1e} of the largest"
    for key, value in _logged(one).items():
        other = theirs.get(key)
        if key[0] in stages and (other is None or abs(other - value) > close * max(abs(value), 1e-3)):
            yield f"{several.name}: {key}: {value} in one process, {other} in several"


DIES = """\
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from rlhf_plugins import Monitor, hookimpl

@dataclass(frozen=True)
class Dies(Monitor):
    def build(self, run):
        killed = Path("killed")
        def watch(step):
            if os.environ["RANK"] == "1" and step.step == 3 and not killed.exists():
                killed.write_text(str(time.time()))
                os.kill(os.getpid(), signal.SIGKILL)
        return watch

@hookimpl
def register_monitor():
    return {"dies": Dies}
"""


def _killed(out: Path, config: Path, steps: int) -> Iterator[str]:
    """What is wrong after one of the processes is killed in its third step, and after the run has gone on."""
    folder = _written(out / "killed", PER_PROCESS, steps, dies=True)
    (folder / "dies.py").write_text(DIES)
    (folder / "killed").unlink(missing_ok=True)
    launched = ("--launch", str(config.resolve()))
    done = _run(folder, *launched)
    taken = time.time() - float((folder / "killed").read_text())
    named = NAMES.search(done.stdout + done.stderr)
    print(f"killed: all stopped after {taken:.1f} s, and {named[0] + ')' if named else 'nobody'} was named")
    if not done.returncode or taken > MINUTE or not named:
        yield f"killed: exit code {done.returncode} after {taken:.1f} s: {done.stderr[-2000:]}"
        return
    again = _run(folder, *launched, "--resume")
    if again.returncode:
        yield f"killed: it does not go on: {again.stderr[-2000:]}"
        return
    close, whole = _close(), _logged(out / "several")
    for key, value in _logged(folder).items():
        if abs(whole[key] - value) > close * max(abs(value), 1e-3):
            yield f"killed: {key} is {value} after it went on, and {whole[key]} undisturbed"


def _written(folder: Path, batch: int, steps: int, dies: bool = False, only: Collection[str] = ()) -> Path:
    """A folder with the recipe, or some of its stages, and without an earlier run."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = {**recipe(batch, steps), "output_dir": "runs/r"}
    if only:
        made["stages"] = [stage for stage in made["stages"] if stage.get("name", stage["stage"]) in only]
    if dies:
        made["plugins"] = ["dies.py"]
        made["stages"][1]["monitors"] = ["dies"]
    (folder / "r.yaml").write_text(yaml.safe_dump(made))
    return folder


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlhf_plugins.cli", "run", "r.yaml", *words]
    environment = os.environ if torch.cuda.is_available() else {**os.environ, "DS_ACCELERATOR": "cpu"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _close() -> float:
    return CLOSE["cuda" if torch.cuda.is_available() else "cpu"]


def _logged(folder: Path) -> dict[tuple[str, int, str], float]:
    rows = (json.loads(line) for line in (folder / "runs/r/metrics.jsonl").read_text().splitlines())
    return {(row["stage"], row["step"], name): row[name] for row in rows for name in COMPARED if name in row}


def _weights(one: Path, several: Path) -> dict[str, float]:
    """By how much of the largest weight any weight of a stage differs, where both have its files."""
    found: dict[str, float] = {}
    for file in sorted(one.glob("runs/r/*/model/*.safetensors")):
        if not (other := several / file.relative_to(one)).exists():
            continue
        ours, theirs = load_file(file), load_file(other)
        largest = max(float(each.abs().max()) for each in ours.values())
        far = max(float((theirs[name] - ours[name]).abs().max()) for name in ours) / largest
        stage = file.parts[-3].partition("-")[2]
        found[stage] = max(far, found.get(stage, 0.0))
    return found


def _seconds(one: Path, several: Path) -> dict[str, tuple[float, float]]:
    def taken(file: Path) -> float:
        return float(json.loads(file.read_text())["cost"]["seconds"])

    files = sorted(one.glob("runs/r/*/result.json"))
    return {file.parent.name: (taken(file), taken(several / file.relative_to(one))) for file in files}


if __name__ == "__main__":
    main()
