"""A third-party package in a fresh virtual environment: written, installed, used, upgraded, broken and uninstalled."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
from warm import Warm

ROOT = Path(__file__).parents[2]
OFF = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
SMALL = ["stages.reward_model.train_layers=0", "adapter=none", "data.prompts=8", "data.test_prompts=8"]
OURS = "base: sandbox\ndata: sandbox\nstages: [reward]\n"


class Place:
    """A virtual environment that sees the packages of the running one, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.package = folder, folder / "rlhf-steep"
        venv.create(folder / "venv", symlinks=os.name != "nt")
        self.python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        own = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
        lines = [f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})", str(ROOT)]
        (own / "outer.pth").write_text("\n".join(lines) + "\n")
        self._warm = Warm(self.python)

    def __call__(self, *words: str) -> Any:
        """`rlhf WORDS` in the package's folder, or above it while there is none."""
        where = self.package if self.package.exists() else self.folder
        return self._warm("-m", "rlhf_plugins.cli", *words, cwd=where)

    def close(self) -> None:
        self._warm.close()

    def pip(self, *words: str) -> None:
        """pip for this environment, without a network."""
        command = [sys.executable, "-m", "pip", "--python", str(self.python), *words]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)

    def release(self, version: str, top: str = "") -> None:
        """Installs a new version of the package, with a line of code before its own."""
        project, module = self.package / "pyproject.toml", self.package / "rlhf_steep.py"
        old = project.read_text().partition('version = "')[2].partition('"')[0]
        project.write_text(project.read_text().replace(f'version = "{old}"', f'version = "{version}"'))
        module.write_text(f"{module.read_text()}{top}\n")
        self.pip("install", *OFF, str(self.package))


@pytest.mark.slow
def test_the_life_of_a_package(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    rlhf = Place(tmp_path)
    assert rlhf("plugins", "new", "rlhf-steep", "--kind", "reward_loss").returncode == 0
    before = rlhf("check", "recipe.yaml")
    assert (before.returncode, "unknown reward_loss 'steep'" in before.stderr) == (2, True)
    _installed(rlhf)
    _upgraded(rlhf)
    _broken(rlhf)
    _uninstalled(rlhf)
    rlhf.close()


def _installed(rlhf: Place) -> None:
    rlhf.release("0.1.0")
    made = rlhf("run", "recipe.yaml", *SMALL)
    assert made.returncode == 0, made.stderr
    assert '"distribution": "rlhf-steep"' in (rlhf.package / "runs/recipe/report.json").read_text()


def _upgraded(rlhf: Place) -> None:
    rlhf.release("0.2.0")
    again = rlhf("run", "--resume", "runs/recipe/recipe.yaml")
    assert again.returncode == 0, again.stderr
    assert "warning: the run was made with rlhf-steep 0.1.0; here it is 0.2.0" in again.stdout


def _broken(rlhf: Place) -> None:
    rlhf.release("0.3.0", "import no_such_module")
    listed = rlhf("plugins", "list")
    why = "steep (rlhf-steep 0.3.0) is broken: cannot be imported from 'rlhf_steep': ModuleNotFoundError"
    assert (listed.returncode, why in listed.stdout) == (0, True)
    assert "bradley_terry" in listed.stdout
    needs = rlhf("check", "recipe.yaml")
    assert (needs.returncode, needs.stderr.count(why)) == (2, 1)
    (rlhf.package / "ours.yaml").write_text(OURS)
    assert rlhf("check", "ours.yaml").stdout.startswith("ours.yaml: ok, 1 stage: reward\n")


def _uninstalled(rlhf: Place) -> None:
    rlhf.pip("uninstall", "--yes", "rlhf-steep")
    resumed = rlhf("run", "--resume", "runs/recipe/recipe.yaml")
    message = "the run needs plugin steep (rlhf-steep 0.1.0), which is not installed: `pip install rlhf-steep==0.1.0`"
    assert (resumed.returncode, resumed.stderr) == (2, f"{message}\n")
    assert "steep" not in rlhf("plugins", "list", "--kind", "reward_loss").stdout
