"""Runs the tests of the seams against the oldest and the newest version of each library that the package declares.

    python benchmarks/compat.py [LIBRARY ...]

Without names: all but torch, a large download, which is tried where it is named. Each version goes alone into a virtual
environment under build/compat, over the packages of this one; the version of this one is left to `make test`. Where
nothing can be downloaded a line says so, and nothing is tested. Exit code 1 where a test fails.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "build" / "compat"
SEAMS = (
    "tests/test_private_names.py",
    "tests/trainers/test_preference.py",
    "tests/trainers/test_reward.py",
    "tests/trainers/test_online.py",
    "tests/saved/test_releases.py",
    "tests/cli/test_recipes_and_doctor.py",  # rich, typer
    "tests/components/test_data_step_chosen.py",  # scikit-learn
    "tests/components/test_judge.py",  # httpx2
    "tests/data/test_files.py",  # pyarrow
    "tests/evaluate/test_statistics.py",  # numpy, scipy
    "tests/recipe/test_source.py",  # pyyaml
    "tests/registry/test_registry.py",  # packaging, pluggy
    "tests/report/test_page.py",  # jinja2, matplotlib
    "tests/stages/test_quantized_stages.py",  # bitsandbytes
)
UNREACHABLE = re.compile(r"connection|resolve|network|timed out|proxy|no matching distribution", re.IGNORECASE)


def declared() -> dict[str, Requirement]:
    """The requirements of the package, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {found.name: found for found in map(Requirement, project["dependencies"])}


def ends(requirement: Requirement) -> dict[str, str]:
    """What to install for the oldest and the newest version of a range."""
    lowest = next(one.version for one in requirement.specifier if one.operator in (">=", "=="))
    return {"oldest": f"{requirement.name}=={lowest}", "newest": str(requirement)}


def environment(folder: Path, *trees: Path) -> Path:
    """The interpreter of an environment that sees the packages of this one behind its own and behind these trees."""
    venv.create(folder, symlinks=True, clear=True)
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    outer = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"
    (purelib / "outer.pth").write_text("".join(f"{line}\n" for line in (*trees, outer)))
    return folder / "bin" / "python"


def installed(python: Path, wanted: str) -> str:
    """Installs it. Returns pip's words where that fails."""
    words = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--upgrade", wanted]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def tested(python: Path) -> str:
    """The last line of the tests of the seams, and FAILED where one failed."""
    words = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *SEAMS]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1]
    return last if done.returncode == 0 else f"FAILED: {last}\n{done.stdout[-4000:]}"


def main(names: Sequence[str]) -> int:
    """Prints a line for each version. Returns the exit code."""
    known, failed = declared(), 0
    if unknown := set(names) - known.keys():
        print(f"not declared: {', '.join(sorted(unknown))}")
        return 2
    for name in names or sorted(known.keys() - {"torch"}):
        for end, wanted in ends(known[name]).items():
            python = environment(PLACE / f"{name}-{end}", ROOT)
            if error := installed(python, wanted):
                if not UNREACHABLE.search(error):
                    print(f"{name} {end}: cannot be installed: {error.strip().splitlines()[-1]}")
                    failed += 1
                    continue
                print(f"skipped: {wanted} cannot be downloaded here (this environment has {name} {version(name)})")
                return failed
            words = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
            found = subprocess.run([str(python), "-c", words, name], capture_output=True, text=True, check=True)
            here = found.stdout.strip() == version(name)
            said = "in this environment, where `make test` tests it" if here else tested(python)
            failed += said.startswith("FAILED")
            print(f"{name} {found.stdout.strip()} ({end}): {said}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
