"""The sandbox's word problems: what they ask, how they are worked, and how right a policy is that learned from it."""

from __future__ import annotations

import random
import re
from statistics import mean

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Base
from rlhf_plugins.engine.sampling import Decoding, sample
from rlhf_plugins.errors import DataError, PluginError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.handle import rewards
from rlhf_plugins.sandbox import POLICIES
from rlhf_plugins.sandbox.arithmetic import Problem, attempt, draw, problems, vocabulary
from rlhf_plugins.sandbox.build import make_tokenizer, sums

SPLITS = ("train", "test", "out_of_distribution")
FOLDER = POLICIES["sandbox_arithmetic"]


def right(answers: list[int], responses: list[str]) -> list[float]:
    samples = Samples(["p"] * len(answers), responses, [[1]] * len(answers), [[1]] * len(answers), {"answer": answers})
    return [float(found or 0) for found in rewards(component("reward", "number_match").build(None)(samples))]


def test_a_problem_is_worked_by_hand() -> None:
    problem = Problem("?", (4, 5, 2), "+-")
    assert (problem.results, problem.answer) == ((9, 7), 7)
    assert problem.worked() == "4 + 5 = 9. 9 - 2 = 7. the answer is 7."
    assert problem.worked((1, -2)) == "4 + 5 = 10. 10 - 2 = 6. the answer is 6."


def test_splits_share_no_problem_and_every_answer_is_one_that_the_reward_reads() -> None:
    every = [problem for split in SPLITS for problem in problems(split)]
    assert len({problem.prompt for problem in every}) == len(every) == 3153
    assert all(0 <= problem.answer <= 30 for problem in every)
    assert right([p.answer for p in every], [p.worked() for p in every]) == [1.0] * len(every)
    for problem in every:
        assert [int(n) for n in re.findall(r"\d+", problem.prompt)] == list(problem.numbers)


def test_care_decides_whether_a_problem_is_worked_out() -> None:
    rng, asked = random.Random(0), problems("train")[:500]
    careful, careless = ([attempt(problem, rng, care) for problem in asked] for care in (1.0, 0.0))
    answers = [problem.answer for problem in asked]
    assert mean(right(answers, careful)) == pytest.approx(0.95**2, abs=0.04)  # no slip in either step
    assert mean(right(answers, careless)) == pytest.approx(1 / 7, abs=0.06)  # one of the 7 numbers near it
    assert all("=" in text for text in careful)
    assert not any("=" in text for text in careless)


def test_the_policy_is_pretrained_on_no_test_problem_and_in_words_of_its_own() -> None:
    rng, tested = random.Random(0), {problem.prompt for problem in problems("test")}
    tokenizer = make_tokenizer(sums())
    for prompt, response in (draw(rng) for _ in range(500)):
        assert prompt not in tested
        ids = tokenizer.encode(prompt + response)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(tokenizer.encode(response)) == response
    assert vocabulary() == tuple(sorted(set(vocabulary())))


def test_the_format_has_answers_and_worked_solutions() -> None:
    made = component("data_format", {"use": "arithmetic", "prompts": 8, "test_prompts": 3})
    data = made.load(Base(""), 0)
    assert {split: len(asked) for split, asked in data.prompts.items()} == dict(zip(SPLITS, (8, 3, 3), strict=True))
    assert [group.columns for group in data.prompts["train"]] == [{"answer": p.answer} for p in problems("train")[:8]]
    assert all("=" in str(group.responses[0]) for group in (*data.train, *data.test, *data.out_of_distribution))
    assert data == component("data_format", {"use": "arithmetic", "prompts": 8, "test_prompts": 3}).load(Base(""), 0)
    with pytest.raises(DataError, match="has 1410 train problems, 2000 were asked for"):
        component("data_format", {"use": "arithmetic", "prompts": 2000}).load(Base(""), 0)
    with pytest.raises(PluginError, match="care"):
        component("data_format", {"use": "arithmetic", "care": 2.0})
    with pytest.raises(DataError, match="no split 'tset' of the sandbox's arithmetic .did you mean test"):
        problems("tset")


def test_the_shipped_policy_works_some_out_and_guesses_others() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    asked = problems("test")[:256]
    written = sample(model, tokenizer, [problem.prompt for problem in asked], 1, Decoding(max_new_tokens=24))
    worked = [float("=" in text) for text in written.responses]
    assert 0.5 < mean(worked) < 0.8
    assert 0.2 < mean(right([problem.answer for problem in asked], list(written.responses))) < 0.4
