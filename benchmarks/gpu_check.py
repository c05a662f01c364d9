"""Checks a machine that has a GPU: is all right there (run 1), how fast (2) and how large (3) is it?

    python benchmarks/gpu_check.py --run 1 [--out FOLDER] [--only SECTION ...] [--seconds 300]
    python benchmarks/gpu_check.py --run 2
    python benchmarks/gpu_check.py --run 3 [--shapes 4B 8B]
    python benchmarks/gpu_check.py --run 1 --device cpu --tiny      # rehearsal: does the script itself run?

One process; each section has a deadline, each result is written at once to FOLDER/gpu_run_N.json, and an exception is
recorded and passed over. Models have random weights, made on the device, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import gpu_memory
import gpu_right
import gpu_speed
import torch
from gpu_lab import Lab
from gpu_models import SHAPES

from rlhf_plugins.report.machine import hardware, versions

CARRY = """\
On a machine without a network that has torch, but not the rest, install wheels that were made elsewhere (25 MB):

    python -m pip wheel --no-deps --wheel-dir build/wheels .        # this package: a plain tree lacks its metadata
    python -m pip download --no-deps --dest build/wheels --only-binary :all: --constraint constraints.txt \\
        --python-version 3.12 --platform manylinux_2_24_x86_64 --platform manylinux_2_17_x86_64 \\
        transformers trl peft datasets pydantic pydantic_core fsspec multiprocess dill typing-inspection \\
        annotated-types pluggy bitsandbytes
    zip -d build/wheels/bitsandbytes*.whl '*cuda11*' '*cuda12*' '*cuda132*' '*rocm*' '*xpu*'    # keeps CUDA 13.0
    # there:
    python -m venv --system-site-packages /tmp/check
    /tmp/check/bin/python -m pip install --no-index --no-deps build/wheels/*.whl
    /tmp/check/bin/python benchmarks/gpu_check.py --run 1 --out "$OUT"
"""
RUNS: dict[int, dict[str, Any]] = {1: gpu_right.SECTIONS, 2: gpu_speed.SECTIONS, 3: gpu_memory.SECTIONS}


def main() -> None:
    """Parses the command line, prints the header and runs the sections of a run."""
    names = [name for sections in RUNS.values() for name in sections]
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=CARRY, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=int, choices=RUNS, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, to rehearse")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "build/gpu_check")))
    parser.add_argument("--seconds", type=float, default=300.0, help="when the run ends, whatever is left")
    parser.add_argument("--only", nargs="+", choices=names, help="some of the sections")
    parser.add_argument(
        "--shapes",
        nargs="+",
        choices=SHAPES,
        default=list(SHAPES)[1:],
        help="of the section memory; the first is that of all others",
    )
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here; a rehearsal is: --device cpu --tiny")
    began = time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    about = header(options)
    for name, value in about.items():
        print(f"{name}: {value}")
    print(CARRY)
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out / f"gpu_run_{options.run}.json"
        lab = Lab(options.device, options.tiny, Path(scratch), out, about)
        for section, (work, seconds) in RUNS[options.run].items():
            if not options.only or section in options.only:
                end = began + options.seconds
                lab.run(section, work, end if options.only else min(end, time.perf_counter() + seconds))
    wrong = [point for point in lab.points if "error" in point or point.get("ok") is False]
    print(f"{len(lab.points)} points in {time.perf_counter() - began:.0f} s, {len(wrong)} failed or wrong: {out}")
    raise SystemExit(bool(wrong))


def header(options: argparse.Namespace) -> dict[str, Any]:
    """The machine and the versions that the numbers belong to."""
    card: dict[str, Any] = {"card": None}
    if options.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        card = {
            "card": properties.name,
            "card_mib": properties.total_memory // 2**20,
            "capability": f"sm_{properties.major}{properties.minor}",
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
        }
    sizes = {"shape": "tiny" if options.tiny else options.shapes[0]}
    sizes["shapes"] = ["tiny"] if options.tiny else options.shapes
    where = hardware().model_dump(exclude={"gpu"})
    return {"date": time.strftime("%Y-%m-%d"), **card, **where, "versions": versions(), "run": options.run, **sizes}


def _driver() -> str | None:
    """The version of NVIDIA's driver, as Linux has it."""
    file = Path("/proc/driver/nvidia/version")
    return file.read_text(encoding="utf-8").splitlines()[0] if file.exists() else None


if __name__ == "__main__":
    main()
