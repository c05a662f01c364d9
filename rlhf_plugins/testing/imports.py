"""Imports the modules of a distribution in a process of its own, and tells what each cost and changed there."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

SECONDS = 0.2  # of processor time, beyond what every run has loaded anyway
HOPELESS = 10 * SECONDS  # which no busy machine explains
SCRIPT = """
import importlib, importlib.util, json, logging, os, random, sys, time, warnings
import numpy, pydantic, scipy.optimize, scipy.stats, torch
import rlhf_plugins.recipe.assemble  # every run has read a recipe

def state():
    return {
        "torch's random state": torch.get_rng_state().tolist(),
        "NumPy's random state": [numpy.asarray(part).tolist() for part in numpy.random.get_state()],
        "Python's random state": repr(random.getstate()),
        "torch's default dtype": str(torch.get_default_dtype()),
        "torch's default device": str(torch.get_default_device()),
        "torch's number of threads": torch.get_num_threads(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "NumPy's error handling": numpy.geterr(),
        "the environment": dict(os.environ),
        "the root logger": [logging.root.level, logging.root.disabled, logging.root.manager.disable,
                            len(logging.root.handlers)],
        "the warning filters": [repr(each) for each in warnings.filters],
    }

def load(name, file):
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is not None and name != "__main__":
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location("under_test", file)
    module = sys.modules["under_test"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

found = {}
for name, file in json.loads(sys.argv[1]):
    before, began = state(), time.process_time()
    fault = None
    try:
        load(name, file)
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    seconds, after = time.process_time() - began, state()
    found[name] = {"seconds": seconds, "fault": fault, "changed": [k for k in before if before[k] != after[k]]}
print("\\n" + json.dumps(found))
"""


def imported(modules: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """For each module the processor `seconds`, the global state that it `changed`, and the `fault` where it failed.

    What took a little too long is tried once more, since a busy machine is slow at times.
    """
    found = _imported(modules)
    slow = tuple(name for name, each in found.items() if SECONDS < each["seconds"] < HOPELESS)
    again = _imported(slow) if slow and slow != modules else _again(slow)
    return {**found, **{name: min(found[name], each, key=lambda one: one["seconds"]) for name, each in again.items()}}


@cache
def _imported(modules: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    return _run(modules) if modules else {}


@cache
def _again(modules: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    return _run(modules) if modules else {}


def _run(modules: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    asked = json.dumps([(name, inspect.getsourcefile(sys.modules[name])) for name in modules])
    environment = _at_start() | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result: dict[str, dict[str, Any]] = json.loads(_printed(["-c", SCRIPT, asked], environment).splitlines()[-1])
    return result


def _printed(words: list[str], environment: dict[str, str]) -> str:
    """What a new process prints."""
    command = [sys.executable, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def _at_start() -> dict[str, str]:
    """The environment when this process began, where the system tells: what is loaded already may have changed it."""
    started = Path("/proc/self/environ")
    if not started.exists():
        return dict(os.environ)
    pairs = [pair.partition(b"=") for pair in started.read_bytes().split(b"\0") if pair]
    kept = {name: os.environ[name] for name in ("HF_HUB_OFFLINE",) if name in os.environ}
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs} | kept
