"""The assistant behind a server: its probe, its answers, its failures, and the whole path driven by a tiny model."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rlhf_constitution.asking import Asker
from rlhf_constitution.assistant import Chosen
from rlhf_constitution.ledger import Budget, Ledger
from rlhf_constitution.outcome import Failed
from rlhf_constitution.server import chosen

from rlhf_plugins import RlhfError, RunError, component, load_data, run_recipe, session

Serve = Callable[[Callable[[dict[str, Any]], tuple[int, Any]]], str]
SANDBOX = {"format": "sandbox", "writer": "sloppy", "prompts": 12, "test_prompts": 2}


def completion(text: str, **logprobs: float) -> dict[str, Any]:
    """A completion with the log-probabilities of its first token."""
    listed = [{"token": token, "logprob": value} for token, value in logprobs.items()]
    found = {"content": [{"top_logprobs": listed}]} if listed else None
    return {"choices": [{"message": {"content": text}, "logprobs": found}]}


def filtered(text: str) -> dict[str, Any]:
    """A completion that the server's filter stopped."""
    return {"choices": [{"message": {"content": text}, "finish_reason": "content_filter"}]}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (completion("A", A=math.log(0.6), B=math.log(0.2), C=math.log(0.2)), (0.75, 0.25)),
        (completion("Sorry, I", Sorry=-1e-5, A=-12.0, B=-16.0), Failed("answered 'Sorry, I', none of A, B")),
        (completion("B."), (0.0, 1.0)),
        (completion("A: it keeps the rule"), (1.0, 0.0)),
        (completion("**B**"), (0.0, 1.0)),
        (completion("A\nbecause"), (1.0, 0.0)),
        (completion("A clear"), Failed("answered 'A clear', none of A, B")),
        (completion("B", A=math.nan, B=-0.1), (0.0, 1.0)),
        (completion("Well, ..."), Failed("answered 'Well, ...', none of A, B")),
        (completion(""), Failed("an empty answer")),
        (filtered("A"), Failed("stopped by a content filter")),
        ({"choices": []}, None),
    ],
)
def test_answers(answer: dict[str, Any], expected: Chosen | None) -> None:
    found = chosen(answer["choices"][0] if answer["choices"] else {}, ("A", "B"))
    assert found == (pytest.approx(expected) if isinstance(expected, tuple) else expected or Failed("an empty answer"))


def test_a_busy_server_is_asked_again_and_an_error_fails(serve: Serve, tmp_path: Path) -> None:
    replies = iter([(503, {}), (200, completion("A")), (400, {}), (429, {}), (429, {})])
    url = serve(lambda body: next(replies))
    server = component("assistant", "server", url=url, model="m", attempts=2, wait=0, parallel=1)
    made = server.build(session("sandbox", SANDBOX, tmp_path), Ledger(Budget()))
    assert made.choose(["one?"], ("A", "B")) == [(1.0, 0.0)]
    assert made.choose(["two?"], ("A", "B")) == [Failed("no completion: HTTP 400")]
    assert made.choose(["three?"], ("A", "B")) == [Failed("unavailable: HTTP 429")]


@pytest.mark.parametrize("budget", [Budget(calls=7), Budget(tokens=200), Budget(seconds=5)])
def test_no_call_beyond_the_budget_reaches_a_failing_server(serve: Serve, tmp_path: Path, budget: Budget) -> None:
    """12 questions, 4 at once, each asked up to three times while the server is busy: 36 calls without a limit."""
    asked: list[int] = []  # the most tokens of each call

    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        asked.append(len(body["messages"][0]["content"].encode()) + body["max_tokens"])
        return (200, completion("A")) if len(asked) % 3 == 0 else (503, {})

    ledger = Ledger(budget, clock=lambda: float(len(asked)))  # a call takes a second
    server = component("assistant", "server", url=serve(reply), model="m", wait=0, parallel=4)
    asker = Asker(server.build(session("sandbox", SANDBOX, tmp_path), ledger), ledger)
    found = asker.choose([f"question {number:02d}" for number in range(12)], ("A", "B"))
    assert Failed("the budget is used up") in found
    assert 0 < len(asked) <= ledger.calls <= (budget.calls or 36)
    assert sum(asked) <= ledger.tokens <= (budget.tokens or 10**6)
    assert len(asked) < (budget.seconds or 36) + 4  # those that were under way when the time was up


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://127.0.0.1:9/v1"}, "nothing answers at"),
        ({"model": "n"}, r"has no model 'n' \(it has m\)"),
        ({"key": "NO_SUCH_KEY"}, "NO_SUCH_KEY is not set"),
    ],
)
def test_what_cannot_be_reached_is_found_at_the_start(
    serve: Serve, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    url = serve(lambda body: (200, completion("A")))
    server = component("assistant", "server", **{"url": url, "model": "m", **options})
    with pytest.raises(RunError, match=message):
        server.build(session("sandbox", SANDBOX, tmp_path), Ledger(Budget()))


@pytest.mark.parametrize("stage", [{"stage": "ai_feedback"}, {"stage": "critique_revise", "prompts": 4}])
def test_a_judge_that_cannot_be_reached_stops_a_run_before_anything_is_sampled(
    tmp_path: Path, stage: dict[str, Any]
) -> None:
    (tmp_path / "c.yaml").write_text(CONSTITUTION.format(url="http://127.0.0.1:9/v1"))
    first = {"stage": "ai_feedback", "constitution": "sandbox", "name": "first"}
    stages = [first, {**stage, "constitution": str(tmp_path / "c.yaml")}]
    recipe = {"base": "sandbox", "data": SANDBOX, "output_dir": str(tmp_path / "run"), "stages": stages}
    with pytest.raises(
        RlhfError, match=r"stages.1.constitution: .*assistant.url: nothing answers at http://127.0.0.1:9"
    ):
        run_recipe(recipe, say=lambda line: None)
    assert not (tmp_path / "run").exists()


CONSTITUTION = """
assistant: {{use: server, url: '{url}', model: m, budget: {{calls: 400}}}}
principles:
  - {{use: judged, rule: it does not insult, name: polite, agreement: 0, gate: 0.5, priority: safety}}
  - {{use: length_band, high: 30}}
"""


@pytest.mark.slow
def test_a_tiny_model_behind_a_server_drives_the_whole_path(serve: Serve, tmp_path: Path) -> None:
    """It judges and revises; a random model's judgements are worthless, and everything still holds together."""
    run = session("sandbox", SANDBOX, tmp_path / "server")
    policy, lock = run.policy(), threading.Lock()

    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        text = body["messages"][0]["content"][-120:]
        with lock:  # the model of this test is not for several threads
            if body.get("logprobs"):
                found = policy.choose([text], ["red", "blue"])[0].tolist()
                return 200, completion("A", A=found[0], B=found[1])
            written = policy.sample([text], max_new_tokens=12, seed=body["seed"]).responses[0]
        return 200, completion(written)

    url = serve(reply)
    (tmp_path / "c.yaml").write_text(CONSTITUTION.format(url=url))
    reviser = {"use": "assistant", "n": 1, "assistant": {"use": "server", "url": url, "model": "m"}}
    common = {"constitution": str(tmp_path / "c.yaml"), "prompts": 6, "sampling": {"max_new_tokens": 16}}
    stages = [
        {"stage": "critique_revise", "reviser": reviser, "rounds": 1, **common},
        {"stage": "ai_feedback", "answers": 3, "gap": 0.0, **common},
    ]
    data = {"base": "sandbox", "data": SANDBOX, "output_dir": str(tmp_path / "run"), "stages": stages}
    folder = run_recipe(data, say=lambda line: None).folder
    assert load_data(folder / "02-ai_feedback").train
    assert (folder / "01-critique_revise/once/judgements.jsonl").read_text().count("\n") >= 12
