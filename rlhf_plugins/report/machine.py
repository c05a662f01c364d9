"""What a run ran on: package versions and hardware, found without importing a framework."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from rlhf_plugins.report.schema import Hardware

_DISTRIBUTIONS = (
    "rlhf-plugins",
    "torch",
    "trl",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "scikit-learn",
    "pluggy",
    "pydantic",
)


def versions() -> dict[str, str]:
    """Python and those of the packages that decide a run's numbers, by name; absent ones left out."""
    return {"python": platform.python_version()} | {
        name: found for name in _DISTRIBUTIONS if (found := _version(name)) is not None
    }


def hardware(gpu: str | None = None) -> Hardware:
    """This machine; `cores` are those that this process may use. The caller, who has torch, names the GPU."""
    return Hardware(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        platform=platform.platform(),
        gpu=gpu,
    )


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    """The CPU's model name, which Linux gives only in /proc, and not on every architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine() or "unknown"
