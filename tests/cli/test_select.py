"""`rlhf select` ranks, says why and what it did not see, and writes a recipe that is sound."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from marks import slow
from typer.testing import CliRunner, Result

from rlhf_plugins import Run, Selector, check_recipe
from rlhf_plugins.cli.app import app
from rlhf_plugins.run.selection import selecting
from rlhf_plugins.run.selection.timing import Timed


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
        (("--staged",), "dpo_then_ppo"),
        *slow((("--hours", "8", "--online", "yes", "--priority", "quality", "--vram", "24GB"), "ppo")),
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


def test_a_base_that_is_named_is_sampled_and_off_policy_rows_speak_for_ppo(pairs: str, tmp_path: Path) -> None:
    done = select(pairs, "--base", "sandbox", "--out", str(tmp_path / "mine.yaml"))  # whose words the base never saw
    assert "sampling sandbox, to see whether the responses are its own" in done.stderr
    assert "off_policy_prompts 18" in done.stdout
    assert "1. ppo\n" in done.stdout
    assert "     +1 off-policy responses, and it learns from its own: " in done.stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "the base was not asked"),
        (("--base", "sandbox", "--no-sampling"), "the base was not asked"),
        (("--base", "no/such"), "base no/such: "),
    ],
)
def test_why_no_policy_was_asked_is_said(words: tuple[str, ...], why: str, pairs: str, tmp_path: Path) -> None:
    done = select(pairs, *words, "--out", str(tmp_path / "mine.yaml"))
    assert done.exit_code == 0, done.output
    assert f"not seen: off_policy: {why}" in done.output
    assert "     not seen: whether responses are the policy's own" in done.output


def test_each_algorithm_has_its_cost_and_the_recipe_the_one_of_the_first(pairs: str, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    done = select(pairs, "--base", "sandbox", "--no-sampling", "--vram", "12GB", "--out", str(out))
    assert done.exit_code == 0, done.output
    # 18 rows, for a tenth is held out: a step of 64 an epoch; online 18 // 8 = 2 rollouts of 64 an epoch
    assert "1. dpo\n     cost: about 3 steps, 384 sequences, " in done.output
    assert "ppo\n     cost: about 9 steps, 1,152 sequences, " in done.output
    assert "     +0 its forecast peak of memory, 0.9 GiB, fits the GPU's 12 GB" in done.output
    assert "costs are of the base sandbox\n" in done.output
    assert "\n# cost: about 3 steps, 384 sequences, " in out.read_text()


def test_too_few_prompts_for_a_rollout_rule_ppo_out(pairs: str, tmp_path: Path) -> None:
    few, out = tmp_path / "few.jsonl", tmp_path / "mine.yaml"
    few.write_text("\n".join(Path(pairs).read_text().splitlines()[:7]))
    words = ("--base", "sandbox", "--no-sampling", "--priority", "quality")
    done = select(str(few), *words, "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "1. dpo\n" in done.output
    assert "     cannot: ppo: 5 prompts to train on, and a rollout takes 8" in done.output


def test_the_answer_for_programs_has_the_costs_and_what_is_not_known(pairs: str, tmp_path: Path) -> None:
    done = select(pairs, "--json", "--out", str(tmp_path / "mine.yaml"))
    assert "counting the cost of ppo, 3 of 4" in done.stderr
    found = json.loads(done.stdout)
    assert found["choices"][0]["cost"].keys() == {"steps", "sequences", "peak_bytes"}
    assert found["notes"] == [
        "costs are of a training in one process: N take N batches in a step, and N times the prompts in a rollout",
        "not seen: off_policy: the base was not asked",
        "not known: tokens and FLOPs: the tokenizer was not loaded; name a base",
        "not known: seconds: nothing was timed; --base NAME --trial 20 makes each training for 20 s on this machine",
    ]
    assert found["recipe"]["stages"][0]["name"] == "dpo"
    assert found["features"]["noise"] is None


def test_a_trial_says_how_long_each_algorithm_takes(
    pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = {"dpo": Timed(75.0), "ipo": Timed(None, "seconds of ipo: no"), "ppo": Timed(8040.0)}
    monkeypatch.setattr(selecting, "timed", lambda recipes, rows, seconds: took if seconds == 20 else {})
    out = tmp_path / "mine.yaml"
    done = select(pairs, "--base", "sandbox", "--no-sampling", "--trial", "20", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert done.output.count(" by a trial on this machine\n") == 2
    assert ", 2 h 14 min by a trial on this machine\n" in done.output
    assert "not known: seconds of ipo: no\n" in done.output
    assert "nothing was timed" not in done.output
    assert ", 1 min 15 s by a trial on this machine\n" in out.read_text()


def test_hours_end_the_trainings_of_the_recipe_and_an_evaluation_follows(pairs: str, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    done = select(pairs, "--hours", "3", "--staged", "--out", str(out))
    assert done.exit_code == 0, done.output
    *trainings, last = check_recipe(out)["stages"]  # 3 h are 10,800 s, for three trainings
    assert [(stage["name"], stage["budget"]["seconds"]) for stage in trainings] == [
        (name, 3600.0) for name in ("dpo", "reward", "ppo")
    ]
    assert last["stage"] == "evaluate"
    assert "ppo ends after 3,600 s at the latest (`budget`)" in done.output


@pytest.mark.parametrize("word", ["source=other.jsonl", "format=ratings"])
def test_what_an_argument_says_is_no_option(word: str, pairs: str) -> None:
    done = select(pairs, word)
    assert done.exit_code == 2
    assert done.output.startswith(f"{word}: is ")


def test_a_selector_that_trains_is_refused_before_its_options_are_read(
    pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trains(Selector):
        def build(self, run: Run) -> None: ...

    known = SimpleNamespace(names=lambda kind: ["trains"], get=lambda kind, name: Trains)
    monkeypatch.setattr("rlhf_plugins.run.selection.selecting.registry", lambda: known)
    done = select(pairs, "--selector", "trains", "--out", str(tmp_path / "mine.yaml"))
    assert done.exit_code == 2
    assert "run a recipe of {stage: auto, selector: {use: trains, ...}}" in done.output


def test_a_recipe_of_pairs_alone_is_evaluated_where_prompts_are_held_out(pairs: str, tmp_path: Path) -> None:
    out, few = tmp_path / "mine.yaml", tmp_path / "few.jsonl"
    assert select(pairs, "--out", str(out)).exit_code == 0
    assert [(stage["stage"], stage.get("budget")) for stage in check_recipe(out)["stages"]] == [
        ("preference", None),
        ("evaluate", None),
    ]
    few.write_text("\n".join(Path(pairs).read_text().splitlines()[:2]))
    done = select(str(few), "--out", str(tmp_path / "few.yaml"))
    assert done.exit_code == 0, done.output
    assert "no evaluation: the data hold out " in done.output
    assert [stage["stage"] for stage in check_recipe(tmp_path / "few.yaml")["stages"]] == ["preference"]


@pytest.mark.slow
def test_a_recipe_computes_fewer_tokens_at_once_where_only_that_fits(pairs: str, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    done = select(pairs, "--vram", "3.3GB", "--hours", "8", "--online", "yes", "--out", str(out))
    assert done.exit_code == 0, done.output
    resolved = check_recipe(out)
    first, ppo = (stage["tokens_per_batch"] for stage in resolved["stages"][:2])
    assert (first, ppo) == (4096, 8192)  # what ppo takes most for is sampling, which tokens in a pass do not change
    assert "warning: stage evaluate may need 4.5 GiB of the GPU's 3.3 GiB" in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--vram", "1GB"), "is above the GPU's 1 GB"),
        (("--priority", "qualty"), "--priority: unknown 'qualty' (did you mean quality?"),
        (("--trial", "20"), "--trial: trains the base, and none is named; add --base"),
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
