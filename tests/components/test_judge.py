"""Judges: by a reward, by a policy that is asked, by a server; failures and orders."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from rlhf_plugins import ComponentError, RunError, Verdict
from rlhf_plugins.components.judge import ByPolicy, ByReward
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rows import Group, Samples
from rlhf_plugins.contract.run import Run
from rlhf_plugins.contract.run_kinds import Judge, JudgeFunction, Reward, RewardFunction
from rlhf_plugins.engine.comparison_prompt import asked, both_orders
from rlhf_plugins.engine.servers.served import Server
from rlhf_plugins.engine.weights.loading import load_row_encoder
from rlhf_plugins.evaluate.judges import PairJudge
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.handle import RewardHandle
from rlhf_plugins.testing import tiny_base, tiny_run

Reply = Callable[[dict[str, Any]], tuple[int, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    return tiny_run(tiny_base(folder / "base"), folder / "stage")


def text(content: str) -> tuple[int, Any]:
    return 200, {"choices": [{"message": {"content": content}}]}


def of_server(run: Run, url: str, **options: Any) -> JudgeFunction:
    return component("judge", {"use": "server", "url": url, "model": "m", **options}).build(run)


def test_a_judge_by_reward_is_the_sigmoid_of_the_difference(run: Run, tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text("def score(completions, **_):\n    return [len(c) / 4 for c in completions]\n")
    reward = {"use": "python", "path": f"{tmp_path / 'r.py'}:score"}
    judge = component("judge", {"use": "reward", "reward": reward}).build(run)
    (one,) = judge(["who\n"], ["ant bee"], ["ant"])  # 7/4 and 3/4
    assert one.probability == pytest.approx(1 / (1 + math.exp(-1)))


def test_a_reward_model_of_another_vocabulary_reads_its_own_tokens(run: Run) -> None:
    encoder = deepcopy(load_row_encoder(run.base))
    encoder.tokenizer.add_tokens(["ant bee"])  # one token, where the policy has two
    seen: list[int] = []

    def score(samples: Samples) -> Prediction:
        seen.extend(len(ids) for ids in samples.response_ids)
        return Prediction(torch.zeros(len(samples.responses)))

    ByReward(reward=Made(RewardHandle(score, encoder=encoder))).build(run)(["who\n"], ["ant bee"], ["ant"])
    assert seen[0] == seen[1]


def test_an_ensemble_that_votes_judges_both_responses_together(run: Run) -> None:
    def members(samples: Samples) -> Prediction:
        long, short = ([float(sign * len(ids)) for ids in samples.response_ids] for sign in (1, -1))
        return Prediction(torch.full((len(long),), 0.5), members=torch.tensor([long, long, short]).T, shares=True)

    verdicts = ByReward(reward=Made(RewardHandle(members))).build(run)(
        ["who\n"] * 2, ["ant bee", "ant"], ["ant", "ant"]
    )
    assert [one.probability for one in verdicts] == pytest.approx([2 / 3, 0.5])


def test_a_question_shows_calls_of_tools_and_parts_of_a_content_as_a_reader_sees_them() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "who"}]}
    calls = {"role": "assistant", "content": None, "tool_calls": [{"name": "find"}]}
    assert asked("{prompt}|{first}{second}", [parts, calls], "", "") == 'user: who\nassistant: [{"name": "find"}]|'


def test_the_same_question_is_asked_in_every_run_and_its_fence_in_either_order() -> None:
    one, other = (asked("{fence}{prompt}{first}{second}", "p", *pair) for pair in (("a", "b"), ("b", "a")))
    assert one == asked("{fence}{prompt}{first}{second}", "p", "a", "b")
    assert one[:20] == other[:20] != asked("{fence}{prompt}{first}{second}", "p", "a", "c")[:20]


def test_a_judge_that_fails_altogether_is_asked_again_later(tmp_path: Path) -> None:
    lost = [Verdict(None, "failed", "HTTP 503")]
    kept: list[Any] = []
    judge = PairJudge(lambda *_: lost, "base", lambda _, make: kept.append(make()) or kept[-1], "server")
    with pytest.raises(RunError, match="evaluate: the judge answered no comparison: HTTP 503"):
        judge.accuracy([Group("who", ("ant", "bee"))])
    assert not kept


def test_the_baseline_of_length_is_over_the_answered_pairs() -> None:
    found = [Verdict(0.9), Verdict(None, "failed", "HTTP 503")]
    judge = PairJudge(lambda *_: found, "base", lambda _, make: make(), "server")
    pairs = [Group("who", ("longer", "one")), Group("how", ("one", "longer"))]
    assert (judge.accuracy(pairs) or {})["longer_response_accuracy"] == 1.0


def test_a_policy_is_asked_in_both_orders(run: Run) -> None:
    asks = ByPolicy(policy=component("generator", "base"), question="{prompt} {first} {second}", answers=("ant", "bee"))
    judge = asks.build(run)
    (one,), (swapped,) = judge(["who\n"], ["ant"], ["bee"]), judge(["who\n"], ["bee"], ["ant"])
    assert 0 < one.probability < 1
    assert one.probability + swapped.probability == pytest.approx(1)


def test_a_liking_for_the_first_place_cancels_out() -> None:
    def first_in_nine_of_ten(prompts: Sequence[Any], first: Sequence[str], second: Sequence[str]) -> list[Verdict]:
        return [Verdict(0.9)] * len(prompts)

    assert both_orders(first_in_nine_of_ten)(["p"], ["a"], ["b"])[0].probability == pytest.approx(0.5)


def test_a_server_answers_in_log_probabilities(run: Run, serve: Callable[[Reply], str]) -> None:
    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        best = body["messages"][0]["content"].index("short") < body["messages"][0]["content"].index("longer")
        likely = {"A": 0.6, " B": 0.2} if best else {"A": 0.2, "B": 0.6}
        top = [{"token": token, "logprob": math.log(p)} for token, p in likely.items()]
        return 200, {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"top_logprobs": top}]}}]}

    verdicts = of_server(run, serve(reply))(["who"] * 2, ["short", "longer"], ["longer", "short"])
    assert [one.probability for one in verdicts] == pytest.approx([0.75, 0.25])


def test_a_first_token_that_is_mostly_something_else_is_a_failure(run: Run, serve: Callable[[Reply], str]) -> None:
    top = [{"token": token, "logprob": value} for token, value in {"Sorry": -1e-5, "A": -12.0, "B": -16.0}.items()]
    choice = {"message": {"content": "Sorry, I"}, "logprobs": {"content": [{"top_logprobs": top}]}}
    (one,) = of_server(run, serve(lambda _: (200, {"choices": [choice]})))(["who"], ["a"], ["b"])
    assert one == Verdict(None, "failed", "answered 'Sorry, I', not A or B")


def test_an_answer_in_text_counts_and_other_text_is_a_failure(run: Run, serve: Callable[[Reply], str]) -> None:
    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        asked_for = body["messages"][0]["content"]
        return text("Banana" if "fruit" in asked_for else "A better answer is" if "tree" in asked_for else "**A**")

    good, bad, words = of_server(run, serve(reply))(["who", "fruit", "tree"], ["a", "b", "a"], ["c", "d", "b"])
    assert (words.probability, words.status) == (None, "failed")
    assert good.probability == 0.5  # A in both orders
    assert (bad.probability, bad.status) == (None, "failed")
    assert "'Banana'" in bad.reason


def test_a_busy_server_is_asked_again_and_then_is_a_failure(run: Run, serve: Callable[[Reply], str]) -> None:
    calls: list[str | None] = []

    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        calls.append(body["key"])
        return (503, {}) if len(calls) < 3 else text("B")

    (one,) = of_server(run, serve(reply), parallel=1)(["who"], ["a"], ["b"])
    assert (one.probability, len(calls)) == (0.5, 4)
    (lost,) = of_server(run, serve(lambda _: (503, {})), attempts=2)(["who"], ["a"], ["b"])
    assert lost == Verdict(None, "failed", "unavailable after 2 calls: HTTP 503")


def test_a_server_does_not_show_its_key() -> None:
    assert "s3cret" not in repr(Server("http://localhost", "m", "s3cret", 1, 1.0))


def test_the_key_comes_from_the_environment(
    run: Run, serve: Callable[[Reply], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str | None] = []
    url = serve(lambda body: keys.append(body["key"]) or text("A"))
    with pytest.raises(RunError, match="the environment variable MINE is not set"):
        of_server(run, url, key="MINE")
    monkeypatch.setenv("MINE", "s3cret")
    of_server(run, url, key="MINE")(["who"], ["a"], ["b"])
    assert keys == ["Bearer s3cret"] * 2


def test_what_cannot_judge_at_all_is_said_before_anything_is_asked(run: Run, serve: Callable[[Reply], str]) -> None:
    with pytest.raises(RunError, match="no model server answers at http://127.0.0.1:9/models: ConnectError"):
        of_server(run, "http://127.0.0.1:9")
    url = serve(lambda _: text("A"))
    with pytest.raises(RunError, match="has no model .mm. \\(did you mean"):
        of_server(run, url, model="mm")
    with pytest.raises(ValueError, match="it should have {prompt}, {first}, {second}"):
        asked("Which is better?", "p", "a", "b")


class Made(Reward):
    """A reward that is made already."""

    def __init__(self, made: RewardHandle) -> None:
        self.made = made

    def build(self, run: Run) -> RewardFunction:
        """What was given."""
        return cast("RewardFunction", self.made)


class Wrongly(Judge):
    """Answers with what it is given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def build(self, run: Run) -> JudgeFunction:
        """Its answer to everything."""
        return lambda prompts, first, second: self.answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([Verdict(0.5)] * 2, "gave 2 verdicts for 1 prompts"),
        ([0.5], "gave a float for prompt 0, not a Verdict"),
        ([Verdict(1.5)], "gave the probability 1.5"),
        ([Verdict(None)], "judged with the probability None"),
        ([Verdict(0.5, "abstained")], "abstained with the probability 0.5"),
        ([Verdict(None, "absent")], "unknown status 'absent'"),
        ([Verdict(math.nan)], "gave the probability nan"),
    ],
)
def test_answers_that_are_no_verdicts_are_refused(run: Run, answer: Any, words: str) -> None:
    with pytest.raises(ComponentError, match=words):
        Wrongly(answer).build(run)(["who"], ["a"], ["b"])
