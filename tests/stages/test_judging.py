"""`evaluate` works for any run: by a function, by another run's reward model, or by held-out answers alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from marks import slow
from voting import share_that_prefers, voting

from rlhf_plugins import Base, Group, PluginError, RunError, StageResult
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.registry.registry import Registry, registry
from rlhf_plugins.report.schema import PolicyReport
from rlhf_plugins.report.words import PARTS
from rlhf_plugins.run.stage.stage_run import Services
from rlhf_plugins.stages._evaluation import EvaluateRun
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

OPTIONS = {"best_of": 1, "max_new_tokens": 2, "metrics": ["accuracy"], "prompts": 8}
ABSTAINS = (
    "def score(prompts, completions):\n    return [None if i == 1 else len(c) for i, c in enumerate(completions)]\n"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return tiny_base(tmp_path_factory.mktemp("base"))


def evaluate(base: Base, folder: Path, known: Registry | None = None, **options: Any) -> StageResult:
    """Of the base and a policy that is the base again, on pairs whose truth nobody knows."""
    policy = StageResult(name="same", policies={"same": {"use": "base"}}, start="base")
    run = tiny_run(base, folder, tiny_pairs(16), [policy])
    test = tuple(tiny_pairs(8, seed=1))
    data = replace(run.data, gold=None, test=test, prompts={"test": tuple(Group(group.prompt) for group in test)})
    run = replace(run, data=data, services=Services(registry=known) if known else run.services)
    return component("stage", {"use": "evaluate", **OPTIONS, **options}, known).run(run)


def test_without_a_judge_the_likelihood_of_held_out_answers_is_the_score(base: Base, tmp_path: Path) -> None:
    found = evaluate(base, tmp_path)
    judged, rows = found.evaluation, found.report.policies
    assert judged is not None
    assert (judged.judge, found.report.judge["kind"]) == ("log-likelihood per token", "loss")
    assert judged.scores["same"] == pytest.approx(judged.scores["base"])
    assert rows["base"]["perplexity"] == pytest.approx(math.exp(-rows["base"]["gold"]["mean"]), rel=0.2)
    assert rows["same"]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert rows["same"]["cut"] == rows["base"]["cut"] > 0  # at two tokens


def test_options_of_sampling_reach_the_responses(base: Base, tmp_path: Path) -> None:
    """Of one token at a time there is one response, the likeliest; the KL of a policy is not that of such responses."""
    shown = [
        evaluate(base, tmp_path / str(i), max_new_tokens=9, **how)
        for i, how in enumerate(({"temperature": 0.0}, {"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}, {}))
    ]
    greedy, *cut, own = [[row["responses"] for row in found.report.samples] for found in shown]
    assert cut == [greedy] * 3
    assert own != greedy
    penalised = evaluate(base, tmp_path / "p", max_new_tokens=9, temperature=0.0, repetition_penalty=9.0).report.samples
    assert [row["responses"] for row in penalised] != greedy
    assert [found.report.policies["same"]["kl"] is None for found in shown] == [True] * 4 + [False]
    said = "No KL is measured: with top_k 1, responses are not of the policies' own distributions."
    assert [said in found.report.notes for found in shown] == [False, True, False, False, False]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"top_p": 0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"temperature": 0, "top_p": 0.9}, "at temperature 0 the likeliest token is taken, whatever top_p"),
    ],
)
def test_options_that_cannot_be_sampled_with_are_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(PluginError, match=said):
        component("stage", {"use": "evaluate", **how})


def test_a_function_judges_and_a_prompt_on_which_it_abstains_is_left_out(base: Base, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(ABSTAINS)
    found = evaluate(base, tmp_path / "run", reward={"use": "python", "path": f"{tmp_path / 'score.py'}:score"})
    assert found.evaluation is not None
    assert (found.evaluation.judge, found.report.judge["kind"]) == ("function score", "function")
    asked = len(found.evaluation.prompts)
    assert found.report.left_out["prompt without a score for each policy"] == 1
    assert found.evaluation.scores["same"] == found.evaluation.scores["base"]
    assert {len(scores) for scores in found.evaluation.scores.values()} == {asked}


GRADED = """
def graded(completions):
    rows = [{"score": float(len(text)), "one": 1.0, "half": len(text) / 2} for text in completions]
    return [{**rows[0], "half": None}, {**rows[1], "score": None}, *rows[2:]]

def calm(completions):
    return [0.5] * len(completions)
"""


def test_the_parts_of_a_reward_are_measured_with_intervals(base: Base, tmp_path: Path) -> None:
    """The first prompt has no `half`, and the second no score, so that it counts nowhere."""
    (tmp_path / "r.py").write_text(GRADED)
    parts = [{"use": "python", "path": f"{tmp_path / 'r.py'}:{name}"} for name in ("graded", "calm")]
    found = evaluate(base, tmp_path / "run", reward={"use": "weighted", "parts": parts, "weights": [2.0, 1.0]})
    assert found.evaluation is not None
    scores = found.evaluation.scores["same"]
    mean = sum(scores) / len(scores)
    same = PolicyReport.model_validate(found.report.policies["same"])
    assert {name: part.n for name, part in same.parts.items()} == {
        **dict.fromkeys(("graded", "graded/one", "calm"), len(scores)),
        "graded/half": len(scores) - 1,
    }
    assert same.parts["graded"].mean == pytest.approx((mean - 0.5) / 2)  # 2 graded + calm
    assert same.parts["graded/half"].mean == pytest.approx(sum(s - 0.5 for s in scores[1:]) / 4 / (len(scores) - 1))
    assert same.parts["graded"].low < same.parts["graded"].mean < same.parts["graded"].high
    (section,) = found.sections
    assert [(row["part"], row["policy"]) for row in section.rows[:4]] == [
        (name, who) for name in ("graded", "graded/one") for who in ("base", "same")
    ]
    assert (section.title, section.rows[3]["mean"]) == (PARTS, "1.000 [1.000, 1.000]")
    assert section.rows[3]["difference from base"] == "0.000 [0.000, 0.000]"


def test_a_reward_without_parts_makes_no_report_longer(base: Base, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(ABSTAINS)
    found = evaluate(base, tmp_path / "run", reward={"use": "python", "path": f"{tmp_path / 'score.py'}:score"})
    assert not found.sections
    assert found.report.policies["same"]["parts"] == {}


def test_of_several_responses_the_score_of_a_prompt_is_the_mean(base: Base, tmp_path: Path) -> None:
    """By the true reward, of a policy that is the base again, beside the best of two."""
    same = StageResult(name="same", policies={"same": {"use": "base"}}, start="base")
    run = tiny_run(base, tmp_path, finished=[same])
    options = {**OPTIONS, "responses": 3, "ceiling": 2}
    found = component("stage", {"use": "evaluate", **options}).run(run)
    sampled = run.policy().sample(run.data.prompts["test"][:8], 3, max_new_tokens=2, seed=run.seed)
    worths = [run.data.gold(str(p), r)["total"] for p, r in zip(sampled.prompts, sampled.responses, strict=True)]
    means = [sum(worths[row : row + 3]) / 3 for row in range(0, len(worths), 3)]
    assert found.evaluation.scores["same"] == found.evaluation.scores["base"] == pytest.approx(means)
    assert len(found.evaluation.prompts) == found.report.policies["same"]["n"] == len(means)
    shown = found.report.samples[1]["responses"]["base"]
    assert (shown["text"], shown["gold"]) == (sampled.responses[3], worths[3])


def test_greedy_responses_to_a_prompt_are_one() -> None:
    with pytest.raises(PluginError, match="all responses to a prompt are the same"):
        component("stage", {"use": "evaluate", "responses": 2, "temperature": 0})


def compared(base: Base, folder: Path, **options: Any) -> EvaluateRun:
    """Of a base, of another one and of a saved vote that the run made, on pairs whose truth nobody knows."""
    votes, other = voting(folder / "votes", base), tiny_base(folder / "other", seed=1)
    policy = StageResult(name="o", policies={"o": {"use": "trained", "path": other.path, "base": other.path}})
    reward = StageResult(name="votes", rewards={"votes": {"use": "saved", "path": str(votes)}})
    run, test = tiny_run(base, folder / "run", tiny_pairs(16), [reward, policy]), tuple(tiny_pairs(8, seed=1))
    data = replace(run.data, gold=None, test=test, prompts={"test": tuple(Group(group.prompt) for group in test)})
    return EvaluateRun(
        component("stage", {"use": "evaluate", **OPTIONS, "max_new_tokens": 8, **options}), replace(run, data=data)
    )


@pytest.mark.parametrize("given", [{}, {"reward": "model"}], ids=["the latest", "given"])
def test_a_reward_that_compares_responses_scores_each_beside_that_of_the_reference(
    base: Base, tmp_path: Path, given: dict[str, Any]
) -> None:
    """Alone each would have one half; the members are asked one by one here, and their shares are the scores."""
    made = compared(base, tmp_path, **given)
    found, texts = made.result(), {name: policy.samples.responses for name, policy in made.policies()}
    assert found.evaluation is not None
    prompts = [str(prompt) for prompt in made.prompts]
    expected = share_that_prefers(tmp_path / "votes", prompts, texts["o"], texts["base"])
    assert found.evaluation.scores["o"] == pytest.approx(expected)
    assert len(set(expected)) > 1
    assert (found.evaluation.judge, found.report.judge["stage"]) == ("P(better than base)", "votes")
    assert any(note.startswith("The aggregation vote compares responses") for note in found.report.notes)
    assert found.report.reward_model["accuracy_interval"]["low"] >= 0  # by `metrics`, as of any reward model


def test_the_best_of_n_is_voted_among_these_n(base: Base, tmp_path: Path) -> None:
    """Of three that are sampled for a ceiling, two; which of them, the members that are asked one by one say."""
    made = compared(base, tmp_path, best_of=2)
    made.pool, made.pool_size = made.sample(made.reference, made.asked, 3), 3
    best, pool = dict(made.policies())["best-of-2"].samples.responses, made.pool.responses
    prompts = [str(prompt) for prompt in made.prompts]
    won = share_that_prefers(tmp_path / "votes", prompts, pool[::3], pool[1::3])
    assert best == [pool[3 * row + (share < 0.5)] for row, share in enumerate(won)]
    assert min(won) < 0.5 < max(won)


def test_no_ceiling_is_sampled_where_the_true_reward_does_not_judge(base: Base, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(ABSTAINS)
    run, by_function = tiny_run(base, tmp_path / "run"), {"use": "python", "path": f"{tmp_path / 'score.py'}:score"}
    sizes = [
        EvaluateRun(component("stage", {"use": "evaluate", **OPTIONS, "ceiling": 3, **judge}), run).pool_size
        for judge in ({}, {"reward": by_function})
    ]
    assert sizes == [3, 0]


@pytest.mark.parametrize("ceiling", [2, 3])
def test_policies_are_compared_by_the_same_random_numbers_whatever_else_is_sampled(
    base: Base, tmp_path: Path, ceiling: int
) -> None:
    """A policy that is the base answers as the base does; the responses of the ceiling are others."""
    same = StageResult(name="same", policies={"same": {"use": "base"}}, start="base")
    run = tiny_run(base, tmp_path, finished=[same])
    found = EvaluateRun(component("stage", {"use": "evaluate", **OPTIONS, "ceiling": ceiling}), run)
    judged = dict(found.policies())
    assert judged["same"].samples.responses == judged["base"].samples.responses
    assert found.pool is not None
    first = [found.pool.responses[row * ceiling] for row in range(len(found.prompts))]
    assert first != judged["base"].samples.responses


def test_another_runs_reward_model_judges(base: Base, tmp_path: Path) -> None:
    from rlhf_plugins import session

    data = tiny_run(base, tmp_path / "rows", tiny_pairs(16)).data
    other = session(base, data, tmp_path / "a")
    other.train({"use": "reward_model", "trainer": {"max_steps": 1, "disable_tqdm": True}}, name="reward")
    found = evaluate(base, tmp_path / "run", reward={"use": "saved", "path": str(tmp_path / "a")})
    assert found.evaluation is not None
    assert (found.evaluation.judge, found.report.judge["kind"]) == ("reward model score", "reward model")
    assert 0 <= found.report.reward_model["accuracy"] <= 1


@pytest.mark.parametrize(
    ("judge", "policy_after"),
    [
        ({"judge": "reward"}, True),
        *slow(({"judge": "reward"}, False), ({"reward": "model"}, True)),
        *slow(({"reward": {"use": "model", "stage": "reward"}}, False)),
    ],
)
def test_a_judge_of_this_run_is_known_as_such_and_favours_what_came_after_it(
    base: Base, tmp_path: Path, judge: dict[str, Any], policy_after: bool
) -> None:
    from rlhf_plugins import open_run, run_recipe

    few = {"max_steps": 1, "disable_tqdm": True}
    trained = [{"stage": "preference", "from": "base", "trainer": few}]
    reward = [{"stage": "reward_model", "name": "reward", "from": "base", "trainer": few}]
    order = [*reward, *trained] if policy_after else [*trained, *reward]
    stages = [*order, {"stage": "evaluate", **OPTIONS, **judge}]
    data = {"format": "sandbox", "prompts": 8, "test_prompts": 4}
    recipe = {"base": base.path, "data": data, "output_dir": str(tmp_path / "run"), "stages": stages}
    found = open_run(run_recipe(recipe, say=str).folder).finished[-1]
    assert found.report.judge["stage"] == "reward"
    assert any("the run's own reward model" in note for note in found.report.notes) is policy_after


FAILS = """
from dataclasses import dataclass

from rlhf_plugins import Judge, Verdict, hookimpl


@dataclass(frozen=True)
class Longer(Judge):
    def build(self, run):
        def judge(prompts, first, second):
            (run.folder / "calls").open("a").write(".")
            better = [Verdict(float(len(a) > len(b)) if len(a) != len(b) else 0.5) for a, b in zip(first, second)]
            return [*better[:-1], Verdict(None, "failed", "HTTP 500")]
        return judge


@hookimpl
def register_judge():
    return {"longer": Longer}
"""


@pytest.fixture
def known(tmp_path: Path) -> Registry:
    (tmp_path / "longer.py").write_text(FAILS)
    return registry().with_files([tmp_path / "longer.py"])


def test_a_judge_of_pairs_scores_against_the_reference_and_failures_are_counted(
    base: Base, tmp_path: Path, known: Registry
) -> None:
    found = evaluate(base, tmp_path / "run", known, judge={"use": "longer"})
    assert found.evaluation is not None
    assert found.evaluation.judge == "P(better than base)"
    assert set(found.evaluation.scores["base"]) == set(found.evaluation.scores["same"]) == {0.5}
    described = found.report.judge
    assert (described["kind"], described["name"]) == ("pairs", "longer")
    assert described["failed"] == pytest.approx(1 / (len(found.evaluation.prompts) + 1))
    assert "1 comparisons without an answer: HTTP 500." in found.report.notes
    assert found.report.reward_model["n"] == len(found.evaluation.prompts)


def test_a_judge_of_pairs_compares_each_of_several_responses(base: Base, tmp_path: Path, known: Registry) -> None:
    found = evaluate(base, tmp_path / "run", known, judge={"use": "longer"}, responses=2)
    prompts = len(found.evaluation.prompts)
    assert set(found.evaluation.scores["same"]) == {0.5}  # the last comparison failed, and its prompt has another
    assert found.report.judge["failed"] == pytest.approx(1 / (2 * prompts))


def test_an_answer_that_was_paid_for_is_not_asked_for_again(base: Base, tmp_path: Path, known: Registry) -> None:
    for _ in range(2):
        evaluate(base, tmp_path / "run", known, judge={"use": "longer"})
    assert (tmp_path / "run/calls").read_text() == ".."  # the policy and the pairs, once


def test_two_judges_are_refused() -> None:
    with pytest.raises(PluginError, match="give one of the two"):
        component("stage", {"use": "evaluate", "reward": "gold", "judge": "reward"})


def test_with_nothing_to_judge_by_it_says_what_to_give(base: Base, tmp_path: Path) -> None:
    run = tiny_run(base, tmp_path)
    bare = replace(run.data, gold=None, test=(), prompts={"test": (Group("who\n"), Group("how\n"))})
    with pytest.raises(RunError, match="there is nothing to judge by"):
        component("stage", {"use": "evaluate", **OPTIONS}).run(replace(run, data=bare))


def test_tasks_are_measured_for_every_policy(base: Base, tmp_path: Path) -> None:
    tasks = [{"use": "violations", "reward": {"use": "json_object"}, "max_new_tokens": 2, "rows": 9}]
    found = evaluate(base, tmp_path, tasks=tasks)
    shares = found.metrics["tasks"]["violations"]
    # nothing in 8 rows: 1.96^2 / (8 + 1.96^2) = .3244 of others may be there, twice that in a difference from -1 to 1
    assert shares["same"] == {"mean": 0.0, "low": 0.0, "high": pytest.approx(0.3244, abs=1e-4), "n": 8}
    (section,) = found.sections
    assert "violations: 8 of 9 rows, since the run holds out no more" in section.text
    assert section.rows[1] == {
        "task": "violations",
        "policy": "same",
        "rows": 8,
        "share": "0.0% [0.0, 32.4]",
        "difference from base": "+0.0% [-32.4, +32.4]",
    }
