"""Kills runs of all trainings N times by SIGKILL, lets them go on, and compares what they leave with undisturbed runs.

    python benchmarks/kills.py 200

Each run is a chain of all stages that train, on a tiny model with a checkpoint at every optimizer step, and is killed
ten times at random moments. Files are compared as `rlhf resume-check` does.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import IO

from rlhf_plugins.run.resume_check import resume_check

PER_RUN = 10
RECIPE = """\
base: {folder}/base
adapter: {{r: 2}}
data: {{format: preference, source: {folder}/pairs.jsonl}}
stages:
  - {{stage: sft, trainer: {pairs}}}
  - {{stage: reward_model, sampler: hard_mining, trainer: {pairs}}}
  - {{stage: reward_ensemble, members: 2, trainer: {pairs}}}
  - {{stage: preference, trainer: {pairs}}}
  - {{stage: online, name: ppo, shaping: [running, missing_eos], kl: {{adapt: {{target: 0.5}}}}, trainer: {rollouts}}}
  - {{stage: online, name: grpo, advantage: grpo, kl: in_loss, trainer: {rollouts}}}
  - {{stage: evaluate, prompts: 4, best_of: 2, max_new_tokens: 4}}
"""
PAIRS = {"max_steps": 12, "logging_steps": 2, "per_device_train_batch_size": 4}
ROLLOUTS = {**PAIRS, "per_device_train_batch_size": 8, "num_generations": 4, "num_iterations": 2}


class Fork:
    """A run in a fork of this process, which has imported the libraries."""

    def __init__(self, words: Sequence[str], log: IO[bytes]) -> None:
        self.returncode: int | None = None
        self._pid = os.fork()
        if not self._pid:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            os._exit(_main(words))

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send(self, number: int) -> None:
        """Sends it a signal."""
        os.kill(self._pid, number)

    def kill(self) -> None:
        """Ends it at once."""
        self.send(signal.SIGKILL)

    def wait(self) -> None:
        """Waits for its end."""
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def _main(words: Sequence[str]) -> int:
    from rlhf_plugins.cli import main

    sys.argv = ["rlhf", "run", *words]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def prepare(folder: Path) -> Path:
    """A tiny model, rows and the recipe; returns the recipe's file."""
    from rlhf_plugins.testing import tiny_base

    tiny_base(folder / "base")
    rows = [{"prompt": f"p{i} how ", "chosen": "ant bee" if i % 2 else "ant", "rejected": "gas"} for i in range(60)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs, rollouts = (json.dumps(options) for options in (PAIRS, ROLLOUTS))
    recipe = folder / "kills.yaml"
    recipe.write_text(RECIPE.format(folder=folder, pairs=pairs, rollouts=rollouts))
    return recipe


def imported() -> None:
    """Imports what a fork then need not."""
    import trl.trainer.dpo_trainer
    import trl.trainer.grpo_trainer
    import trl.trainer.reward_trainer
    import trl.trainer.sft_trainer  # noqa: F401


def main(asked: int) -> int:
    """Prints where the kills fell and what differs. Returns the exit code."""
    imported()
    folder = Path(mkdtemp(prefix="kills-"))
    recipe, fell, wrong, runs = prepare(folder), Counter[str](), list[str](), 0
    while fell.total() < asked:
        kills = min(PER_RUN, asked - fell.total())
        found = resume_check(recipe, (), kills, seed=runs, say=lambda _: None, start=Fork)
        fell.update(found.killed_in)
        wrong += [f"run {runs}: {sentence} (in {found.folder})" for sentence in found.differences]
        runs += 1
        print(f"{fell.total()} kills in {runs} runs: {len(wrong)} differences", flush=True)
        if not found.differences:
            shutil.rmtree(found.folder)
    print("\n".join([*(f"{count:>4} in {stage}" for stage, count in fell.items()), *wrong]))
    shutil.rmtree(folder)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
