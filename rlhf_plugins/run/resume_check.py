"""Runs a recipe twice, once undisturbed and once killed again and again, and compares what the two leave."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from rlhf_plugins.data.file_names import STATUS
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.members import SEEDS, SWEEP
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.run.files.sameness import differences

BEGUN = b": running"  # printed once the first stage begins
AFTER_STAGES = "the report"  # is written once the last stage is finished, when the status names none
PAUSE = 0.02  # seconds
TRIES = 4  # to kill a run before it ends, each after half of the time of the last one


@dataclass(frozen=True)
class Checked:
    """What came of a check."""

    killed_in: list[str]  # the stage of each kill; AFTER_STAGES where all were finished
    differences: list[str]
    folder: Path  # with both runs, `whole` and `killed`


class Process(Protocol):
    """A process as `subprocess.Popen` has it."""

    returncode: int

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        ...

    def kill(self) -> None:
        """Ends it at once."""
        ...

    def wait(self) -> Any:
        """Waits for its end."""
        ...


Start = Callable[[Sequence[str], IO[bytes]], Any]  # a Process


def _start(words: Sequence[str], log: IO[bytes]) -> Process:
    command = [sys.executable, "-m", "rlhf_plugins.cli", "run", *words]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


@dataclass(frozen=True)
class _Attempt:
    """A process that ran a recipe, or a part of it."""

    code: int
    begun: float  # seconds until its first stage began
    seconds: float


def resume_check(
    recipe: Path | str,
    overrides: Sequence[str],
    kills: int,
    seed: int = 0,
    say: Callable[[str], None] = print,
    start: Start = _start,
) -> Checked:
    """Compares a run that is ended by SIGKILL with one that is not.

    The kills are spread at random over the time that the undisturbed run takes from its first stage on.

    Args:
        recipe: the recipe as `run_recipe` takes it.
        overrides: as on the command line; without one of `checkpoint`, one is made at every optimizer step.
        kills: how many; fewer where the run ends before.
        seed: the seed of their times.
        say: prints a line of progress.
        start: begins `rlhf run` with these words, which prints to the file.

    Raises:
        RunError: the recipe fails by itself, means several trainings, or ended before it was killed.
    """
    from rlhf_plugins.recipe.check import several

    if several(recipe, overrides):
        raise RunError(f"a recipe with `{SEEDS}` or `{SWEEP}` is several trainings: add {SEEDS}=[] {SWEEP}={{}}")
    words = [*overrides]
    if not any(word.startswith("checkpoint") for word in words):
        words.append("checkpoint.every=1 steps")
    folder = Path(tempfile.mkdtemp(prefix="resume-check-"))
    place = folder / "run"  # the same for both, since files may name it
    command = [str(recipe), *words, f"output_dir={place}"]
    whole = _run(start, command, folder)
    say(f"undisturbed: finished in {whole.seconds:.0f} s")
    place.rename(folder / "whole")
    most, rng = 2 * (whole.seconds - whole.begun) / (kills + 1), random.Random(seed)
    for halvings in range(TRIES):
        after = [rng.uniform(0, most / 2**halvings) for _ in range(kills)]
        if killed_in := _killed(start, command, folder, after, say):
            place.rename(folder / "killed")
            return Checked(killed_in, differences(folder / "whole", folder / "killed"), folder)
        shutil.rmtree(place)
        say("the run ended before it was killed")
    raise RunError(f"the run ended before it was killed, {TRIES} times, so nothing was compared; train longer")


def _killed(
    start: Start, command: Sequence[str], folder: Path, after: Sequence[float], say: Callable[[str], None]
) -> list[str]:
    """Runs it to its end, killed so many seconds after each start; returns the stages in which it was killed."""
    place, killed_in, times = folder / "run", list[str](), iter(after)
    while True:
        again = ["--resume"] if (place / STATUS).exists() else []
        ends = _run(start, [*again, *command], folder, next(times, None))
        if ends.code == 0:
            return killed_in
        killed_in.append(RunFolder(place).status().get("stage") or AFTER_STAGES)
        say(f"kill {len(killed_in)} in {killed_in[-1]}, after {ends.seconds:.0f} s")


def _run(start: Start, words: Sequence[str], folder: Path, kill_after: float | None = None) -> _Attempt:
    """Runs it, and kills it so many seconds after its first stage began. Raises RunError where it fails by itself."""
    log = folder / "log.txt"
    started, begun, killed = time.monotonic(), 0.0, False
    with log.open("wb") as out:
        process = start(words, out)
    while process.poll() is None:
        time.sleep(PAUSE)
        now = time.monotonic() - started
        begun = begun or (now if BEGUN in log.read_bytes() else 0.0)
        if kill_after is not None and begun and now - begun >= kill_after:
            process.kill()
            process.wait()
            killed = True
    if process.returncode not in ((0, -signal.SIGKILL) if killed else (0,)):
        raise RunError(f"the recipe ended with exit code {process.returncode}; what it printed is in {log}")
    return _Attempt(process.returncode, begun, time.monotonic() - started)
