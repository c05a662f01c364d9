"""The live page: curves in bounded memory, runs read while they are written, a site for whoever has the token."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import random
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rlhf_watch.commands import register_commands
from rlhf_watch.page.app import HERE, cookie_of, site, static_page
from rlhf_watch.page.board import Board
from rlhf_watch.page.series import LIMIT, Series
from rlhf_watch.page.terminal import follow, held
from starlette.testclient import TestClient
from typer.testing import CliRunner

EVIL = "</script><img src=x onerror=alert(1)>"


def write(folder: Path, lines: list[str], status: str = "running", name: str = "metrics.jsonl") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stages = "stages: [{stage: online, trainer: {max_steps: 100}}]\n"
    (folder / "recipe.yaml").write_text(stages)
    (folder / "status.json").write_text(json.dumps({"status": status, "message": EVIL}))
    with (folder / name).open("a") as file:
        file.write("".join(lines))


def metric(step: int, **values: Any) -> str:
    return json.dumps({"stage": "online", "step": step, **values}) + "\n"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run that is being written, with a torn line, NaN, infinity and HTML in a sample, and one that failed."""
    lines = [metric(0, reward=1.0, kl=None), metric(1, reward=2.0, kl="inf"), metric(2, reward=3.0), '{"stage": "onl']
    write(tmp_path / "now", lines)
    write(tmp_path / "now" / "01-online", [metric(1, prompt=EVIL, response=EVIL, reward=0.5)], name="samples.jsonl")
    write(tmp_path / "old", [metric(step, reward=float(step)) for step in range(9)], status="failed")
    for inner in ("recipe.yaml", "status.json"):
        (tmp_path / "now" / "01-online" / inner).unlink()
    return tmp_path


def client(folder: Path, token: str = "t") -> TestClient:
    return TestClient(site(Board(folder), "t"), base_url="http://127.0.0.1:1", cookies={cookie_of("t"): token})


def loaded(http: TestClient, name: str, points: int = 3, samples: int = 1) -> dict[str, Any]:
    """A run's answer, once its thread has read this many points of its reward."""
    http.get("/api/runs")
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found: dict[str, Any] = http.get("/api/run", params={"name": name}).json()
        if (
            len(found.get("curves", {}).get("online/reward", {}).get("points", [])) >= points
            and len(found["samples"]) >= samples
        ):
            return found
        time.sleep(0.02)
    raise AssertionError(f"{name} was not read within 30 s")


def embedded(page: str) -> list[dict[str, Any]]:
    """The runs that a page holds."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    found: list[dict[str, Any]] = json.loads(data)
    return found


def shown_at_once(http: TestClient) -> list[dict[str, Any]]:
    """The runs that come with the live page."""
    return embedded(http.get("/").text)


def test_a_curve_of_a_million_points_keeps_its_extremes_in_bounded_memory() -> None:
    curve = Series()
    for start in range(0, 1_000_000, 50_000):
        steps = range(start, start + 50_000)
        curve.extend(steps, [99.0 if step == 654_321 else math.sin(step / 1e5) for step in steps])
    points = curve.points()
    assert len(points) <= LIMIT
    assert max(high for _, _, _, high in points) == 99.0
    assert points[0][0] == 0
    assert curve.last == pytest.approx(math.sin(9.99999))


def test_numbers_that_are_not_finite_are_counted_and_steps_that_go_back_replace() -> None:
    curve = Series()
    for step, value in enumerate([1.0, math.nan, math.inf, 1e308, 2.0, 3.0]):
        curve.add(step, value)
    assert curve.not_finite == 3
    curve.add(2, 8.0)  # the stage was started again
    assert [point[:2] for point in curve.points()] == [[0, 1.0], [2, 8.0]]


@pytest.mark.parametrize("count", [1, 599, 600, 601, 1201, 5000])
def test_many_points_at_once_are_as_one_by_one(count: int) -> None:
    rng = random.Random(count)
    steps, values = [*range(count)], [float(rng.randrange(-50, 50)) for _ in range(count)]
    if count > 1000:
        steps[700:], values[30] = range(400, count - 300), math.nan  # started again, and not finite
    one, many = Series(), Series()
    for step, value in zip(steps, values, strict=True):
        one.add(step, value)
    for start in range(0, count, 450):
        many.extend(steps[start : start + 450], values[start : start + 450])
    assert repr(one) == repr(many)


def test_numbers_beyond_a_float_and_half_characters_are_shown(tmp_path: Path) -> None:
    write(tmp_path / "run", [metric(0, reward=10**400, loss=True), metric(1, reward=2, loss=None)], "finished")
    write(tmp_path / "run" / "online", [metric(1, prompt="\ud800", response="b")], name="samples.jsonl")
    for name in ("recipe.yaml", "status.json"):
        (tmp_path / "run" / "online" / name).unlink()
    found = shown_at_once(client(tmp_path))[0]
    assert found["curves"]["online/reward"] == {"points": [[1, 2.0, 2.0, 2.0]], "last": 2.0, "not_finite": 1}
    assert found["curves"]["online/loss"]["last"] is None
    assert found["samples"][0]["prompt"] == "\ud800"


def test_the_page_comes_with_the_curves_of_the_run_that_is_shown_first(runs: Path) -> None:
    with client(runs) as http:
        loaded(http, "now")
        rows = {row["name"]: row for row in shown_at_once(http)}
    assert len(rows["now"]["curves"]["online/reward"]["points"]) == 3
    assert (rows["old"]["status"], "curves" in rows["old"]) == ("failed", False)


def test_a_run_is_read_while_it_is_written(runs: Path) -> None:
    with client(runs) as http:
        before = loaded(http, "now")
        assert (before["status"], before["step"]) == ("running", 2)
        assert before["curves"]["online/kl"] == {"points": [], "last": None, "not_finite": 2}
        write(runs / "now", ['ine", "step": 3, "reward": 4.0}\n', metric(4, reward=5.0)])
        found = loaded(http, "now", points=5)
    assert [point[1] for point in found["curves"]["online/reward"]["points"]] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert found["samples"][0]["response"] == EVIL
    assert found["curves"]["online/samples: reward"]["last"] == 0.5


def test_a_run_that_somebody_resumed_is_followed_again(runs: Path) -> None:
    with client(runs) as http:
        assert loaded(http, "old", samples=0)["status"] == "failed"
        (runs / "old" / "status.json").write_text(json.dumps({"status": "running"}))
        (runs / "old" / "metrics.jsonl").open("a").write(metric(9, reward=20.0) + metric(10, reward=30.0))
        until, curve = time.monotonic() + 10, {"last": 0.0}
        while curve["last"] != 30.0 and time.monotonic() < until:
            curve = http.get("/api/run", params={"name": "old"}).json()["curves"].get("online/reward", curve)
    assert [point[1] for point in curve["points"]] == [*range(9), 20.0, 30.0]


def test_pace_time_left_and_memory_of_a_run_that_goes_on(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps that were there, then 4 more within 2 s: 2 steps per second, and 50 s for the other 100 of 106."""
    own = {"pid": os.getpid(), "host": socket.gethostname()}
    (runs / "now" / ".lock").write_text(json.dumps(own))
    gpu = {"reserved": 3 * 2**30, "peak": 2**30}
    status = {"status": "running", "stage": "online", "steps": 106, "data": {"digest": "ab"}, "gpu_memory": gpu}
    (runs / "now" / "status.json").write_text(json.dumps(status))
    found, now = next(run for run in Board(runs).runs() if run.name == "now"), [0.0]
    monkeypatch.setattr("rlhf_watch.page.board.time.monotonic", lambda: now[0])
    for now[0], step in ((0.0, 0), (0.1, 1), (0.1, 2), (1.0, 4), (2.0, 6)):
        found._metrics({"stage": "online", "step": step, "reward": 1.0})
    summary = found.summary()
    assert (summary["pace"], summary["left"]) == (2.0, 50.0)
    assert summary["memory"] > 2**20
    assert held(summary).endswith("GiB, GPU 3.00 GiB")
    assert found.shown()["made_with"] == {
        "stages.0.stage": "online",
        "stages.0.trainer.max_steps": "100",
        "rows.digest": "ab",
    }


def test_nobody_is_let_in_without_the_token(runs: Path) -> None:
    assert client(runs, "wrong").get("/api/runs").status_code == 403
    assert client(runs, "").get("/?token=wrong").status_code == 403
    stranger = TestClient(site(Board(runs), "t"), base_url="http://evil.example")
    assert stranger.get("/?token=t").status_code == 400
    friend = TestClient(site(Board(runs), "t"), base_url="http://127.0.0.1:1")
    answer = friend.get("/?token=t")  # sets the cookie and goes to the page
    assert (answer.status_code, str(answer.url)) == (200, "http://127.0.0.1:1/")
    (script,) = re.findall(r'<script type="module">(.*?)</script>', answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in answer.headers["content-security-policy"]


def test_only_runs_of_the_folder_are_shown(runs: Path) -> None:
    with client(runs) as http:
        listed = {run["name"]: run["status"] for run in http.get("/api/runs").json()}
        assert listed == {"now": "running", "old": "failed"}
        assert http.get("/api/run", params={"name": "../old"}).status_code == 404


def test_the_page_as_one_file_holds_samples_as_data_alone(runs: Path) -> None:
    page = static_page(Board(runs))
    assert EVIL not in page
    now = next(run for run in embedded(page) if run["name"] == "now")
    assert now["samples"][0]["prompt"] == EVIL
    assert [point[1] for point in now["curves"]["online/reward"]["points"]] == [1.0, 2.0, 3.0]


def test_no_text_of_a_run_becomes_html() -> None:
    script = (HERE / "static" / "watch.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)


def test_the_terminal_shows_a_table(runs: Path) -> None:
    console = Console(width=200, record=True, force_terminal=False)
    (runs / "old" / "metrics.jsonl").open("a").write(metric(9, reward=9.0, kl=0.25))
    follow(Board(runs), console, once=True)
    text = console.export_text()
    assert "failed" in text
    assert "0.25" in text
    assert "█" in text


def test_the_command_writes_a_page_and_refuses_what_is_no_folder(runs: Path) -> None:
    watch = register_commands()["watch"]
    done = CliRunner().invoke(watch, [str(runs), "--out", str(runs / "page.html")])
    assert done.exit_code == 0, done.output
    assert "online/reward" in (runs / "page.html").read_text()
    assert "no such folder" in str(CliRunner().invoke(watch, [str(runs / "none")]).exception)
    assert str(CliRunner().invoke(watch, ["/nowhere/xyz"]).exception) == "/nowhere/xyz: no such folder"
    assert "--once prints the table of --terminal" in str(CliRunner().invoke(watch, [str(runs), "--once"]).exception)


def test_two_requests_at_once_start_one_reader(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[threading.Thread] = []

    def slow(**options: Any) -> threading.Thread:
        time.sleep(0.05)
        made.append(threading.Thread(**options))
        return made[-1]

    (run,) = (one for one in Board(runs).runs() if one.name == "old")
    monkeypatch.setattr("rlhf_watch.page.board.threading", SimpleNamespace(Thread=slow))
    with ThreadPoolExecutor(2) as requests:
        list(requests.map(lambda _: run.follow(patience=10), range(2)))
    assert len(made) == 1
    assert [point[0] for point in run.shown()["curves"]["online/reward"]["points"]] == list(range(9))
