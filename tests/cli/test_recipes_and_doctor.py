"""A bundled recipe is copied as it is, and the doctor's exit code says whether something is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from rlhf_plugins.recipe.check import bundled, check_recipe
from rlhf_plugins.run import doctor
from rlhf_plugins.run.doctor import Check

Rlhf = Callable[..., Result]


def test_recipes_are_listed(rlhf: Rlhf) -> None:
    lines = {line.split()[0]: line for line in rlhf("recipes").stdout.splitlines()}
    assert list(lines) == list(bundled())
    assert all(f"  rlhf run {name}" in line and ".yaml" not in line for name, line in lines.items())


def test_a_copy_runs_as_the_recipe_does(rlhf: Rlhf) -> None:
    assert rlhf("recipes", "copy", "quickstart").stdout == "quickstart.yaml: run it with `rlhf run quickstart.yaml`\n"
    copied, own = check_recipe("quickstart.yaml"), check_recipe(bundled()["quickstart"])
    assert copied == own
    assert Path("quickstart.yaml").read_text().splitlines()[0].endswith("rlhf run quickstart.yaml")


REFUSED = [
    (("quickstrat",), "did you mean quickstart?"),
    (("quickstart", "there.yaml"), "there.yaml: exists; name another file"),
    (("quickstart", "no/where.yaml"), "no/where.yaml: cannot be written: No such file or directory"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_a_copy_that_cannot_be_made_is_one_line(rlhf: Rlhf, words: tuple[str, ...], message: str) -> None:
    Path("there.yaml").touch()
    result = rlhf("recipes", "copy", *words)
    assert (result.exit_code, result.stderr.count("\n"), message in result.stderr) == (2, 1, True)


@pytest.mark.parametrize(("state", "code"), [("missing", 1), ("warning", 0)])
def test_the_doctors_exit_code_is_about_what_is_needed(
    rlhf: Rlhf, monkeypatch: pytest.MonkeyPatch, state: str, code: int
) -> None:
    found = [Check("ok", "torch", "2.6"), Check(state, "trl", "not installed", "pip install trl")]  # type: ignore[arg-type]
    monkeypatch.setattr(doctor, "examine", lambda: found)
    done = rlhf("doctor")
    assert done.exit_code == code
    assert done.stdout.splitlines()[-1] == ("missing: trl" if code else "nothing that a run needs is missing")
