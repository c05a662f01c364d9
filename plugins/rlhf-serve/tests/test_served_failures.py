"""A server that is away, slow, wrong or killed never becomes a number: its clients ask again, or the run stops."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest
from rlhf_serve.client import Client
from rlhf_serve.reward import Served

from rlhf_plugins import RewardUnavailable, RunError, Samples

HEALTHY = {"model": "m"}
HEAD, BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 32\r\n\r\n", b'{"model": "m", "rewards": [1.0]}'


def samples(responses: Sequence[str], prompts: Sequence[Any] = ("p",) * 9) -> Samples:
    return Samples(list(prompts[: len(responses)]), list(responses), [[1]] * len(responses), [[2]] * len(responses))


def before(monkeypatch: pytest.MonkeyPatch, score: Callable[..., httpx.Response], **options: Any) -> Any:
    """The reward before a server that is healthy at first, where no response was cut."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=HEALTHY) if request.url.path == "/health" else score(request)

    http = httpx.AsyncClient(base_url="http://reward", transport=httpx.MockTransport(answer))
    monkeypatch.setenv("RLHF_SERVE_TOKEN", "t")
    monkeypatch.setattr(Client, "to", lambda url, token, timeout: Client(url, lambda: http, timeout))
    monkeypatch.setattr("rlhf_plugins.cut_off", lambda base: lambda samples: [False] * len(samples.responses))
    run: Any = SimpleNamespace(base=None)
    return Served("http://reward", **options).build(run)


def answering(monkeypatch: pytest.MonkeyPatch, answer: httpx.Response) -> Any:
    """The reward before a server that gives this answer."""
    return before(monkeypatch, lambda request: answer)


@pytest.fixture
def sending() -> Iterator[Callable[..., Client]]:
    """A client of a server that sends bytes with pauses, and then hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def send(parts: Sequence[bytes], pause: float) -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(2**16)
                with suppress(OSError):  # the client gave up
                    for part in parts:
                        time.sleep(pause)
                        connection.sendall(part)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(2**16):  # what is left of the request: closed before, it would be a reset
                        pass

        def start(parts: Sequence[bytes], pause: float = 0.0, timeout: float = 9.0) -> Client:
            threading.Thread(target=send, args=(parts, pause), daemon=True).start()
            return Client.to(f"http://127.0.0.1:{listening.getsockname()[1]}", "t", timeout)

        yield start


def ask(client: Client) -> list[float | None]:
    return list(client.scored({"prompts": ["p"], "responses": ["a"]}, "m", 64))


def test_a_prompts_responses_are_asked_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append("".join(json.loads(request.content)["prompts"]))
        return httpx.Response(200, json={"model": "m", "rewards": [0.0] * len(asked[-1])})

    score = before(monkeypatch, answer, rows=4)
    assert len(score(samples(["r"] * 14, list("aabbbcddddddee"))).reward) == 14
    assert asked == ["aa", "bbbc", "dddd", "ddee"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"model": "m", "rewards": [1.0]}', "did not answer 2 rewards"),
        ('{"model": "m", "rewards": [1.0, "2"]}', "answered the reward '2'"),
        ('{"model": "m", "rewards": [1.0, true]}', "answered the reward 'True'"),
        ('{"model": "m", "rewards": [1.0, NaN]}', "answered the reward 'nan'"),
        ('{"model": "m", "rewards": [1.0, 1' + "0" * 400 + "]}", f"answered the reward '1{'0' * 39}'"),
        ('{"model": "n", "rewards": [1.0, 2.0]}', "now serves 'n', not 'm'"),
        ("[1.0, 2.0]", "no JSON object"),
        ("[" * 99999, "no JSON object"),
        ('{"model": "m", "rewa', "no JSON object"),
    ],
)
def test_an_answer_that_is_no_reward_stops_the_run(monkeypatch: pytest.MonkeyPatch, body: str, words: str) -> None:
    with pytest.raises(RunError, match=words):
        answering(monkeypatch, httpx.Response(200, content=body))(samples(["a", "b"]))


def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RewardUnavailable) as busy:
        answering(monkeypatch, httpx.Response(503, headers={"retry-after": "7"}))(samples(["a"]))
    assert busy.value.retry_after == 7


@pytest.mark.parametrize("failure", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
def test_a_server_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch, failure: type[Exception]) -> None:
    answers = iter([failure("gone"), httpx.Response(200, content=BODY)])

    def answer(request: httpx.Request) -> httpx.Response:
        if isinstance(found := next(answers), Exception):
            raise found
        return found

    score = before(monkeypatch, answer)
    with pytest.raises(RewardUnavailable, match=f"the reward server at http://reward: {failure.__name__}: gone"):
        score(samples(["a"]))
    assert score(samples(["a"])).reward.tolist() == [1.0]


def test_a_server_that_hangs_up_in_the_middle_of_an_answer_is_away(sending: Callable[..., Client]) -> None:
    with pytest.raises(RewardUnavailable, match="RemoteProtocolError|ReadError"):  # a connection that is reset, too
        ask(sending([HEAD, BODY[:-4]]))


@pytest.mark.parametrize("parts", [[HEAD, *map(bytes, zip(BODY, strict=True))], [*map(bytes, zip(HEAD, strict=True))]])
def test_the_timeout_is_of_a_whole_answer(sending: Callable[..., Client], parts: list[bytes]) -> None:
    begun = time.monotonic()
    with pytest.raises(RewardUnavailable, match=r"ReadTimeout: the answer was not whole after 0.3 s"):
        ask(sending(parts, pause=0.1, timeout=0.3))
    assert time.monotonic() - begun < 2  # all of it takes over 3 s


def test_an_answer_in_parts_is_a_reward(sending: Callable[..., Client]) -> None:
    assert ask(sending([HEAD, BODY[:9], BODY[9:]], pause=0.01)) == [1.0]


def test_a_server_that_is_not_there_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="the environment variable NONE should hold"):
        Served("http://127.0.0.1:9", token="NONE").build(None)  # type: ignore[arg-type]
    monkeypatch.setenv("RLHF_SERVE_TOKEN", "t")
    with pytest.raises(RunError, match="no reward server answers at http://127.0.0.1:9: ConnectError"):
        Served("http://127.0.0.1:9").build(None)  # type: ignore[arg-type]


def test_a_run_that_goes_on_asks_the_model_that_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = answering(monkeypatch, httpx.Response(200, content=BODY))
    asking.load_state_dict(asking.state_dict())
    with pytest.raises(RunError, match="http://reward now serves 'm'; this run began with 'm in nf4'"):
        asking.load_state_dict({"model": "m in nf4"})
