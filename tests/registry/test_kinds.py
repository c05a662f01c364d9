"""A kind that another package defines is treated as any of ours, in recipes and on the command line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from warm import Warm

from rlhf_plugins import PluginError, RecipeError, check_recipe
from rlhf_plugins.recipe.schema import json_schema
from rlhf_plugins.registry.registry import Registry, registry
from rlhf_plugins.testing import properties_of, subjects_in

GUEST = Path(__file__).parent / "principles.py"
RECIPE: dict[str, Any] = {"base": "sandbox", "data": {"format": "sandbox", "prompts": 8, "test_prompts": 8}}
Rlhf = Callable[..., Any]


@pytest.fixture
def guest() -> Registry:
    return registry().with_files([GUEST])


@pytest.fixture
def rlhf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: Warm) -> Rlhf:
    """`rlhf` where the guest is installed, in an empty folder."""
    installed = tmp_path / "installed"
    info = installed / "rlhf_principles-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(GUEST, installed / "rlhf_principles.py")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rlhf-principles\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rlhf_plugins]\nprinciples = rlhf_principles\n")
    monkeypatch.chdir(tmp_path)
    return lambda *words: python("-m", "rlhf_plugins.cli", *words, path=(installed,))


def critique(*principles: Any) -> dict[str, Any]:
    return {**RECIPE, "stages": [{"stage": "critique", "principles": list(principles)}]}


def test_a_recipe_names_components_of_the_kind(guest: Registry) -> None:
    (stage,) = check_recipe(critique("on_topic", {"use": "length_band", "high": 9}), registry=guest)["stages"]
    assert stage["principles"] == [{"use": "on_topic"}, {"use": "length_band", "low": 1, "high": 9}]


FAULTS = [
    ("on_topc", r"stages\.0\.principles\.0: unknown principle 'on_topc' \(did you mean on_topic\?"),
    ({"use": "length_band", "hgh": 2}, r"principles\.0\.hgh: unknown option \(did you mean high\?"),
    ({"use": "length_band", "low": -1}, r"principles\.0\.low: should be greater than or equal to 0, got -1"),
]


@pytest.mark.parametrize(("principle", "message"), FAULTS)
def test_a_fault_in_one_is_explained(principle: Any, message: str, guest: Registry) -> None:
    with pytest.raises(RecipeError, match=message):
        check_recipe(critique(principle), registry=guest)


def test_the_schema_for_editors_has_them(guest: Registry) -> None:
    known = json_schema(guest)["$defs"]
    assert set(known["principle.length_band"]["properties"]) == {"use", "low", "high"}
    assert "principle.on_topic" in known


def test_the_kit_tries_them_with_what_holds_of_every_kind(guest: Registry) -> None:
    tried = {one.name for one in properties_of("principle", guest)}
    assert {"can_be_made", "options_are_mentioned", "options_round_trip", "import_is_quick"} <= tried
    assert "batch_mates" not in tried
    assert [str(one) for one in subjects_in(GUEST, {}) if one.kind == "principle"] == [
        "principle length_band",
        "principle on_topic",
    ]


def test_an_unknown_kind_names_the_nearest(guest: Registry) -> None:
    with pytest.raises(PluginError, match=r"unknown component kind 'principel' \(did you mean principle\?"):
        properties_of("principel", guest)


def test_the_command_line_lists_shows_and_checks_them(rlhf: Rlhf) -> None:
    listed = rlhf("plugins", "list", "--kind", "principle").stdout.splitlines()
    assert [line.split() for line in listed] == [
        ["principle", name, "principles", "rlhf-principles", "1.0", "ok"] for name in ("length_band", "on_topic")
    ]
    shown = rlhf("plugins", "show", "principle", "on_topic").stdout
    assert "The share of the prompt's words" in shown
    assert "traits: reads_prompt = True" in shown
    checked = rlhf("plugins", "check", "rlhf-principles")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert re.search(r"principle length_band: (\d+) of \1 properties hold", checked.stdout)


def test_a_package_of_the_kind_is_started_with_what_its_base_class_asks_for(rlhf: Rlhf, tmp_path: Path) -> None:
    made = rlhf("plugins", "new", "rlhf-kind-words", "--kind", "principle")
    assert made.returncode == 0, made.stderr
    module = tmp_path / "rlhf-kind-words" / "rlhf_kind_words.py"
    text = module.read_text()
    assert "from rlhf_principles import Principle\n" in text
    assert "def __call__(self, prompt: str, response: str) -> float:" in text
    assert '"rlhf-principles"]' in (module.parent / "pyproject.toml").read_text()
    assert "stage: critique, principles: [kind_words]" in (module.parent / "recipe.yaml").read_text()
    assert rlhf("plugins", "check", str(module)).returncode == 0


def test_a_run_reports_what_they_measured(rlhf: Rlhf, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps(critique("length_band", "on_topic")))
    done = rlhf("run", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    (stage,) = json.loads((tmp_path / "runs/recipe/report.json").read_text())["stages"]
    assert [row["principle"] for row in stage["sections"][0]["rows"]] == ["LengthBand", "OnTopic"]
