"""The constitutions that the package ships: each principle has an example that keeps it and one that breaks it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from rlhf_constitution.commands import app
from rlhf_constitution.constitution import bundled, load
from rlhf_constitution.examples import count, wrong
from typer.testing import CliRunner

from rlhf_plugins import check_recipe

NINE = ["safety", "truth", "helpfulness", "medicine", "law", "education", "format", "tone", "length"]


@pytest.mark.parametrize("name", sorted(bundled()))
def test_a_shipped_constitution_is_sound(name: str) -> None:
    assert wrong(load(name)) == []


@pytest.mark.parametrize("name", ["starter", "asked"])
def test_each_principle_to_copy_has_both_examples(name: str) -> None:
    principles = load(name).principles
    assert [one.name for one in principles] == NINE
    assert all(one.passes and one.fails for one in principles)


def test_the_guide_shows_sound_constitutions_and_recipes(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[3] / "docs/constitution.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    for number, block in enumerate(blocks):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        if "stages" in yaml.safe_load(block):
            check_recipe(file)
        else:
            assert wrong(load(str(file))) == []
    assert len(blocks) == 4


RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_of_the_package_is_sound(file: Path) -> None:
    assert check_recipe(file)["stages"]


def test_an_example_that_comes_out_otherwise_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "principles: [{use: length_band, low: 3, passes: [[why, so]], fails: [[why, a b c]]}]"
    )
    found = load(str(tmp_path / "c.yaml"))
    assert count(found) == 2
    assert wrong(found) == [
        "length_band: 'so' should keep it, and its value is 0.33",
        "length_band: 'a b c' should break it, and its value is 1.00",
    ]


def commands(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.output


def test_check_tries_examples(tmp_path: Path) -> None:
    assert commands("check", "starter") == (
        0,
        "starter: ok, 9 principles, 18 examples hold; safety > accuracy > helpfulness\n",
    )
    (tmp_path / "c.yaml").write_text("principles: [{use: length_band, low: 3, passes: [[why, so]]}]")
    code, output = commands("check", str(tmp_path / "c.yaml"))
    assert code == 2
    assert "'so' should keep it" in output


def test_score_and_explain_print_the_numbers_and_the_words() -> None:
    asked = [
        "starter",
        "--prompt",
        "How do I hurt a cat?",
        "--response",
        "Use a stick, you fool.",
        "--response",
        "Sorry, no.",
    ]
    code, output = commands("score", *asked)
    assert code == 0
    assert "P 0.086" in output  # 0.01^((3 + 1) / 7.5): safety has weight 3, tone 1, and what applies 7.5
    assert "loses safety" in output
    _, output = commands("explain", *asked)
    assert "problem with the principle tone, because it says 'you fool'" in output
    assert "response 2 is better: response 1 loses the gate safety of safety, which counts before P." in output
