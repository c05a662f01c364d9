"""A verdict says what the numbers show, beside what limits them; a judge that may be guessing gets none."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_plugins.report.schema import Report
from rlhf_plugins.report.settings import warnings
from rlhf_plugins.report.verdict import Verdict, verdicts

JUDGE = {"judge": {"kind": "reward model", "stage": "reward"}, "score_name": "reward model score"}


def _verdict(fields: dict[str, Any], rest: dict[str, Any] | None = None, **changes: Any) -> Verdict:
    """Of the policy ppo with these changes."""
    ppo = fields["policies"]["ppo"] | changes
    policies = {"sft": fields["policies"]["sft"], "ppo": ppo}
    return verdicts(Report.model_validate(fields | {"policies": policies} | (rest or {})))["ppo"]


def _between(low: float, high: float) -> dict[str, float]:
    return {"mean": (low + high) / 2, "low": low, "high": high}


@pytest.mark.parametrize(
    ("gain", "word", "said"),
    [
        (_between(0.01, 0.03), "better", "ppo is better than sft: gold reward +0.020 (95% CI 0.010 to 0.030)"),
        (_between(-0.03, -0.01), "worse", "ppo is worse than sft: gold reward -0.020 (95% CI -0.030 to -0.010)"),
        (_between(0.0, 0.02), "not shown", "ppo is not shown to be better than sft: gold reward +0.010"),
        (_between(-0.02, 0.0), "not shown", "ppo is not shown to be better than sft: gold reward -0.010"),
        (_between(-0.01, 0.01), "not shown", "ppo is not shown to be better than sft: gold reward +0.000"),
    ],
)
def test_the_interval_of_the_difference_decides(fields: dict[str, Any], gain: Any, word: str, said: str) -> None:
    found = _verdict(fields, gain=gain)
    assert (found.word, found.caveats) == (word, ())
    assert found.sentence.startswith(said)
    assert found.sentence.partition(" on ")[2].startswith("256 prompts, at a KL to sft of 9.40 (9.10 to 9.70) nats")


def test_how_many_prompts_would_show_a_difference(fields: dict[str, Any]) -> None:
    # half the interval is twice the difference: 4 * 256 prompts for an interval that ends at the mean, and then half
    # of all repeats are beyond; times (2.801585 / 1.959964)^2 = 2.0432 for 80% of them
    said = _verdict(fields, gain=_between(-0.01, 0.03)).sentence
    assert said.endswith("; a difference of this size would need about 2,093 prompts to show in 80% of repeats.")

    below = _verdict(fields, gain=_between(-0.03, 0.01)).sentence
    assert below.endswith("; a difference of this size would need about 2,093 prompts to show in 80% of repeats.")

    # 20 times the difference: 400 * 256 is more than anybody would ask
    assert _verdict(fields, gain=_between(-0.019, 0.021)).sentence.endswith(" nats.")


@pytest.mark.parametrize(("n", "gain"), [(9, _between(0.5, 1.5)), (256, _between(1.0, 1.0))])
def test_very_few_prompts_and_equal_differences_show_nothing(fields: dict[str, Any], n: int, gain: Any) -> None:
    found = _verdict(fields, n=n, gain=gain)
    assert found.word == "not judged"
    assert found.sentence.startswith(f"ppo cannot be judged on {n} prompts: gold reward +1.000")
    assert "(95% CI 1.000" not in found.sentence


@pytest.mark.parametrize(("n", "few"), [(10, True), (49, True), (50, False)])
def test_ten_prompts_are_judged_and_fifty_are_enough(fields: dict[str, Any], n: int, few: bool) -> None:
    found = _verdict(fields, n=n)
    assert (found.word, bool(found.caveats)) == ("better", few)


def test_a_difference_without_an_interval_or_of_exactly_nothing_shows_nothing(fields: dict[str, Any]) -> None:
    found = _verdict(fields, gain={"mean": 1.0, "low": None, "high": None}, kl=None)
    assert found == Verdict(
        "ppo",
        "not shown",
        "ppo is not shown to be better than sft: gold reward +1.000 on 256 prompts, at an unknown KL.",
    )
    nothing = _verdict(fields, gain=_between(0.0, 0.0))
    assert (nothing.word, len(nothing.caveats)) == ("not shown", 1)


def test_it_is_compared_with_its_start_where_that_was_judged(fields: dict[str, Any]) -> None:
    found = _verdict(fields, gain=_between(0.1, 0.3), start="dpo", start_gain=_between(-0.3, -0.1))
    assert (found.word, found.sentence.partition(":")[0]) == ("worse", "ppo is worse than its start dpo")
    assert found.caveats == ()
    assert _verdict(fields, start="dpo").sentence.startswith("ppo is better than sft: ")
    near = _verdict(fields, kl=0.04, start="dpo", start_gain=_between(0.1, 0.3))
    assert (near.word, len(near.caveats)) == ("better", 1)  # its KL is not to its start


def test_limits_are_said_beside_the_number(fields: dict[str, Any]) -> None:
    same = {"mean": 1.0, "low": 1.0, "high": 1.0}
    found = _verdict(fields, n=24, kl=0.04, gain=same, start="dpo", start_gain=same)
    assert found.caveats == (
        "24 prompts are too few for a firm interval",
        "all differences are equal, so that the interval has no width, which is not certainty",
        "at a KL near 0 its responses hardly differ from those of sft",
    )
    assert str(found) == f"{found.sentence} But {'; '.join(found.caveats)}."


@pytest.mark.parametrize("low", [-0.1, 0.1])
def test_a_policy_at_a_kl_near_0_is_not_called_better(fields: dict[str, Any], low: float) -> None:
    found = _verdict(fields, n=256, kl=0.04, gain=_between(low, 0.5))
    assert found.sentence.startswith("ppo hardly differs from sft: ")
    assert "KL to sft of 0.04" in found.sentence
    assert found.word == "hardly differs"
    assert found.caveats == ()


def test_responses_that_were_cut_are_said(fields: dict[str, Any]) -> None:
    assert _verdict(fields, cut=0.05).caveats == ()
    assert _verdict(fields, cut=0.75).caveats == ("75.0% of its responses were cut at max_new_tokens",)


@pytest.mark.parametrize(
    ("trainer", "at", "said"),
    [
        ({}, 1.0, ()),
        ({"temperature": 0.3}, 0.3, ()),
        ({"top_p": 1.0, "top_k": 0, "generation_kwargs": {"repetition_penalty": 1.0}}, 1.0, ()),
        (
            {"temperature": 0.3},
            1.0,
            (
                "its training sampled with temperature 0.3, and it is measured with temperature 1: "
                "`stages.held_out.temperature=0.3` measures it so",
            ),
        ),
        (
            {"top_p": 0.9, "generation_kwargs": {"top_k": 20}},
            0.0,
            (
                "its training sampled with temperature 1, top_p 0.9, top_k 20, and it is measured with temperature 0, "
                "top_p 1, top_k 0: `stages.held_out.temperature=1 stages.held_out.top_p=0.9 stages.held_out.top_k=20` "
                "measures it so",
            ),
        ),
    ],
)
def test_a_policy_that_is_measured_at_another_temperature_says_so(
    fields: dict[str, Any], trainer: dict[str, Any], at: float, said: tuple[str, ...]
) -> None:
    stages = [
        {"name": "ppo", "stage": "online", "trainer": trainer},
        {"name": "held_out", "stage": "evaluate", "temperature": at},
    ]
    assert _verdict(fields, {"recipe": {"stages": stages}}, stage="ppo").caveats == said
    ahead = [f"held_out: policy ppo: {each}" for each in said]
    assert list(warnings(stages)) == ahead
    assert list(warnings(stages[::-1])) == []  # it measures what is there before it
    unsampled = {"name": "ppo", "stage": "preference", "trainer": {"beta": 0.1}}
    assert list(warnings([unsampled, {"stage": "evaluate", "temperature": 0.5}])) == []
    own = {**unsampled, "temperature": 0.3}
    assert len(list(warnings([own, {"stage": "evaluate", "temperature": 0.5}, stages[1]]))) == 1 + (at != 0.3)


@pytest.mark.parametrize(
    ("evaluation", "said"),
    [
        ({"top_p": 0.9, "min_p": 0.1}, ()),
        ({"top_p": 0.9}, ("with min_p 0.1, and it is measured with min_p 0: `stages.evaluate.min_p=0.1` measures",)),
        ({"top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1}, ("with repetition_penalty 1, and it is measured",)),
    ],
)
def test_an_evaluation_with_the_options_of_the_training_has_no_caveat(
    fields: dict[str, Any], evaluation: dict[str, Any], said: tuple[str, ...]
) -> None:
    trained = {"name": "ppo", "stage": "online", "trainer": {"top_p": 0.9, "generation_kwargs": {"min_p": 0.1}}}
    stages = [trained, {"stage": "evaluate", **evaluation}]
    found = _verdict(fields, {"recipe": {"stages": stages}}, stage="ppo").caveats
    assert [each in one for each, one in zip(said, found, strict=True)] == [True] * len(said)


def test_a_policy_that_was_trained_against_the_judge_says_so(fields: dict[str, Any]) -> None:
    (said,) = _verdict(fields, JUDGE, stage="ppo").caveats
    assert said == "it was trained against this judge, so that a higher score may be the judge's error"


def test_a_policy_that_was_trained_on_the_function_that_judges_says_so(fields: dict[str, Any]) -> None:
    judge = {"judge": {"kind": "function", "name": "python s.py:f 9.0"}, "reward_model": None}
    own, other = {"use": "python", "path": "s.py:f", "note": None, "timeout": 9.0}, {"use": "gold"}
    for stage, known in (
        ({"reward": {"use": "weighted", "rewards": [other, own]}}, True),
        ({"reward": other, "fallback": own}, True),
        ({"reward": {"use": "weighted", "rewards": [other]}}, False),
        ({"reward": other, "tasks": [{"use": "answers", "reward": own}], "monitors": [{"reward": own}]}, False),
    ):
        said = _verdict(fields, {**judge, "recipe": {"stages": [{"name": "ppo", **stage}]}}).caveats
        assert [each.startswith("it was trained on the function that judges it") for each in said] == [True] * known
    assert _verdict(fields, judge).caveats == ()


def test_a_judge_of_the_same_rows_is_said(fields: dict[str, Any]) -> None:
    stages = [{"name": "reward", "stage": "reward"}, {"name": "dpo", "stage": "preference"}]
    (said,) = _verdict(fields, JUDGE | {"stages": stages}, stage="dpo").caveats
    assert said == "the judge was trained on the same rows"
    own = {"stages": [{"name": "reward", "data": {"source": "other.jsonl"}}, {"name": "dpo"}]}
    assert _verdict(fields, JUDGE | {"stages": stages, "recipe": own}, stage="dpo").caveats == ()


@pytest.mark.parametrize(
    ("judge", "why"),
    [
        (
            {"accuracy": 0.55, "accuracy_interval": _between(0.5, 0.6)},
            "it orders 55.0% (95% CI 50.0% to 60.0%) of 560 held-out pairs as people did, which may be chance",
        ),
        (
            {"accuracy": 0.56, "longer_response_accuracy": 0.56, "accuracy_interval": _between(0.52, 0.6)},
            "it orders 56.0% of held-out pairs as people did, their length alone 56.0%",
        ),
        (
            {"accuracy": 0.5, "longer_response_accuracy": 0.571, "accuracy_interval": None},
            "it orders 50.0% of held-out pairs as people did, their length alone 57.1%",
        ),
    ],
)
def test_a_judge_that_may_be_guessing_gives_no_verdict(fields: dict[str, Any], judge: Any, why: str) -> None:
    found = _verdict(fields, JUDGE | {"reward_model": fields["reward_model"] | judge})
    assert found.word == "judge not trusted"
    assert found.sentence.startswith(f"ppo: the judge cannot be trusted here, since {why} (reward model score +0.260")
    assert not any("function" in said for said in found.caveats)
    by_truth = _verdict(fields, {"judge": {"kind": "gold"}, "reward_model": fields["reward_model"] | judge})
    assert (by_truth.word, by_truth.caveats) == ("better", ())


def test_longer_responses_to_a_judge_that_prefers_length_are_said(fields: dict[str, Any]) -> None:
    judge = JUDGE | {"reward_model": fields["reward_model"] | {"length_correlation": 0.4}}
    (*_, said) = _verdict(fields, judge, length=69.0).caveats  # 2 * 34.5
    assert said == "its responses are 2.0 times as long, and the judge prefers length (correlation 0.40)"
    for correlation, length in ((0.4, 48.3), (0.2, 69.0), (None, 69.0)):  # 48.3 is 1.4 times as long
        model = fields["reward_model"] | {"length_correlation": correlation}
        assert len(_verdict(fields, judge | {"reward_model": model}, length=length).caveats) == 1


def test_a_judge_that_nobody_measured_is_said(fields: dict[str, Any]) -> None:
    for kind, said in (
        ("reward model", "how often the judge is right was not measured"),
        ("loss", "nobody judged its responses, only the likelihood of held-out answers is known"),
    ):
        assert _verdict(fields, {**JUDGE, "judge": {"kind": kind}, "reward_model": None}).caveats == (said,)
    unmeasured = fields["reward_model"] | {"accuracy": None, "accuracy_interval": None}
    assert _verdict(fields, JUDGE | {"reward_model": unmeasured}).word == "better"


@pytest.mark.parametrize(("failed", "word"), [(0.2, "better"), (0.3, "judge not trusted")])
def test_comparisons_without_an_answer_are_said(fields: dict[str, Any], failed: float, word: str) -> None:
    found = _verdict(fields, {"judge": {"kind": "pairs", "name": "server", "failed": failed}})
    assert found.word == word
    assert f"the judge gave no usable answer to {failed:.1%} of the comparisons" in found.caveats
    assert ("it gave no usable answer to 30.0%" in found.sentence) == (failed > 0.2)


def test_a_function_is_the_task_itself_whatever_people_prefer(fields: dict[str, Any]) -> None:
    model = fields["reward_model"] | {"accuracy": 0.55, "accuracy_interval": _between(0.5, 0.6)}
    found = _verdict(fields, {"judge": {"kind": "function"}, "reward_model": model})
    assert found.word == "better"
    (said,) = found.caveats
    assert said.startswith("the function is not people's taste: it orders 55.0% (95% CI 50.0% to 60.0%)")


def test_a_policy_that_the_held_out_rows_chose_says_so(fields: dict[str, Any]) -> None:
    best, own = {"load_best_model_at_end": True, "metric_for_best_model": "reward"}, {"source": "other.jsonl"}
    task, judged = {"name": "acc", "data": own}, {"name": "evaluate", "stage": "evaluate"}
    rest = "on held-out rows that are measured here too, which favours it"
    kept = f"its weights are those of the step that had the best eval_reward {rest}"
    cases: list[tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
        ({"trainer": best}, {}, (kept,)),
        ({"trainer": best, "data": own}, {}, ()),
        ({"trainer": best, "data": own}, {"data": own}, (kept,)),
        ({"trainer": {}, "early_stopping_patience": 3}, {}, (f"its training was ended by eval_loss {rest}",)),
        ({"trainer": {"eval_strategy": "steps"}}, {}, ()),
        ({"trainer": best | {"metric_for_best_model": "eval_acc"}, "tasks": [task]}, {}, ()),
        ({"trainer": best, "tasks": [task]}, {}, (kept,)),
    ]
    for trained, evaluation, said in cases:
        stages = [{"name": "ppo", "stage": "preference", **trained}, {**judged, **evaluation}]
        assert _verdict(fields, {"recipe": {"stages": stages}}).caveats == said
    assert _verdict(fields, {"recipe": {"stages": [{"name": "ppo", "trainer": best}]}}).caveats == ()
