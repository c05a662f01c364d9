"""`rlhf select` ranks, says why and what it did not see, and writes a recipe that is sound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rlhf_plugins import check_recipe
from rlhf_plugins.cli.app import app


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    rows = [{"prompt": f"what is {n}?", "chosen": f"it is {n}", "rejected": "no idea"} for n in range(20)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(tmp_path / "pairs.jsonl")


def select(*words: str) -> Result:
    return CliRunner().invoke(app, ["select", *words])


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ((), "dpo"),
        (("--priority", "stability"), "ipo"),
        (("--hours", "8", "--online", "yes", "--priority", "quality", "--vram", "24GB"), "ppo"),
        (("--staged",), "dpo_then_ppo"),
    ],
)
def test_the_recipe_of_the_first_is_sound_and_has_its_reasons(
    words: tuple[str, ...], first: str, pairs: str, tmp_path: Path
) -> None:
    out = tmp_path / "mine.yaml"
    done = select(pairs, *words, "--out", str(out))
    assert done.exit_code == 0, done.output
    assert f"1. {first}\n" in done.output
    assert "not seen: topics, coverage, strength" in done.output
    assert out.read_text().startswith(f"# {first}, by `rlhf select`.")
    assert [stage["name"] for stage in check_recipe(out)["stages"]][:1] == ["reward" if first == "ppo" else first[:3]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--priority", "qualty"), "--priority: unknown 'qualty' (did you mean quality?"),
        (("--online", "maybe"), "--online: yes or no, got 'maybe'"),
        (("--vram", "much"), "--vram: gigabytes such as 12GB, got 'much'"),
        (("--selector", "rule"), "unknown selector 'rule' (did you mean rules?"),
        (("--online", "no", "--live-reward"), "cannot: it samples while it trains"),
    ],
)
def test_bad_input_is_one_line(words: tuple[str, ...], message: str, pairs: str, tmp_path: Path) -> None:
    done = select(pairs, *words, "--out", str(tmp_path / "mine.yaml"))
    assert done.exit_code == 2
    assert message in done.output
    assert not (tmp_path / "mine.yaml").exists()
