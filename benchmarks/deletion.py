"""Deletes files of `components/` from a copy of the tree and sorts the failures of all tests there.

    python benchmarks/deletion.py [FILE[+FILE ...] ...]

FILE is a name such as `kl`; files with a + between them are deleted together. Without names: each file in turn. A
fault is a test that fails without asking for a deleted component by its name, or that did not run. Exit code 1 where
there is one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from compat import environment

from rlhf_plugins import registry

ROOT = Path(__file__).parents[1]
COMPONENTS = Path("rlhf_plugins/components")
LEFT_OUT = ("__pycache__", ".git", ".venv", ".hypothesis", ".*_cache", "runs", "build")
TESTS = ["-m", "pytest", "-m", "not slow", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
WHOLE_ERRORS = ["-vv", "-W", "ignore", "-o", "junit_logging=all", "-p", "printed"]
FOUND = ["-o", "junit_family=xunit1", "--junitxml", "found.xml"]
UNREAD = "a file that cannot be imported"
LISTS_ALL = {
    "tests/test_docs.py": "the pages of docs/components/ are compared with the registry",
    "tests/registry/test_trust.py": "a package registers a name of ours",
}
PRINTED = """
from typer.testing import CliRunner
invoke = CliRunner.invoke
def printed(*words, **options):
    result = invoke(*words, **options)
    print(result.output)
    return result
CliRunner.invoke = printed
"""
IMPORTED = """
import importlib, sys
from importlib.metadata import entry_points
for name in {"rlhf_plugins", *(each.module for each in entry_points(group="rlhf_plugins"))}:
    file = importlib.import_module(name).__file__
    assert file.startswith(sys.argv[1]), f"{name} is imported from {file}"
"""


class Failure(NamedTuple):
    """A test, or a file of tests, that failed, and the lines that say why."""

    file: str
    test: str
    error: str


def copied(folder: Path) -> tuple[Path, Path]:
    """A copy of the tree, and an interpreter for which it is what is installed, in every process."""
    copy = folder / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (copy / "printed.py").write_text(PRINTED)  # a plugin of pytest: what a command prints is part of a failure
    python = environment(folder / "environment", copy, *sorted((copy / "plugins").iterdir()))
    _run(python, folder, ["-c", IMPORTED, str(copy)], check=True)
    return copy, python


def outcome(found: Path) -> tuple[set[str], int, list[Failure]]:
    """From pytest's file: the functions that ran, as FILE::NAME, the number of tests, and what failed."""
    ran, count, failed = set(), 0, []
    for case in ElementTree.parse(found).iter("testcase"):
        file, name = case.get("file", ""), case.get("name", "") if case.get("classname") else UNREAD
        ran.add(f"{file}::{name.partition('[')[0]}")
        count += 1
        for each in (*case.findall("failure"), *case.findall("error")):
            lines = (each.text or "").splitlines()
            errors = [line for line in lines if line.startswith("E ")] or lines  # a property of the kit is no function
            printed = [case.findtext("system-out", ""), case.findtext("system-err", "")]
            failed.append(Failure(file, name, "\n".join([each.get("message", ""), *errors, *printed])))
    return ran, count, failed


def sort(failure: Failure, deleted: Sequence[str]) -> str:
    """Why this failure is right where these files are deleted; "fault" where it is not."""
    made = [each for each in registry().describe() if each.plugin.name.removeprefix("components.") in deleted]
    pages, names = (
        "|".join({*deleted, *each}) for each in zip(*((each.kind, each.name) for each in made), strict=True)
    )
    if re.fullmatch(rf"tests/components/test_({pages})\.py", failure.file):
        return "of its own"
    if re.search(rf"\[[^]]*\b({'|'.join(deleted)})\b", failure.test):
        return "of its own"
    asked = rf"""components[./]({pages})\b|['"`]({names})['"`]|did you mean ({names})\b|\bno ({pages}) is installed"""
    if "data_format" in deleted:
        asked += "|no format is known by these columns"
    if re.search(asked, failure.error):
        return "that ask for it"
    return "that list all" if failure.file in LISTS_ALL else "fault"


def tried(copy: Path, python: Path, deleted: Sequence[str], whole: set[str]) -> int:
    """Runs all tests without these files, and prints what came of it. Returns the number of faults."""
    for stem in deleted:
        (copy / COMPONENTS / f"{stem}.py").rename(copy / f"{stem}.away")
    words = [*TESTS, *WHOLE_ERRORS, *FOUND, "--numprocesses", str(min(8, os.cpu_count() or 1)), "--dist", "worksteal"]
    _run(python, copy, words)
    for stem in deleted:
        (copy / f"{stem}.away").rename(copy / COMPONENTS / f"{stem}.py")
    ran, count, failed = outcome(copy / "found.xml")
    unread = {each.file for each in failed if each.test == UNREAD}
    sorts = Counter(sort(each, deleted) for each in failed)
    print(f"{'+'.join(deleted)}: {count} tests ran, {len(failed)} failed: {dict(sorts)}", flush=True)
    faults = [f"{each.file}::{each.test}\n{each.error}" for each in failed if sort(each, deleted) == "fault"]
    faults += [f"{test} did not run" for test in sorted(whole - ran) if test.partition("::")[0] not in unread]
    for fault in faults:
        print(f"fault: {fault}", flush=True)
    return len(faults)


def collected(copy: Path, python: Path) -> set[str]:
    """The functions of all tests, as FILE::NAME."""
    done = _run(python, copy, [*TESTS, "--collect-only", "--quiet"], check=True)
    return set(re.findall(r"^(\S+\.py::\w+)", done.stdout, re.MULTILINE))


def _run(python: Path, folder: Path, words: list[str], check: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs Python without the paths of this process."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *words], cwd=folder, env=environment, check=check, capture_output=True, text=True
    )


def main(groups: Sequence[str]) -> int:
    """Deletes one group after the other. Returns the exit code."""
    known = sorted(file.stem for file in (ROOT / COMPONENTS).glob("[a-z]*.py"))
    chosen = [group.split("+") for group in groups or known]
    if unknown := {stem for group in chosen for stem in group} - {*known}:
        print(f"no file of {COMPONENTS}: {', '.join(sorted(unknown))}; the files are {', '.join(known)}")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        copy, python = copied(Path(folder))
        whole = collected(copy, python)
        return int(sum(tried(copy, python, group, whole) for group in chosen) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
