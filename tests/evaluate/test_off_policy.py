"""How far rows are from a policy's own samples: the arithmetic by hand, and writers of the sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_plugins import Base, Data, DataError, Group, Policy, RunError, Samples, component
from rlhf_plugins.engine.policy import open_policy
from rlhf_plugins.evaluate.off_policy import DRAWN, PROMPTS, TOKENS, off_policy, tried
from rlhf_plugins.sandbox import base_path

LETTERS = "abcdefghijkl"


class Loud:
    """A policy of tokens that are letters, which answers with `x`; a token of code n has a log-probability of -n."""

    def sample(self, prompts: Sequence[str], max_new_tokens: int, seed: int) -> Samples:
        return Samples(prompts, ["x"] * len(prompts), [[0]] * len(prompts), [[1, 2]] * len(prompts))

    def log_probs(self, samples: Samples) -> Tensor:
        longest = max(map(len, samples.response_ids))
        return -torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in samples.response_ids], dtype=torch.float)


class Digits:
    """An encoder of responses of digits, each a token."""

    fit = SimpleNamespace(most=None)

    def encode_within_limit(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        if response == "?":
            raise DataError("its response has no token")
        return [0], [int(digit) for digit in response]

    def encode_start(self, prompt: str) -> list[int]:
        return [0]


def seen(groups: Sequence[Group], policy: Any = None, encoder: Any = None) -> dict[str, Any]:
    return off_policy(policy or Loud(), Data(tuple(groups)), encoder or Digits())


def pair(prompt: str, *responses: str) -> Group:
    return Group(prompt, responses, ranks=tuple(range(len(responses))))


def test_it_is_the_difference_of_mean_log_probabilities_per_token() -> None:
    groups = [pair(letter, "4", "26") for letter in LETTERS[:6]] + [pair(letter, "3", "333") for letter in LETTERS[6:]]
    found = seen(groups)
    # its own: (-1 - 2) / 2 = -1.5; rows: the mean of -4 and -(2 + 6) / 2 = -4, and of -3 and -3
    assert found["off_policy"] == pytest.approx((6 * 2.5 + 6 * 1.5) / 12)
    assert 1.5 < found["off_policy_low"] < 2.0 < found["off_policy_high"] < 2.5
    assert found["off_policy_prompts"] == 12


def test_the_responses_of_a_prompt_count_once_and_alike() -> None:
    once = seen([pair(letter, "4", "2") for letter in LETTERS])
    again = seen([*(pair(letter, "4", "2") for letter in LETTERS), *(pair(letter, "2", "4") for letter in LETTERS)])
    assert once == again
    assert once["off_policy"] == pytest.approx(1.5)  # 3 - 1.5
    assert once["off_policy_low"] == once["off_policy_high"]


def test_a_response_is_read_to_the_token_at_which_samples_are_cut() -> None:
    assert seen([pair(letter, "1" * TOKENS + "999", "1") for letter in LETTERS])["off_policy"] == pytest.approx(-0.5)


def test_few_prompts_say_nothing_and_of_many_some_are_drawn() -> None:
    def few(groups: list[Group]) -> tuple[int, ...]:
        return tuple(seen(groups)[name] for name in ("off_policy_prompts", "off_policy_left_out"))

    assert few([pair(letter, "4", "2") for letter in LETTERS[:9]]) == (9, 0)
    assert few([pair(letter, "4", "?") for letter in LETTERS]) == (0, 12)
    assert few([pair(letter, "4") for letter in LETTERS]) == (0, 0)  # nothing was judged
    many = [pair(f"{letter}{n}", "4", "2") for letter in LETTERS for n in range(10)]
    assert seen(many)["off_policy_prompts"] == PROMPTS


def test_a_prompt_that_leaves_no_room_is_left_out() -> None:
    encoder = Digits()
    encoder.fit = SimpleNamespace(most=TOKENS)
    found = seen([pair(letter, "4", "2") for letter in LETTERS], encoder=encoder)
    assert found == {"off_policy_prompts": 0, "off_policy_left_out": 12}
    assert tried(lambda: found)[1] == [
        "not seen: off_policy: 0 prompts with two responses leave room for another, fewer than 10; 12 do not"
    ]


def test_another_prompt_is_drawn_for_one_that_cannot_be_read() -> None:
    unreadable = [pair(f"long {n}", "4", "?") for n in range(300)]
    found = seen([*unreadable, *(pair(letter, "4", "2") for letter in LETTERS)])
    assert (found["off_policy_prompts"], found["off_policy_left_out"]) == (12, 300)
    endless = [pair(f"long {n}", "4", "?") for n in range(1000)]
    assert seen(endless)["off_policy_left_out"] == DRAWN


def test_each_response_is_read_behind_its_own_prompt() -> None:
    class Splits(Digits):
        def encode_within_limit(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
            return [int(response)], [1]

    class Keeps(Loud):
        def log_probs(self, samples: Samples) -> Tensor:
            read.append([ids[0] for ids in samples.prompt_ids])
            return super().log_probs(samples)

    read: list[list[int]] = []
    seen([pair(letter, "4", "2") for letter in LETTERS], Keeps(), Splits())
    assert read[1] == [4, 2] * 12


def test_what_is_not_finite_is_refused() -> None:
    policy: Any = Loud()
    policy.log_probs = lambda samples: torch.full((len(samples.responses), 2), float("nan"))
    with pytest.raises(RunError, match="12 of 12 log-probability gaps are not finite"):
        seen([pair(letter, "4", "2") for letter in LETTERS], policy)


@pytest.fixture(scope="module")
def policy() -> Any:
    return open_policy(None, Base(base_path("sandbox")))


def gap(policy: Policy, groups: Sequence[Group]) -> dict[str, Any]:
    return off_policy(policy, Data(tuple(groups)), policy.encoder)  # type: ignore[attr-defined]


@pytest.mark.parametrize("writer", ["base", "sloppy"])
def test_rows_of_the_policy_are_on_policy_and_so_are_those_of_the_writer_that_it_was_pretrained_on(
    policy: Policy, writer: str
) -> None:
    rows = component("data_format", "sandbox", writer=writer, prompts=100, test_prompts=1)
    found = gap(policy, rows.load(Base(base_path("sandbox")), 0).train)
    assert found["off_policy_low"] < 0.05
    assert found["off_policy_high"] < 0.1


def test_answers_to_other_prompts_and_hot_samples_are_off_policy(policy: Policy) -> None:
    rows = component("data_format", "sandbox", writer="sloppy", prompts=100, test_prompts=1)
    train = rows.load(Base(""), 0).train
    asked = list(dict.fromkeys(group.prompt for group in train))
    others = [pair(prompt, *group.responses) for prompt, group in zip(asked, train[60:], strict=False)]
    hot = policy.sample(asked, 2, temperature=1.6, max_new_tokens=64).responses
    heated = [pair(prompt, *hot[2 * n : 2 * n + 2]) for n, prompt in enumerate(asked)]
    own = gap(policy, train)
    for groups in (others, heated):
        assert gap(policy, groups)["off_policy_low"] > own["off_policy_high"] + 0.2
