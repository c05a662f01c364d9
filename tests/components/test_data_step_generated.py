"""Responses that models write for rows, and a judge's look at them: what is made, what is left out and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_plugins import DataError, PluginError, RecipeError
from rlhf_plugins.components.aggregation import Vote
from rlhf_plugins.components.data_step_confirmed import Confirmed
from rlhf_plugins.components.data_step_generated import Answered, Paired, _scores
from rlhf_plugins.contract.records import Prediction, Verdict
from rlhf_plugins.contract.rows import Data, Group, Origin, Samples, Text
from rlhf_plugins.contract.run import Base, Run, StageResult
from rlhf_plugins.contract.run_kinds import Generator, Judge, JudgeFunction
from rlhf_plugins.data.fields import content
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.recipe.check import check_recipe
from rlhf_plugins.reward_models.ensemble import Ensemble
from rlhf_plugins.reward_models.handle import reward_handle
from rlhf_plugins.testing import tiny_base, tiny_run

asked: list[Text] = []


@dataclass(frozen=True)
class Writes(Generator):
    """A word per letter of the prompt's first word, but for two."""

    word: str = "ant"

    def build(self, run: Run) -> Any:
        return self

    def __enter__(self) -> Writes:
        return self

    def __exit__(self, *_: object) -> None: ...

    def sample(self, prompts: Sequence[Text], n: int, **_: Any) -> Samples:
        asked.extend(prompts)
        counts = [len(content(prompt).split()[0]) - 2 for prompt in prompts]
        texts = [" ".join([self.word] * count) for count in counts]
        return Samples(prompts, texts, [[1]] * len(texts), [[1] * count for count in counts])


@dataclass(frozen=True)
class Prefers(Judge):
    """The first response where the prompt begins with w; it abstains where it begins with h."""

    def build(self, run: Run) -> JudgeFunction:
        def judge(prompts: Sequence[Text], first: Sequence[str], second: Sequence[str]) -> list[Verdict]:
            sure = [0.9 if str(prompt).startswith("w") else 0.2 for prompt in prompts]
            silent = Verdict(None, "abstained")
            return [silent if str(q).startswith("h") else Verdict(p) for q, p in zip(prompts, sure, strict=True)]

        return judge


class Words:
    """A run that knows the words of components that no plugin registered."""

    def __init__(self, folder: Path) -> None:
        self.run = tiny_run(Base("none"), folder)

    def spec(self, made: object) -> dict[str, Any]:
        return {"use": repr(made)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)


@pytest.fixture
def run(tmp_path: Path) -> Any:
    asked.clear()
    return Words(tmp_path / "stage")


def rows(*prompts: str) -> Data:
    groups = [Group(p, ("old", "older"), (0, 1), topic="t", origin=Origin("a", i)) for i, p in enumerate(prompts, 1)]
    return Data(tuple(groups))


def test_a_model_answers_each_prompt_once_and_what_is_left_out_is_counted(run: Any) -> None:
    step = Answered(generator=Writes(), max_new_tokens=3).build(run)
    found = step(rows("what", "who is", "what", "is it", "whoever"), 0)  # two words, one, -, none, five
    assert [(g.prompt, g.responses) for g in found.train] == [("what", ("ant ant",)), ("who is", ("ant",))]
    assert found.dropped == {
        "answered: another row of the prompt": 1,
        "answered: an empty response": 1,
        "answered: cut at max_new_tokens": 1,
    }
    assert (found.train[0].topic, found.train[0].ranks) == ("t", None)
    assert found.train[0].origin == Origin("answered", parents=("a:1",))


def test_what_was_answered_is_not_asked_again_after_a_kill(run: Any) -> None:
    first, again = (Answered(generator=Writes()).build(run)(rows("what", "who"), 0) for _ in range(2))
    assert first == again
    assert asked == ["what", "who"]


def test_answers_to_messages_are_messages_and_prompts_alone_are_answered(run: Any) -> None:
    (row,) = Answered(generator=Writes()).build(run)(Data((Group([{"role": "user", "content": "who"}]),)), 0).train
    assert row.responses == ([{"role": "assistant", "content": "ant"}],)
    steps = [{"use": "answered", "generator": "base"}]
    words = {"use": "prepared", "rows": {"format": "prompts", "source": "p.jsonl"}, "steps": steps}
    assert component("data_format", words).answered


def test_a_stronger_model_is_paired_with_a_weaker_one(run: Any) -> None:
    step = Paired(stronger=Writes("fox"), weaker=Writes("gas")).build(run)
    found = step(rows("what", "it"), 0)
    (pair,) = found.train
    assert (pair.responses, pair.ranks) == (("fox fox", "gas gas"), (0, 1))
    assert found.dropped == {"paired: an empty response": 1}
    equal = Paired(stronger=Writes(), weaker=Writes()).build(run)
    assert equal(rows("what"), 0).dropped == {"paired: equal responses": 1}


def test_a_second_judge_keeps_what_it_confirms(run: Any) -> None:
    made = Paired(stronger=Writes("fox"), weaker=Writes("gas")).build(run)(rows("what", "how", "the"), 0)
    found = Confirmed(judge=Prefers()).build(run)(Data((*made.train, *rows("the old row").train)), 0)
    assert [group.prompt for group in found.train] == ["what", "the old row"]  # made rows alone are judged
    assert found.dropped == {"confirmed: the judge abstained": 1, "confirmed: not confirmed by the judge": 1}
    assert not Confirmed(judge=Prefers(), least=0.95).build(run)(Data(made.train[:1]), 0).train


@dataclass(frozen=True)
class SaysTheFirst(Judge):
    """Whatever it is shown."""

    def build(self, run: Run) -> JudgeFunction:
        return lambda prompts, ours, theirs: [Verdict(1.0) for _ in prompts]


def test_a_judge_that_always_says_the_first_confirms_every_other_row(run: Any) -> None:
    found = Confirmed(judge=SaysTheFirst(), over="all").build(run)(rows("what", "who", "when", "why"), 0)
    assert [group.prompt for group in found.train] == ["what", "when"]


def test_a_judge_with_nothing_to_say_is_refused(run: Any) -> None:
    with pytest.raises(DataError, match="no row that was made of others has a preference"):
        Confirmed(judge=Prefers()).build(run)(rows("what"), 0)
    with pytest.raises(DataError, match="the judge abstained on all 1 preferences"):
        Confirmed(judge=Prefers(), over="all").build(run)(rows("how"), 0)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a tiny base, after a stage that handed on two pairs."""
    folder = tmp_path_factory.mktemp("live")
    groups = (Group("who\n", ("ant bee", "ant"), (0, 1)), Group("how\n", ("ant", "ant bee"), (0, 1)))
    return tiny_run(
        tiny_base(folder / "base"), folder / "stage", finished=[StageResult(name="first", data=Data(groups))]
    )


def prepared(run: Run, **step: Any) -> Data:
    words = {"use": "prepared", "rows": {"format": "stage", "stage": "first"}, "steps": [step]}
    found: Data = component("data_format", words).load_in(run)
    return found


def by_length(folder: Path) -> dict[str, Any]:
    (folder / "r.py").write_text("def score(completions, **_):\n    return [len(c) for c in completions]\n")
    return {"use": "python", "path": f"{folder / 'r.py'}:score"}


def test_a_reward_of_the_run_judges(live: Run, tmp_path: Path) -> None:
    judge = {"use": "reward", "reward": by_length(tmp_path)}
    (kept,) = prepared(live, use="confirmed", judge=judge, over="all").train
    assert kept.prompt == "who\n"


def test_a_policy_of_the_run_writes_and_a_reward_takes_the_best(live: Run, tmp_path: Path) -> None:
    options = {"use": "answered", "generator": "base", "max_new_tokens": 64}
    policy, longest = live.policy(), dict[str, str]()
    with policy:
        samples = policy.sample(["who\n", "how\n"], 4, temperature=0.7, max_new_tokens=64, seed=0)
    for prompt, text, ids in zip(samples.prompts, samples.responses, samples.response_ids, strict=True):
        if len(ids) < 64 and text.strip():
            longest[str(prompt)] = max(longest.get(str(prompt), ""), text, key=len)
    found = prepared(live, **options, n=4, reward=by_length(tmp_path))
    assert {str(row.prompt): row.responses[0] for row in found.train} == longest
    assert len(found.train) + sum(found.dropped.values()) == 2
    with pytest.raises(PluginError, match="n: a reward chooses among two or more responses"):
        component("data_step", {**options, "n": 2})


def test_the_only_whole_response_to_a_prompt_is_the_best_by_a_vote(live: Run) -> None:
    def length(samples: Samples) -> Prediction:
        return Prediction(torch.tensor([float(len(text)) for text in samples.responses]))

    ensemble = Ensemble((length, length), Vote(), (1, 1), called="vote")
    rows: list[tuple[Text, str]] = [("who\n", "ant bee"), ("how\n", "ant"), ("who\n", "ant")]
    assert _scores(live, lambda: reward_handle(ensemble), rows) == [1.0, 0.5, 0.0]  # how's has no other


def test_steps_that_ask_a_model_are_for_the_data_of_a_stage() -> None:
    words = {"rows": "sandbox", "steps": [{"use": "answered", "generator": "base"}]}
    data = {"format": "prepared", **words}
    with pytest.raises(RecipeError, match=r"data\.steps\.0.*asks a model, which only a stage can open"):
        check_recipe({"base": "sandbox", "data": data, "stages": [{"stage": "sft"}]})
    check_recipe({"base": "sandbox", "data": "sandbox", "stages": [{"stage": "sft", "data": data}]})
    with pytest.raises(DataError, match=r"steps\.0: asks a model"):
        component("data_format", {"use": "prepared", **words}).load(Base("sandbox"), 0)
