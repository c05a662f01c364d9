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

GUEST = Path(__file__).parent / "rules.py"
RECIPE: dict[str, Any] = {"base": "sandbox", "data": {"format": "sandbox", "prompts": 8, "test_prompts": 8}}
Rlhf = Callable[..., Any]


@pytest.fixture
def guest() -> Registry:
    return registry().with_files([GUEST])


@pytest.fixture
def rlhf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: Warm) -> Rlhf:
    """`rlhf` where the guest is installed, in an empty folder."""
    installed = tmp_path / "installed"
    info = installed / "rlhf_rules-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(GUEST, installed / "rlhf_rules.py")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rlhf-rules\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rlhf_plugins]\nrules = rlhf_rules\n")
    monkeypatch.chdir(tmp_path)
    return lambda *words: python("-m", "rlhf_plugins.cli", *words, path=(installed,))


def critique(*rules: Any) -> dict[str, Any]:
    return {**RECIPE, "stages": [{"stage": "critique", "rules": list(rules)}]}


def test_a_recipe_names_components_of_the_kind(guest: Registry) -> None:
    (stage,) = check_recipe(critique("on_topic", {"use": "length_band", "high": 9}), registry=guest)["stages"]
    assert stage["rules"] == [{"use": "on_topic"}, {"use": "length_band", "low": 1, "high": 9}]


FAULTS = [
    ("on_topc", r"stages\.0\.rules\.0: unknown rule 'on_topc' \(did you mean on_topic\?"),
    ({"use": "length_band", "hgh": 2}, r"rules\.0\.hgh: unknown option \(did you mean high\?"),
    ({"use": "length_band", "low": -1}, r"rules\.0\.low: should be greater than or equal to 0, got -1"),
]


@pytest.mark.parametrize(("rule", "message"), FAULTS)
def test_a_fault_in_one_is_explained(rule: Any, message: str, guest: Registry) -> None:
    with pytest.raises(RecipeError, match=message):
        check_recipe(critique(rule), registry=guest)


@pytest.mark.slow
def test_the_schema_for_editors_has_them(guest: Registry) -> None:
    known = json_schema(guest)["$defs"]
    assert set(known["rule.length_band"]["properties"]) == {"use", "low", "high"}
    assert "rule.on_topic" in known


def test_the_kit_tries_them_with_what_holds_of_every_kind(guest: Registry) -> None:
    tried = {one.name for one in properties_of("rule", guest)}
    assert {"can_be_made", "options_are_mentioned", "options_round_trip", "import_is_quick"} <= tried
    assert "batch_mates" not in tried
    assert [str(one) for one in subjects_in(GUEST, {}) if one.kind == "rule"] == [
        "rule length_band",
        "rule on_topic",
    ]


def test_an_unknown_kind_names_the_nearest(guest: Registry) -> None:
    with pytest.raises(PluginError, match=r"unknown component kind 'ruel' \(did you mean rule\?"):
        properties_of("ruel", guest)


@pytest.mark.slow
def test_the_command_line_lists_shows_and_checks_them(rlhf: Rlhf) -> None:
    listed = rlhf("plugins", "list", "--kind", "rule").stdout.splitlines()
    assert [line.split() for line in listed] == [
        ["rule", name, "rules", "rlhf-rules", "1.0", "ok"] for name in ("length_band", "on_topic")
    ]
    shown = rlhf("plugins", "show", "rule", "on_topic").stdout
    assert "The share of the prompt's words" in shown
    assert "traits: reads_prompt = True" in shown
    checked = rlhf("plugins", "check", "rlhf-rules")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert re.search(r"rule length_band: (\d+) of \1 properties hold", checked.stdout)


@pytest.mark.slow
def test_a_package_of_the_kind_is_started_with_what_its_base_class_asks_for(rlhf: Rlhf, tmp_path: Path) -> None:
    made = rlhf("plugins", "new", "rlhf-kind-words", "--kind", "rule")
    assert made.returncode == 0, made.stderr
    module = tmp_path / "rlhf-kind-words" / "rlhf_kind_words.py"
    text = module.read_text()
    assert "from rlhf_rules import Rule\n" in text
    assert "def __call__(self, prompt: str, response: str) -> float:" in text
    assert '"rlhf-rules"]' in (module.parent / "pyproject.toml").read_text()
    assert "stage: critique, rules: [kind_words]" in (module.parent / "recipe.yaml").read_text()
    assert rlhf("plugins", "check", str(module)).returncode == 0


@pytest.mark.slow
def test_a_run_reports_what_they_measured(rlhf: Rlhf, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps(critique("length_band", "on_topic")))
    done = rlhf("run", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    (stage,) = json.loads((tmp_path / "runs/recipe/report.json").read_text())["stages"]
    assert [row["rule"] for row in stage["sections"][0]["rows"]] == ["LengthBand", "OnTopic"]
