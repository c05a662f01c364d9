"""A served reward model gives the rewards of the model itself, and its failures never become numbers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn
from rlhf_serve.app import app
from rlhf_serve.batches import Batches, Score
from rlhf_serve.model import scorer
from rlhf_serve.reward import Served

from rlhf_plugins import RewardUnavailable, Samples, component, load_reward_model, session
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

PROMPTS = ["how is the ant\n", "who\n", "what is the fox\n", "who\n"]
RESPONSES = ["bee cat dog", "ant", "mud mud log ice key", "elk gas"]
Serve = Callable[..., str]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("reward")
    run = session(tiny_base(folder / "base"), tiny_run_data(), folder / "run")
    made = run.train({"use": "reward_model", "trainer": {"max_steps": 2}}, name="reward")
    return load_reward_model(made.rewards["reward"]["path"])


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Serves what scores rows, and gives the address."""
    monkeypatch.setenv("RLHF_SERVE_TOKEN", "t")
    with contextlib.ExitStack() as ends:

        def start(score: Score, **options: Any) -> str:
            config = uvicorn.Config(app(Batches(score, **options), "m", "t"), port=0, log_level="error")
            listening, server = config.bind_socket(), uvicorn.Server(config)
            listening.listen()  # a client may come before the server does
            thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
            thread.start()
            ends.callback(thread.join)
            ends.callback(lambda: setattr(server, "should_exit", True))
            return f"http://127.0.0.1:{listening.getsockname()[1]}"

        yield start


def lengths(prompts: Sequence[Any], responses: Sequence[Any], cut: Sequence[bool]) -> list[float | None]:
    """A model without weights; it refuses a response of its own."""
    if "bad" in responses:
        raise ValueError("a bad row")
    return [None if response == "who knows" else float(len(response)) for response in responses]


def post(url: str, body: Any, token: str = "t") -> httpx.Response:
    return httpx.post(f"{url}/score", json=body, headers={"authorization": f"Bearer {token}"}, timeout=60)


def test_rewards_are_those_of_the_model(model: Any, serve: Serve, tmp_path: Path) -> None:
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "stage")
    served = component("reward", "served", url=serve(scorer(model)), rows=3).build(run)
    whole = run.reference().encode(PROMPTS, RESPONSES)
    for asked in (whole, replace(whole, response_ids=[whole.response_ids[0][:-1], *whole.response_ids[1:]])):
        assert served(asked).reward.tolist() == pytest.approx(model.predict(asked).reward.tolist(), abs=1e-5)
    assert model.predict(whole).reward[0].item() != pytest.approx(model.predict(asked).reward[0].item(), abs=1e-3)


def test_sixty_four_clients_get_what_each_gets_alone(serve: Serve) -> None:
    url = serve(lengths)
    with ThreadPoolExecutor(64) as clients:
        found = list(clients.map(lambda n: post(url, {"prompts": ["p", "q"], "responses": ["a" * n, "b"]}), range(64)))
    assert [answer.json()["rewards"] for answer in found] == [[float(n), 1.0] for n in range(64)]


def test_requests_with_a_common_prompt_are_not_scored_together() -> None:
    calls: list[list[str]] = []

    def score(prompts: Sequence[str], responses: Sequence[str], cut: Sequence[bool]) -> list[float | None]:
        calls.append(list(prompts))
        time.sleep(0.05)
        return [0.0] * len(prompts)

    batches = Batches(score, rows=8, wait=0.02)
    answers = [batches.submit(prompts, prompts) for prompts in (["a"], ["b"], ["a"], ["c"])]
    assert [answer.result() for answer in answers] == [[0.0]] * 4
    batches.close()
    assert calls == [["a", "b"], ["a", "c"]]


def test_a_bad_row_fails_its_own_request_only(serve: Serve) -> None:
    url = serve(lengths, wait=0.2)
    with ThreadPoolExecutor(2) as clients:
        bad, good = clients.map(lambda r: post(url, {"prompts": [r], "responses": [r]}), ["bad", "good"])
    assert (bad.status_code, bad.json()) == (500, {"error": "ValueError: a bad row"})
    assert good.json() == {"model": "m", "rewards": [4.0]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompts": ["p"], "responses": []}, "responses: List should have at least 1 item"),
        ({"prompts": ["p"], "responses": ["a", "b"]}, "2 responses for 1 prompts"),
        ({"prompts": ["p"], "responses": ["a"], "cut": [True, False]}, "cut: 2 values for 1 responses"),
        ({"prompts": ["p"], "responses": ["a"], "temperature": 1}, "temperature: Extra inputs are not permitted"),
        ({"prompts": ["p"], "responses": ["a"], "cut": ["no"]}, "Input should be a valid boolean"),
        ([], "Input should be an object"),
    ],
)
def test_a_malformed_request_is_one_sentence(serve: Serve, body: Any, words: str) -> None:
    answer = post(serve(lengths), body)
    assert answer.status_code == 422
    assert words in answer.json()["error"]


ASKED = [{"role": "user", "content": "who"}]
UNREAD = [
    ([ASKED, [{"content": "who"}]], ["ant", "ant"], "prompts[1]: every message of it needs a text `role` and"),
    ([ASKED, [{"role": "user"}]], ["ant", "ant"], "prompts[1]: every message of it needs a text `role` and"),
    ([[{"role": "usr", "content": "who"}]], ["ant"], "prompts[0]: it has a message of the role 'usr' (did you mean"),
    ([ASKED] * 2, ["ant", [{"role": "assistant"}]], "responses[1]: every message of it needs a text `role` and"),
    (["who", "who"], ["ant", ASKED], "responses[1]: a prompt and its response must both be text or both be messages"),
]


@pytest.mark.parametrize(("prompts", "responses", "words"), UNREAD)
def test_a_message_without_a_role_or_a_content_is_refused_by_its_row(
    model: Any, serve: Serve, prompts: list[Any], responses: list[Any], words: str
) -> None:
    answer = post(serve(scorer(model)), {"prompts": prompts, "responses": responses})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(words)


def test_every_request_needs_the_token(serve: Serve) -> None:
    url = serve(lengths)
    assert post(url, {"prompts": ["p"], "responses": ["a"]}, token="x").status_code == 401
    assert httpx.get(f"{url}/health").status_code == 401


def test_a_full_queue_and_a_closed_one_are_unavailable() -> None:
    held = threading.Event()
    batches = Batches(lambda prompts, *_: [0.0] * len(prompts) if held.wait() else [], waiting=1, wait=0)
    first = batches.submit(["a"], ["a"])
    while batches._queue.qsize():  # until the thread has taken it
        time.sleep(0.001)
    second = batches.submit(["b"], ["b"])
    with pytest.raises(RewardUnavailable, match="queue is full"):
        batches.submit(["c"], ["c"])
    held.set()
    assert first.result() == second.result() == [0.0]
    batches.close()
    with pytest.raises(RewardUnavailable, match="stopping"):
        batches.submit(["a"], ["a"])


def test_a_request_that_comes_while_the_server_closes_does_not_wait_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(lambda prompts, *_: [0.0] * len(prompts), wait=0)
    put = batches._queue.put_nowait

    def closed_first(request: Any) -> None:
        batches.close()
        put(request)

    monkeypatch.setattr(batches._queue, "put_nowait", closed_first)
    with pytest.raises(RewardUnavailable, match="stopping"):
        batches.submit(["a"], ["a"])


def test_an_abstention_stays_one(serve: Serve, tmp_path: Path) -> None:
    served = Served(serve(lengths)).build(tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run"))
    asked = Samples(["p"] * 2, ["four", "who knows"], [[1]] * 2, [[2]] * 2)
    assert served(asked).abstained.tolist() == [False, True]


def tiny_run_data() -> Any:
    from rlhf_plugins import Data

    return Data(tiny_pairs(8), tiny_pairs(4, seed=1))


def test_a_request_that_was_given_up_ends_no_other() -> None:
    held = threading.Event()
    batches = Batches(lambda prompts, *_: [float(held.wait(10))] * len(prompts), rows=1, wait=0.0)
    first, given_up, last = (batches.submit([name], [name]) for name in "abc")
    assert given_up.cancel()
    held.set()
    assert (first.result(10), last.result(10)) == ([1.0], [1.0])
    batches.close()


def test_a_reward_that_is_not_finite_is_said_to_be(serve: Serve) -> None:
    url = serve(lambda prompts, responses, cut: [1.0, float("nan")])
    found = post(url, {"prompts": ["a", "b"], "responses": ["c", "d"]})
    assert (found.status_code, found.json()) == (500, {"error": "the model gave a reward of nan, which is no number"})
