"""Starts a recipe in several processes with accelerate's own launcher, and names the one that failed."""

from __future__ import annotations

import logging
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rlhf_plugins.contract.zero import asked_of_zero
from rlhf_plugins.errors import RunError
from rlhf_plugins.run.stop import Ended

MODULE = "rlhf_plugins.cli"
ON_CPUS = (
    "accelerate starts several processes on CPUs through MPI alone; write `distributed_type: MULTI_GPU` and no "
    "`use_cpu`, which starts gloo processes where there is no GPU"
)


def launch(config: Path, words: Sequence[str]) -> int:
    """`accelerate launch --config_file CONFIG -m rlhf_plugins.cli WORDS`; returns the exit code.

    Args:
        config: accelerate's, as `accelerate config` writes it.
        words: the command line of `rlhf` that every process runs.

    Raises:
        RunError: the configuration cannot be read, starts no processes that a recipe trains in, or a signal ended one
            of them.
        Ended: a signal came, which ended all of them.
    """
    refuse(config)
    from accelerate.commands.launch import launch_command, launch_command_parser  # type: ignore[import-untyped]
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it prints what is said here again
    asked = launch_command_parser().parse_args(["--config_file", str(config), "-m", MODULE, *words])
    try:
        launch_command(asked)
    except ChildFailedError as error:
        place, failure = error.get_first_failure()
        if failure.exitcode >= 0:  # it has said why
            return int(failure.exitcode)
        name = signal.Signals(-failure.exitcode).name
        raise RunError(
            f"process {place} (pid {failure.pid}) was ended by {name}, and the others stopped; go on with --resume"
        ) from error
    except SignalException as stop:
        raise Ended(f"interrupted by {stop.sigval.name}", stop.sigval) from stop
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    except (ConnectionError, ValueError) as error:
        raise RunError(f"{config}: accelerate does not launch: {error}") from error
    return 0


def refuse(config: Path) -> None:
    """Raises RunError for a configuration that cannot be read, or that starts what a recipe does not train in."""
    found = _read(config)
    kind = str(found.get("distributed_type", "NO"))
    if kind == "MEGATRON_LM":
        raise RunError(f"{config}: distributed_type: {kind}, with which no recipe was tried: write MULTI_GPU (DDP)")
    if kind == "DEEPSPEED":
        own = found.get("deepspeed_config") or {}
        asked_of_zero({**found, **own}, int(found.get("num_processes") or 1) > 1)
    fsdp = found.get("fsdp_config")
    if kind == "FSDP" and not (isinstance(fsdp, dict) and str(fsdp.get("fsdp_version")) == "2"):
        raise RunError(f"{config}: FSDP1, with which no recipe was tried: write `fsdp_version: 2` in fsdp_config")
    several = int(found.get("num_processes") or 1) > 1
    if several and (kind == "MULTI_CPU" or found.get("use_cpu")) and not found.get("mpirun_config"):
        raise RunError(f"{config}: {ON_CPUS}")
    if several and kind == "NO":
        raise RunError(f"{config}: num_processes: {found['num_processes']}, but distributed_type: NO starts one")


def _read(config: Path) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{config}: no configuration of accelerate: {error}; `accelerate config` writes one") from error
    if not isinstance(found, dict):
        raise RunError(f"{config}: no configuration of accelerate, which is a mapping; `accelerate config` writes one")
    return found
