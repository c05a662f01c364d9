"""The package in plugins/rlhf-focal, installed by pip as a user would, adds its loss to every recipe."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from marks import slow
from warm import Warm

ROOT = Path(__file__).parents[2]
FOCAL = ROOT / "plugins" / "rlhf-focal"
RECIPE = "base: sandbox\ndata: sandbox\nstages: [{stage: reward, loss: {use: focal_bradley_terry, gamma: %s}}]\n"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(python: Warm, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs Python in a scratch folder, with the package installed."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("focal")
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(FOCAL)], check=True, capture_output=True)
    return lambda *words: python(*words, cwd=folder, path=(site, ROOT))


def test_the_loss_is_listed_with_its_distribution_and_version(run: Run) -> None:
    done = run("-m", "rlhf_plugins.cli", "plugins", "list", "--kind", "reward_loss")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["reward_loss", "focal_bradley_terry", "focal", "rlhf-focal", "0.1.0", "ok"] in rows


@pytest.mark.parametrize(
    ("gamma", "code", "message"), slow(("1.0", 0, "ok, 1 stage"), ("-1", 2, "loss.gamma: should be"))
)
def test_a_recipe_may_use_the_loss(gamma: str, code: int, message: str, run: Run) -> None:
    done = run("-c", f"open('r.yaml', 'w').write({RECIPE % gamma!r})")
    done = run("-m", "rlhf_plugins.cli", "check", "r.yaml")
    assert done.returncode == code, done.stderr
    assert message in done.stdout + done.stderr


@pytest.mark.slow
def test_its_own_tests_pass(run: Run) -> None:
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOCAL / "tests"))
    assert done.returncode == 0, done.stdout


def test_a_run_trains_with_the_loss_and_records_where_it_came_from(run: Run) -> None:
    run("-c", f"open('r.yaml', 'w').write({RECIPE % '1.0'!r})")
    small = ["data.prompts=8", "data.test_prompts=8", "stages.reward.trainer={max_steps: 2}", "output_dir=run"]
    done = run("-m", "rlhf_plugins.cli", "run", "r.yaml", *small)
    assert done.returncode == 0, done.stderr
    shown = run("-c", "import json; print(json.load(open('run/report.json'))['plugins'])").stdout
    assert "'distribution': 'rlhf-focal', 'version': '0.1.0'" in shown
