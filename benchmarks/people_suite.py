"""Compares PPO, DPO and IPO on people's own pairs by a judge of other pairs: docs/benchmarks/suite_people.md and .json.

    python benchmarks/people_suite.py FILE [--jobs 2] [--quick]

FILE holds pairs with the columns prompt, chosen, rejected, as gzipped JSON lines. The base is the one of people.py, for
which nothing is downloaded: read the differences, not how good the policies are. `people_suite.yaml` beside this script
is the suite; a run that has finished is not run again. --quick writes no page.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from people import OUT, ROOT, write_base

from rlhf_plugins.contract.run import Base
from rlhf_plugins.recipe.assemble import component

WORK = Path("runs/people_suite")  # as the suite names it, from ROOT


def main() -> None:
    """Makes the base, runs the suite and copies its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if not options.file.name.endswith(".jsonl.gz") or not options.file.is_file():
        parser.error(f"{options.file}: no file of gzipped JSON lines, .jsonl.gz")
    prepare(options.file)
    words = ["bench", "benchmarks/people_suite.yaml", "--jobs", str(options.jobs), *["--quick"] * options.quick]
    subprocess.run([sys.executable, "-m", "rlhf_plugins.cli", *words], cwd=ROOT, check=True)
    for ending in [] if options.quick else ["md", "json"]:
        shutil.copy(ROOT / f"runs/bench/people_suite/bench.{ending}", OUT / f"suite_people.{ending}")


def prepare(file: Path) -> None:
    """The rows, and a base whose tokenizer has seen their training split alone; other rows get another one."""
    rows = ROOT / WORK / "pairs.jsonl.gz"
    if rows.is_file() and rows.read_bytes() == file.read_bytes():
        return
    rows.unlink(missing_ok=True)
    data = component("data_format", {"use": "preference", "source": str(file)}).load(Base(""), 0)
    write_base(ROOT / WORK / "base", data)
    shutil.copy(file, rows)  # last: they say that the base is there


if __name__ == "__main__":
    main()
