"""Comparisons: formulas against textbook numbers, the sequential test under simulation, files and runs of users."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rlhf_watch.ab import paired, power, sequential
from rlhf_watch.ab.comparison import compare
from rlhf_watch.ab.length import length_controlled
from rlhf_watch.ab.wording import lines, plan, record, sentence
from rlhf_watch.commands import register_commands
from scipy import stats
from typer import Typer
from typer.testing import CliRunner

from rlhf_plugins import DataError, RlhfError, run_recipe


def write(folder: Path, name: str, scores: list[Any], **columns: list[Any]) -> str:
    file = folder / f"{name}.jsonl"
    rows = [
        {"prompt": f"p{i}", "score": score} | {k: v[i] for k, v in columns.items()} for i, score in enumerate(scores)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_power_and_sizes_are_those_of_the_textbooks() -> None:
    assert np.ceil(power.size_for_win_rate(0.55)) == 783
    assert power.power_for_win_rate(783, 0.55) == pytest.approx(0.8, abs=1e-3)
    assert power.smallest_win_rate(783) == pytest.approx(0.55, abs=1e-4)
    assert power.size_for_win_rate(0.5) == float("inf")
    # six that are decided have 2 / 64 at least; with fewer nothing is shown, even by a policy that loses none
    assert [power.least_prompts(0.05, ties) for ties in (0.0, 0.5, 1.0)] == [6, 12, float("inf")]
    assert power.smallest_win_rate(11, ties=0.5) == 0.75


def test_ties_make_a_win_rate_easier_to_tell_from_a_half() -> None:
    # d = 0.1, t = 0.5: ((1.959964 sqrt(0.5) + 0.841621 sqrt(0.49)) / 0.1)^2
    assert power.size_for_win_rate(0.55, ties=0.5) == pytest.approx(390.1, abs=0.05)
    for rate in (0.55, 0.45):
        assert power.power_for_win_rate(390.1, rate, ties=0.5) == pytest.approx(0.8, abs=1e-4)
        assert power.size_for_win_rate(rate) == pytest.approx(power.size_for_win_rate(1 - rate))


def test_too_few_prompts_show_no_win_rate(tmp_path: Path) -> None:
    assert list(plan(None, 5, 0.8)) == ["5 prompts show no win rate with power 0.8"]  # 5 of 5 have p 1 / 16
    assert list(plan(1.0, 5, 0.8))[::2] == [
        "a win rate of 1 against 0.5 needs 6 prompts for power 0.8",
        "5 prompts tell a win rate of 1 from 0.5 with power 0.000",
    ]
    tied = [write(tmp_path, name, [1.0] * 50) for name in ("a", "b")]
    assert "So few decided prompts can show no win rate" in next(lines(compare(tied)))


@pytest.mark.parametrize(("won", "lost"), [(30, 20), (5, 0), (0, 7), (1, 1)])
def test_the_interval_without_ties_is_wilsons(won: int, lost: int) -> None:
    wilson = stats.binomtest(won, won + lost).proportion_ci(method="wilson")
    found = paired.win_rate_interval(paired.Counts(won, 0, lost))
    assert found == pytest.approx((wilson.low, wilson.high), abs=1e-6)


def test_the_interval_with_ties_is_tangos() -> None:
    # its equation: at both ends |won - lost - n d| = z sqrt(n (2 q + d (1 - d)))
    found = paired.Counts(3, 40, 1)
    for rate in paired.win_rate_interval(found):
        d = 2 * rate - 1
        q = paired._likely_loss(found, d)
        z = (found.won - found.lost - 44 * d) / np.sqrt(44 * (2 * q + d * (1 - d)))
        assert abs(z) == pytest.approx(1.959964, abs=1e-5)


def test_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng, held = np.random.default_rng(0), 0
    for won, tied, lost in rng.multinomial(60, [0.4, 0.3, 0.3], 400):
        low, high = paired.win_rate_interval(paired.Counts(won, tied, lost))
        held += low <= 0.55 <= high
    assert held / 400 == pytest.approx(0.95, abs=0.025)


def test_tests_and_effect_by_hand() -> None:
    ours, theirs = np.array([3.0, 2.0, 2.0, 5.0, 1.0]), np.array([1.0, 1.0, 2.0, 1.0, 2.0])
    counts = paired.counts(ours, theirs)
    assert counts == (3, 1, 1)
    assert counts.win_rate == 0.7
    # differences 2 1 0 4 -1: of 32 swaps the mean is at least 6/5 in size in 12
    assert paired.permutation_test(ours, theirs) == pytest.approx(0.375)
    assert paired.permutation_test(ours[:2], theirs[:2]) == 0.5  # of 2 and 1: two of four swaps
    assert paired.effect_size(ours - theirs) == pytest.approx(1.2 / np.sqrt(3.7))


def test_differences_without_spread_or_without_any() -> None:
    effects = [paired.effect_size(np.full(3, each)) for each in (2.0, -2.0, 0.0)]
    assert effects == [np.inf, -np.inf, 0.0]
    assert paired.mean_interval(np.full(3, 2.0)) == (2.0, 2.0)
    assert sequential.sequential_interval(paired.Counts(0, 5, 0)) == (0.0, 1.0)


def test_the_interval_of_a_mean_is_nearly_that_of_a_normal() -> None:
    differences = np.random.default_rng(0).normal(0.3, 2.0, 400)
    low, high = paired.mean_interval(differences)
    wide = 1.96 * differences.std(ddof=1) / 20
    assert (low, high) == pytest.approx((differences.mean() - wide, differences.mean() + wide), abs=0.1 * wide)


def test_the_wealth_by_hand() -> None:
    # a = 4, 2 won, 1 lost: B(6, 5) / B(4, 4) * 2^3 = (5! 4! / 10!) / (3! 3! / 7!) * 8
    assert sequential.wealth(2, 1) == pytest.approx(120 * 24 / 3628800 / (36 / 5040) * 8)


@pytest.mark.slow
def test_the_sequential_test_is_wrong_at_most_5_percent_over_20_looks() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 3, (2, 10_000, 200)).astype(float)  # a third are ties
    looks = sequential.wealths(ours, theirs)[:, 9::10]  # (simulations, 20)
    assert looks.shape[1] == 20
    assert (looks.max(1) >= 20).mean() <= 0.05
    fixed = stats.binom.sf((ours > theirs).sum(1) - 1, np.maximum((ours != theirs).sum(1), 1), 0.5)
    assert (fixed <= 0.025).mean() < 0.04  # one look at the end is fine without it


def test_closed_means_by_hand() -> None:
    # 2: of {2}, {2, 1}, {2, 1, 60}: 1.5; 60: of {60, 1}, {60, 1, 2}: 21; 1: its own
    assert sequential.closed(np.array([[2.0], [60.0], [1.0]]))[:, 0].tolist() == [1.5, 21.0, 1.0]
    assert sequential.closed(np.array([[2.0, 30.0]])).tolist() == [[2.0, 30.0]]


def test_the_sequential_tests_of_ten_policies_are_jointly_wrong_at_most_5_percent() -> None:
    """Eight equal the baseline, whose scores all ten share; two are better, and found."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 3, (10, 200, 100)), rng.integers(0, 3, (200, 100))
    ours[8:][rng.random((2, 200, 100)) < 0.7] = 2
    values = sequential.wealths(ours.astype(float), theirs[None].astype(float))
    wrong, found = (each.max(-1) >= 20 for each in (values, sequential.closed(values)))
    assert wrong[:8].any(0).mean() > 0.08
    assert found[:8].any(0).mean() <= 0.03
    assert found[8:].mean() > 0.95


def test_the_sequential_test_finds_a_difference() -> None:
    ours = (np.random.default_rng(0).random((500, 400)) < 0.6).astype(float)
    values = sequential.wealths(ours, 1 - ours)
    assert (values.max(1) >= 20).mean() > 0.85
    assert sequential.stops_at(np.array([1.0, 20.0])) == 2  # 1 / 0.05
    tied = sequential.wealths(np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0]))
    assert tied.tolist() == [sequential.wealth(1, 0)] * 2 + [sequential.wealth(1, 1)]
    assert [sequential.anytime_p(np.array(few)) for few in ([], [0.5], [4.0, 2.0])] == [1.0, 1.0, 0.25]
    stop = sequential.stops_at(np.array([1.0, 19.0, 21.0, 3.0]))
    assert stop == 3


def test_the_sequential_interval_ends_where_the_wealth_refutes() -> None:
    low, high = sequential.sequential_interval(paired.Counts(60, 0, 60))
    assert low == pytest.approx(1 - high)
    assert 0.3 < low < 0.5
    low, high = sequential.sequential_interval(paired.Counts(60, 5, 40))
    assert sequential.wealth(60, 40, low) == pytest.approx(20)
    assert sequential.wealth(60, 40, high) == pytest.approx(20)


def test_length_control_takes_a_pure_effect_of_length_away() -> None:
    rng = np.random.default_rng(0)
    longer = rng.normal(10, 20, 2000)
    won = (rng.random(2000) < 1 / (1 + np.exp(-2 * np.tanh(longer / longer.std())))).astype(float)
    found = length_controlled(won, 1 - won, longer)
    assert won.mean() > 0.6
    assert found.low < 0.5 < found.high
    assert found.slope == pytest.approx(2, abs=0.2)


def test_files_are_compared_on_common_prompts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    old = rng.normal(size=100)
    base = write(tmp_path, "old", [*old], response=["a b"] * 100)
    better = write(tmp_path, "new", [*(old + rng.normal(1, 0.5, 100)), 9.0], response=["a b"] * 101)
    same = write(tmp_path, "same", [*(old + np.tile([1, -1], 50))])
    first, second = compare([base, better, same])
    numbers = "\n".join(lines([first, second]))
    assert (first.better, first.left_out, second.better) == (True, 1, None)
    assert first.holm_p == pytest.approx(2 * first.sign_p)
    assert first.permutation_holm_p == pytest.approx(2 * first.permutation_p)
    assert f"mean p {first.permutation_p:.2g}, Holm of 2 comparisons {first.permutation_holm_p:.2g}" in numbers
    assert first.closed_evidence == pytest.approx((first.evidence + second.evidence) / 2)
    assert "by closed means of 2 comparisons; p " in numbers
    assert first.length is not None
    assert second.length is None
    assert "new.jsonl is better than" in numbers
    assert "no difference from" in numbers
    assert json.loads(json.dumps(record(first)))["counts"]["won"] == first.counts.won


def test_win_rates_are_given_by_group_and_the_worst_is_named(tmp_path: Path) -> None:
    """40 prompts are won, 20 in German tied: 0.5, which is 0.5 behind the others; Wilson's centre of 1/2 is 1/2."""
    base = write(tmp_path, "old", [0.0] * 60, language=["en"] * 40 + ["de"] * 20)
    other = write(tmp_path, "new", [1.0] * 40 + [0.0] * 20)
    (found,) = compare([base, other], by="language")
    assert found.groups is not None
    assert [(one.name, one.mean, one.gap) for one in found.groups.groups] == [("de", 0.5, -0.5), ("en", 1.0, 0.5)]
    text = "\n".join(lines([found]))
    assert "de: 0.500 [0.299, 0.701], -0.500 to the others, 20 prompts (33.3%)" in text
    assert "de is behind the others, by 50.0%" in text
    assert json.loads(json.dumps(record(found)))["groups"]["behind"]["name"] == "de"
    with pytest.raises(DataError, match="has a column 'lang'"):
        compare([base, other], by="lang")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, float("nan")], "finite number, got nan"),
        (["1"], "finite number, got '1'"),
        ([10**400], "finite number, got 1000"),
        ([], "holds no row"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, scores: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        compare([write(tmp_path, "bad", scores), write(tmp_path, "good", [1.0])])


def test_a_file_that_is_no_text_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match="scores.jsonl: cannot be read: 'utf-8'"):
        compare([str(tmp_path / "scores.jsonl")] * 2)


def test_rows_with_a_score_and_a_reward_are_refused(tmp_path: Path) -> None:
    both, one = write(tmp_path, "both", [1.0, 2.0], reward=[2.0, 1.0]), write(tmp_path, "one", [1.0, 2.0])
    with pytest.raises(DataError, match="both.jsonl:1: rows have both `score` and `reward`"):
        compare([both, one])


def test_scores_of_two_judges_are_refused(tmp_path: Path) -> None:
    one, other = (write(tmp_path, name, [1.0, 2.0], judge=[name] * 2) for name in "ab")
    with pytest.raises(DataError, match="was scored by a, .* by b"):
        compare([one, other])
    with pytest.raises(RlhfError, match="neither a file nor a run"):
        compare(["nothing.jsonl", other])


STAGE = """
from dataclasses import dataclass
from rlhf_plugins import Evaluation, Run, Stage, StageResult, hookimpl

@dataclass(frozen=True)
class Measured(Stage, makes={"evaluation"}):
    name: str = "measured"
    def run(self, run: Run) -> StageResult:
        scores = {"base": [0.0, 0.0, 0.0], "dpo": [1.0, 1.0, 0.0], "ppo": [-1.0, 0.0, 0.0]}
        lengths = {"base": [3, 2, 1], "dpo": [4, 2, 2]}
        return StageResult(evaluation=Evaluation("gold", "base", ["a", "b", "c"], scores, lengths))

@hookimpl
def register_stage():
    return {"measured": Measured}
"""


def test_the_policies_of_a_run_are_compared_with_its_reference(tmp_path: Path) -> None:
    (tmp_path / "measured.py").write_text(STAGE)
    recipe = {"base": "sandbox", "data": {"format": "sandbox", "prompts": 2, "test_prompts": 2}}
    recipe |= {"plugins": [str(tmp_path / "measured.py")], "stages": [{"stage": "measured"}]}
    run_recipe({**recipe, "output_dir": str(tmp_path / "run")})
    dpo, ppo = compare([str(tmp_path / "run")])
    assert (dpo.counts, ppo.counts, dpo.judge) == ((2, 1, 0), (0, 2, 1), "gold")
    assert dpo.length is not None
    assert ppo.length is None  # its evaluation does not say how long they are
    assert compare([f"{tmp_path}/run#ppo", f"{tmp_path}/run#dpo"])[0].counts == (2, 1, 0)
    with pytest.raises(RlhfError, match="several policies .* name one"):
        compare([str(tmp_path / "run"), str(tmp_path / "run")])
    with pytest.raises(RlhfError, match=r"no policy 'dop' was evaluated \(did you mean dpo\?"):
        compare([str(tmp_path / "run#dop")])


def test_the_votes_of_people_are_compared_by_model(tmp_path: Path) -> None:
    rows = [(f"p{i}", "new", "old") for i in range(18)] + [("q1", "old", "new"), ("q2", "old", "new")]
    names = ("chosen", "rejected")
    lines = [
        {
            "prompt": prompt,
            "chosen": "a b",
            "rejected": "a",
            "origins": {n: {"model": m} for n, m in zip(names, models, strict=True)},
        }
        for prompt, *models in rows
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tie = {"prompt": "t", "response_a": "x", "response_b": "y"}
    tie["origins"] = {"response_a": {"model": "old"}, "response_b": {"model": "new"}}
    (tmp_path / "ties.jsonl").write_text(json.dumps(tie) + "\n")
    (other,) = compare([str(tmp_path)])
    assert (other.name, other.baseline, other.judge, other.counts) == ("old", "new", "people", (2, 1, 18))
    assert other.length is not None
    (tmp_path / "test.jsonl").write_text(json.dumps({**lines[0], "origins": None}) + "\n")
    with pytest.raises(DataError, match="test.jsonl:1: no `origins` says which model wrote its chosen"):
        compare([str(tmp_path)])


def test_votes_that_come_in_are_looked_at_again_and_again(tmp_path: Path) -> None:
    """Release 1 has six prompts; release 2 has twelve more, and one of the six labelled otherwise, which is late."""

    def export(number: int, winners: dict[str, str]) -> None:
        (tmp_path / str(number)).mkdir()
        origins = {name: {name: {"model": name}} for name in ("new", "old")}
        rows = [
            {"prompt": prompt, "chosen": "a", "rejected": "b"}
            | {"origins": {"chosen": {"model": won}, "rejected": {"model": ({*origins} - {won}).pop()}}}
            for prompt, won in winners.items()
        ]
        (tmp_path / str(number) / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    first = {f"p{n}": "old" for n in range(6)}
    export(1, first)
    (whole,), (open_still,) = compare([str(tmp_path / "1")]), compare([str(tmp_path)])
    assert (whole.counts, whole.better, open_still.counts, open_still.better) == ((6, 0, 0), True, (6, 0, 0), None)
    assert (whole.sign_p, whole.anytime_p) == (2 / 64, pytest.approx(1 / sequential.wealth(6, 0)))  # 1 / 4.9
    export(2, {**first, "p0": "new", **{f"q{n}": "old" for n in range(12)}})
    (two,) = compare([str(tmp_path)])
    assert (two.looks, two.counts, two.better, two.decided_after) == (2, (18, 0, 0), True, 11)
    assert "by all evidence of 2 looks, without ties between 6" in sentence(two)
    with pytest.raises(DataError, match="are on its own two models; name it alone"):
        compare([str(tmp_path), str(tmp_path)])


def test_the_command_compares_and_plans(tmp_path: Path) -> None:
    app = Typer()
    app.command()(register_commands()["compare"])
    old, new = write(tmp_path, "old", [0.0] * 20), write(tmp_path, "new", [1.0] * 20)
    done = CliRunner().invoke(app, [old, new])
    assert "new.jsonl is better than" in done.output
    assert "783 prompts" in CliRunner().invoke(app, ["--rate", "0.55"]).output
    assert "show win rates above 0.550" in CliRunner().invoke(app, ["--prompts", "783"]).output


def test_a_release_beside_other_sources_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(DataError, match="are on its own two models; name it alone"):
        compare([write(tmp_path, "a", [1.0]), str(tmp_path)])


def test_a_prompt_of_two_groups_is_refused(tmp_path: Path) -> None:
    row = {"prompt": "p", "score": 1.0}
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({**row, "lang": lang}) + "\n" for lang in ("de", "en")))
    with pytest.raises(DataError, match="a.jsonl:2: its prompt is in the group en, in a row before in de"):
        compare([str(file), str(file)], by="lang")
