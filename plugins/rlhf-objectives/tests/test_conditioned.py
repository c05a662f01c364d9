"""One policy for all weightings: its reward by hand, its words, the stage, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from rlhf_objectives.objectives import OfWeights, before, read_as, without

from rlhf_plugins import Group, PluginError, Prediction, Reward, Run, RunError, Samples, StageResult, component
from rlhf_plugins.testing import tiny_base, tiny_run

TRAINER = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 4, "max_steps": 1}
BOTH = {"objectives": ["gold", "brevity"], "names": ["good", "short"], "points": 2, "prompts": 4, "max_new_tokens": 4}
WORDS = {"words": ["how ", "who "], "online": {"trainer": TRAINER, "advantage": "rloo"}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("conditioned")
    return tiny_run(tiny_base(folder / "base"), folder / "run")


@dataclass(frozen=True)
class Asked(Reward):
    """The length of the prompt that it is shown."""

    def build(self, run: Run) -> Any:
        return lambda samples: [float(len(prompt)) for prompt in samples.prompts]


def test_the_reward_reads_the_weights_and_the_prompt_without_words(run: Any) -> None:
    """1/4 * 3 letters - 3/4 * 2 words / 10 = 0.6; 1 * 5 letters."""
    columns = {"weights": [[0.25, 0.75], [1.0, 0.0]], "words": ["w ", "w "]}
    samples = Samples(["w how", "w which"], ["ant bee", "ant"], [[3], [3]], [[3, 4], [3]], columns)
    reward = OfWeights(objectives=(Asked(), component("reward", "brevity"))).build(run)
    assert reward(samples).reward.tolist() == pytest.approx([0.6, 5.0])
    with pytest.raises(RunError, match="needs prompts with the columns that the stage `conditioned` writes"):
        reward(replace(samples, columns={}))


def test_the_reward_reads_a_later_turn_behind_all_that_was_said(run: Any) -> None:
    """Not behind the opening alone, which another answer followed."""
    samples = Samples(["w how ant\nand why?\n"], ["bee"], [[3]], [[3]], {"weights": [[1.0, 0.0]], "words": ["w "]})
    reward = OfWeights(objectives=(Asked(), component("reward", "brevity"))).build(run)
    assert reward(samples).reward.tolist() == [float(len("how ant\nand why?\n"))]


class Reading:
    """A reward model, which notes what it encodes."""

    encoder = "its own"

    def encode(self, *given: Any) -> Samples:
        self.given = given
        return Samples(given[0], given[1], [[1]], [[2]])

    def __call__(self, samples: Samples) -> Prediction:
        return Prediction(torch.ones(len(samples.responses)))


def test_a_reward_model_reads_a_cut_answer_without_an_end() -> None:
    model, said = Reading(), {"role": "user", "content": "who how"}
    samples = Samples([[said]], ["ant bee"], [[5, 6]], [[3, 4]], {"user": [1]})
    read_as(model, samples, [[{**said, "content": "how"}]], lambda given: [given is samples])
    assert model.given == ([[{**said, "content": "how"}]], ["ant bee"], [True])


def test_weights_in_words() -> None:
    made = component("stage", "conditioned", **{**BOTH, "points": 5})
    row = made.asked_for(Group("how\n", columns={"topic": "t"}), (0.75, 0.25))
    assert row.prompt == "good: 0.75, short: 0.25\nhow\n"
    assert row.columns == {"topic": "t", "weights": [0.75, 0.25], "words": "good: 0.75, short: 0.25\n"}
    said = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    assert [message["content"] for message in before(said, "w ")] == ["w a", "b"]
    assert without(before(said, "w "), "w ") == said


def test_one_policy_is_measured_at_each_weighting(run: Any) -> None:
    made: StageResult = component("stage", "conditioned", **BOTH, **WORDS).run(run)
    assert list(made.policies) == ["conditioned"]
    rows = {row["policy"]: row["weights"] for row in made.sections[0].rows}
    assert rows == {"start": "", "conditioned-0": "1, 0", "conditioned-1": "0, 1"}
    means = made.metrics["means"]
    assert means["conditioned-0"] != means["conditioned-1"]  # other words, other answers
    assert (run.folder / "front.svg").exists()


@pytest.mark.parametrize(
    ("words", "message"), [(["a"], "2 weightings need as many different words, got 1"), (["a", "a"], "got 1")]
)
def test_words_for_each_weighting_are_needed(words: list[str], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        component("stage", "conditioned", **BOTH, words=words)


def test_words_that_the_model_does_not_know_are_refused(run: Any) -> None:
    with pytest.raises(RunError, match="words: the model reads those of the weights 1, 0 and 0, 1 alike"):
        component("stage", "conditioned", **BOTH).run(run)
