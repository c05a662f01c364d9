"""Environments: functions, a policy in the user's place; what they may say, and who is blamed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import ComponentError, Environment, RunError
from rlhf_plugins.components.environment import SandboxReader, Simulated
from rlhf_plugins.contract.rows import FAILED, Samples
from rlhf_plugins.contract.run_kinds import Generator
from rlhf_plugins.recipe.assemble import component

ASKED: list[dict[str, Any]] = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
FUNCTIONS = """
def reply(prompts, completions, name):
    return [f"{who}: {said[0]['content']}?" if said[0]["content"] else None for who, said in zip(name, completions)]

def fails(prompts):
    raise KeyError("x")
"""


def samples(*responses: str, prompt: Any = ASKED, **columns: Sequence[Any]) -> Samples:
    count = len(responses)
    return Samples([prompt] * count, responses, [[1]] * count, [[2]] * count, columns)


class Says(Environment):
    """Says what it is given."""

    def __init__(self, turns: Any) -> None:
        self.turns = turns

    def build(self, run: Any) -> Any:
        return lambda samples: self.turns


class Talks(Generator):
    """A policy that says what it is given, and keeps what it was asked."""

    def __init__(self, *turns: str, failed: Sequence[str | None] = ()) -> None:
        self.turns, self.failed, self.asked = turns, failed, []
        self.seeds: list[int] = []

    def build(self, run: Any) -> Any:
        return self

    def sample(self, prompts: Any, *, seed: int, **options: Any) -> Samples:
        self.asked, self.options = prompts, options
        self.seeds.append(seed)
        return samples(*self.turns, **({FAILED: self.failed} if self.failed else {}))


class Run:
    seed = 0


def test_a_function_is_asked_with_the_columns_of_the_opening(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(FUNCTIONS)
    ask = component("environment", {"use": "python", "path": f"{tmp_path}/user.py:reply"}).build(None)
    assert ask(samples("yes", "", name=["ann", "bob"])) == ["ann: yes?", None]
    fails = component("environment", {"use": "python", "path": f"{tmp_path}/user.py:fails"}).build(None)
    with pytest.raises(RunError, match=r"environment: .*user.py:fails failed in line 6: KeyError"):
        fails(samples("yes"))


@pytest.mark.parametrize(
    ("turns", "prompt", "message"),
    [
        (["a"], ASKED, "gave 1 turns for 2 responses"),
        ("ab", ASKED, "gave a str, not a text or None for each of 2 responses"),
        ([None, ""], ASKED, "gave '' behind response 1, not a text, messages or None"),
        ([[{"content": "x"}], None], ASKED, "behind response 0, not a text, messages or None"),
        ([[{"role": "tool", "content": "x"}], None], "hi", "behind response 0, not a text or None"),
        ([3, None], ASKED, "gave 3 behind response 0"),
        ([None, [{"role": "assistant", "content": "x"}]], ASKED, "ended its turn behind response 1 with the assistant"),
    ],
)
def test_what_is_no_turn_is_refused_in_the_name_of_the_component(turns: Any, prompt: Any, message: str) -> None:
    with pytest.raises(ComponentError, match=f"Says.*{message}"):
        Says(turns).build(None)(samples("x", "y", prompt=prompt))


def test_texts_and_messages_may_follow() -> None:
    turns = ["more?", [{"role": "tool", "content": "12"}], None]
    assert Says(turns).build(None)(samples("x", "y", "z")) == turns


def test_a_policy_reads_the_conversation_from_the_users_side() -> None:
    user = Talks("why?", "bye [end]", " ")
    said = Simulated(user=user, instruction="You are a child.", until="[end]", max_new_tokens=9).build(Run())
    assert said(samples("hello", "yes", "no")) == ["why?", None, None]
    assert user.asked[0] == [
        {"role": "system", "content": "You are a child."},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "hello"},
    ]
    assert user.options == {"temperature": 1.0, "max_new_tokens": 9}


def test_a_policy_says_the_same_in_the_same_conversation_and_something_else_in_another() -> None:
    user = Talks("why?")
    said = Simulated(user=user).build(Run())
    for response in ("hello", "hello", "yes"):
        said(samples(response))
    assert user.seeds[0] == user.seeds[1] != user.seeds[2]


def test_a_turn_that_failed_ends_no_conversation_in_silence() -> None:
    said = Simulated(user=Talks("", "x", failed=["the server was busy", None])).build(Run())
    with pytest.raises(RunError, match="1 of 2 turns failed: the server was busy"):
        said(samples("hello", "yes"))


def test_a_policy_in_the_users_place_needs_messages() -> None:
    with pytest.raises(RunError, match="needs prompts of messages, and one is plain text"):
        Simulated(user=Talks("x")).build(Run())(samples("hello", prompt="hi"))


def test_the_sandboxes_reader_is_a_component() -> None:
    said = SandboxReader().build(None)
    open_answer, final = "the fox is red. people say many things.", "the fox is red."
    found = said(samples(open_answer, final, prompt="what is the color of the fox?\n"))
    assert found[0] is not None
    assert found[1] is None
