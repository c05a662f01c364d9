"""`online_preferences`: the budget of labels, a kill, accuracies by hand, where the KL is measured to, refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from rlhf_continual.labels import Asked, Pair, Share, groups_of, right
from rlhf_continual.online_preferences import OnlinePreferences

from rlhf_plugins import (
    Base,
    Data,
    Group,
    Judge,
    PluginError,
    Prediction,
    RlhfError,
    RunError,
    RunRecord,
    Samples,
    StageResult,
    Verdict,
    Weights,
    check_recipe,
    component,
    open_run,
    run_recipe,
    session,
)
from rlhf_plugins.testing import tiny_base

TRAINER = {"max_steps": 1, "learning_rate": 1e-2, "per_device_train_batch_size": 4}
ONLINE = {
    "stage": "online",
    "advantage": "rloo",
    "trainer": {**TRAINER, "num_generations": 2, "max_completion_length": 4},
}
OPTIONS = {
    "stage": "online_preferences",
    "labels": 9,
    "measured": 4,
    "rounds": 1,
    "lot": 3,
    "known": False,
    "max_new_tokens": 4,
    "reward_model": {"stage": "reward_model", "trainer": TRAINER},
    "policy": ONLINE,
}
ROWS = {"format": "sandbox"}
RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
JUDGE = """
from pathlib import Path

ASKED = Path(__file__).with_name("asked.txt")

def longer(completions):
    before = ASKED.read_text().split() if ASKED.exists() else []
    ASKED.write_text(" ".join([*before, str(len(completions) // 2)]))
    if len(before) == 3:
        raise RuntimeError("killed")
    return [float(len(one)) for one in completions]
"""


def recipe(folder: Path, **options: Any) -> dict[str, Any]:
    (folder / "judge.py").write_text(JUDGE)
    judge = {"use": "reward", "reward": {"use": "python", "path": f"{folder}/judge.py:longer"}}
    return {
        "base": tiny_base(folder / "base").path,
        "adapter": {"r": 2},
        "data": {"format": "sandbox", "writer": "sloppy", "prompts": 8, "test_prompts": 2},
        "output_dir": f"{folder}/run",
        "stages": [{**OPTIONS, "judge": judge, **options}],
    }


class Ran(NamedTuple):
    """A run of the stage, the sizes of the lots that its judge saw, and of its samplings."""

    record: RunRecord
    asked: list[int]
    sampled: list[int]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One that was killed while the pairs of the final policy were labelled, and went on."""
    folder, sampled = tmp_path_factory.mktemp("killed"), list[int]()
    made = recipe(folder)
    policy = type(session(made["base"], made["data"], folder / "session").policy())
    real = policy.sample

    def sample(self: Any, prompts: Sequence[Any], *given: Any, **options: Any) -> Samples:
        sampled.append(len(prompts))
        return real(self, prompts, *given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "sample", sample)
        with pytest.raises(RlhfError, match="killed"):
            run_recipe(made, say=str)
        record = open_run(run_recipe(made, resume=True, say=str).folder)
    return Ran(record, [int(size) for size in (folder / "asked.txt").read_text().split()], sampled)


def test_a_kill_while_labelling_neither_samples_nor_asks_again(killed: Ran) -> None:
    """5 of 9 labels in lots of 3, then 4 of the final policy; the fourth lot is killed."""
    assert killed.sampled == [5, 4]
    assert killed.asked == [3, 2, 3, 1, 1]


def test_every_question_counts_and_every_answer_is_a_row(killed: Ran) -> None:
    made = killed.record.finished[-1]
    assert (made.metrics["labels"], made.metrics["unanswered"]) == (9, 0)
    assert made.data is not None
    assert [str(group.origin) for group in made.data.train] == [
        f"online_preferences:{part}" for part in [0] * 5 + [1] * 4
    ]
    assert list(made.metrics["accuracy"]) == ["final"]
    assert made.policies["online_preferences"]["path"].endswith("policy0/model")


class Given:
    """A reward, a policy and a judge that know the worth of responses."""

    module = None

    def __init__(self, worth: dict[str, float]) -> None:
        self.worth = worth

    def encode(self, prompts: Sequence[Any], responses: Sequence[Any]) -> Samples:
        return Samples(prompts, responses, [[1]] * len(prompts), [[1]] * len(prompts))

    def predict(self, samples: Samples) -> Prediction:
        return Prediction(torch.tensor([self.worth[text] for text in samples.responses]))

    def sample(self, prompts: Sequence[Any], n: int, **options: Any) -> Samples:
        return self.encode([one for one in prompts for _ in range(n)], list(self.worth) * len(prompts))

    def __enter__(self) -> Given:
        return self

    def __exit__(self, *error: object) -> None: ...


class Prefers(Judge):
    """The response `good`."""

    def build(self, run: Any) -> Any:
        return lambda prompts, first, second: [Verdict(float(one == "good")) for one in first]


class Played:
    """A run whose policy always writes `good` and `bad`; the first reward model is wrong about them, others are not."""

    seed = 0
    data = Data((), (), {"train": tuple(Group(f"p{n}") for n in range(4))})

    def __init__(self) -> None:
        self.calls: list[tuple[str, str | None, str, int]] = []
        self.carried: list[tuple[str, list[str], bool | None]] = []

    def once(self, name: str, make: Any) -> Any:
        return make()

    def policy(self, name: str | None) -> Given:
        return Given({"good": 1.0, "bad": 0.0})

    def weights(self, name: str) -> Weights:
        return Weights("sft", Base("x"))

    def open(self, kind: str, spec: dict[str, str]) -> Given:
        return Given({"good": float(spec["path"] != "reward0"), "bad": 0.5})

    def train(self, stage: Any, *, name: str, data: Data, start: str | None = None, carry: Any = ()) -> StageResult:
        self.carried.append((name, list(carry), stage.keep_optimizer))
        self.calls.append((name, start, stage.reference, len(data.train)))
        made = {name: {"use": "saved", "path": name}}
        if name.startswith("reward"):
            return StageResult(rewards=made, name=f"a/{name}")
        return StageResult(policies=made, opened=[f"a/reward{name[-1]}.rewards.x"])


def test_the_rounds_train_on_all_labels_so_far_and_from_the_policy_before() -> None:
    """8 labels in rounds of 2, 3 and 3; the KL of each policy is measured to the start of the stage."""
    run = Played()
    stage = component("stage", "online_preferences", **refined({"labels": 8, "measured": 0, "rounds": 3}))
    made = replace(stage, judge=Prefers()).run(run)
    assert run.calls == [
        ("reward0", None, "start", 2),
        ("policy0", None, "sft", 0),
        ("reward1", None, "start", 5),
        ("policy1", "policy0", "sft", 0),
        ("reward2", None, "start", 8),
        ("policy2", "policy1", "sft", 0),
    ]
    assert not any(carry or keeps for _, carry, keeps in run.carried)
    stale = [(row["round"], row["current"], row["first"]) for row in made.sections[0].rows]
    assert stale == [("0", "-", "-"), ("1", "0.000 of 3", "0.000 of 3"), ("2", "1.000 of 3", "0.000 of 3")]


def test_what_is_carried_goes_from_policy_to_policy() -> None:
    run, words = Played(), ["optimizer", "kl"]
    options = refined({"labels": 8, "measured": 0, "rounds": 2, "carry": words})
    replace(component("stage", "online_preferences", **options), judge=Prefers()).run(run)
    assert run.carried[1::2] == [("policy0", [], True), ("policy1", words, True)]


def test_what_no_training_carries_is_refused() -> None:
    with pytest.raises(PluginError, match="carry: should be 'optimizer', 'value' or 'kl'"):
        component("stage", "online_preferences", **refined({"carry": ["critic"]}))


def test_no_prompt_is_sampled_again_before_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first round's two prompts one has equal responses and costs no label; the second begins with the third."""
    asked: list[list[str]] = []

    def sample(given: Given, prompts: Sequence[Any], n: int, **options: Any) -> Samples:
        asked.append([str(one.prompt) for one in prompts])
        texts = [text for one in prompts for text in ("good", "good" if one.prompt == "p0" else "bad")]
        return given.encode([one for one in prompts for _ in range(n)], texts)

    monkeypatch.setattr(Given, "sample", sample)
    stage = component("stage", "online_preferences", **refined({"labels": 4, "measured": 0, "rounds": 2}))
    made = replace(stage, judge=Prefers()).run(Played())
    assert asked == [["p0", "p1"], ["p2", "p3", "p0"]]
    assert made.metrics["labels"] == 3


def test_without_new_labels_the_reward_model_stays() -> None:
    run = Played()
    stage = component("stage", "online_preferences", **refined({"labels": 4, "measured": 0, "rounds": 2, "first": 1.0}))
    with pytest.raises(RunError, match="policy: does not learn from the reward model"):
        replace(stage, judge=Prefers()).run(run)  # as its second policy does not open reward0
    assert [call[0] for call in run.calls] == ["reward0", "policy0", "policy1"]


def test_the_accuracy_by_hand() -> None:
    """Right, wrong, a tie of the judge, which does not count, and a tie of the reward, which is half right."""
    pairs = [Pair("p", *two) for two in (("a", "b"), ("a", "c"), ("b", "c"), ("b", "d"), ("a", "d"))]
    asked = Asked(pairs, [1.0, 0.2, 0.5, 0.9, None])
    assert right(Given({"a": 3.0, "b": 1.0, "c": 2.0, "d": 1.0}), asked) == Share(0.5, 3)
    assert asked.unanswered == 1


def test_an_answer_is_a_row_with_a_soft_label() -> None:
    first, second = groups_of(Asked([Pair("p", "a", "b"), Pair("p", "a", "c")], [0.3, 1.0]), "live", 2)
    assert (first.responses, first.comparisons[0].probability) == (("b", "a"), 0.7)
    assert (second.responses, second.comparisons[0].probability) == (("a", "c"), 1.0)


@pytest.mark.parametrize(
    ("options", "rounds"),
    [
        ({"labels": 10, "measured": 0, "rounds": 4}, [2, 2, 3, 3]),
        ({"labels": 7, "measured": 4, "rounds": 4}, [1, 0, 1, 1]),
        ({"rounds": 2, "first": 1.0}, [5, 0]),
    ],
)
def test_the_labels_of_the_rounds_are_equal_or_all_in_the_first(options: Any, rounds: list[int]) -> None:
    made: OnlinePreferences = component("stage", "online_preferences", **refined(options))
    spent = 0
    for number, count in enumerate(rounds):
        assert made.due(number, spent) == count
        spent += count


def refined(options: dict[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in OPTIONS.items() if name != "stage"}, "judge": "reward", **options}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"measured": 14}, "leaves none to learn from"),
        ({"rounds": 1, "first": 0.5}, "one round asks for all labels"),
        ({"policy": "preference"}, "trains a policy against a reward"),
        ({"reward_model": "preference"}, "makes a reward"),
        ({"reward_model": {"stage": "reward_model", "data": ROWS}}, "reward_model: data: each round gives it rows"),
        ({"policy": {**ONLINE, "data": ROWS}}, "policy: data: each round gives it rows"),
        ({"policy": {**ONLINE, "from": "sft"}}, "policy: from, reference: each round gives them"),
        ({"policy": {**ONLINE, "reference": "base"}}, "policy: from, reference: each round gives them"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(PluginError, match=words):
        component("stage", "online_preferences", **refined(options))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_is_sound(recipe: Path) -> None:
    assert check_recipe(recipe)["stages"]
    assert len(recipe.read_text().splitlines()) <= 40
