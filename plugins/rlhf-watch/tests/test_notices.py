"""Notices of alarms, to a local stand-in of a webhook and of a mail server; secrets are shown nowhere."""

from __future__ import annotations

import http.server
import json
import shutil
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rlhf_watch.alarms.limits import Limits
from rlhf_watch.commands import register_commands
from rlhf_watch.notices import address, sending
from rlhf_watch.notices.address import Address, Notice
from rlhf_watch.notices.sending import send
from rlhf_watch.page.news import News
from test_alarms import CASES, run
from typer.testing import CliRunner

from rlhf_plugins import PluginError, RunError, component

NOTICE = Notice("runs/a", "online", 7, "length_drift", "too long\nby far", None, 0.01)
SECRET = "t0ken"
SAYS = {
    "EHLO": b"250-here\r\n250 AUTH PLAIN\r\n",
    "DATA": b"354 go on\r\n",
    "AUTH": b"235 ok\r\n",
    "QUIT": b"221 bye\r\n",
}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "PAUSE", 0.01)
    monkeypatch.setattr(address, "PATIENCE", 0.3)


class Hook(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted; its server's `answers` are the codes that it gives, the last one again and again."""

    def do_POST(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.got.append((self.path, json.loads(body)))
        self.send_response(server.answers.pop(0) if len(server.answers) > 1 else server.answers[0])
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


class Mails(socketserver.StreamRequestHandler):
    """As much of SMTP as a client needs; keeps the lines that it is sent."""

    def handle(self) -> None:
        server: Any = self.server
        self.wfile.write(b"220 here\r\n")
        data = False
        for line in self.rfile:
            server.got.append(text := line.decode().strip())
            verb = text[:4].upper()
            if data and text != ".":
                continue
            data = verb == "DATA"
            self.wfile.write(SAYS.get(verb, b"250 ok\r\n"))


@pytest.fixture
def hook() -> Iterator[Any]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        yield from served(server, [200])


@pytest.fixture
def mails() -> Iterator[Any]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mails) as server:
        yield from served(server, [])


def served(server: Any, answers: list[int]) -> Iterator[Any]:
    server.got, server.answers, server.daemon_threads = [], answers, True
    threading.Thread(target=lambda: server.serve_forever(0.01), daemon=True).start()
    yield server
    server.shutdown()


def url(server: Any, text: str) -> str:
    return text.format(f"127.0.0.1:{server.server_address[1]}")


def test_a_webhook_gets_the_alarm_as_json(hook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALARMS", url(hook, "http://{}/hooks/t0ken?key=k"))
    send(Address.read("ALARMS"), NOTICE)
    ((path, body),) = hook.got
    assert path == "/hooks/t0ken?key=k"
    assert body["text"] == "runs/a, online step 7, length_drift: too long by far"
    assert (body["step"], body["false_alarm_rate"], body["action"]) == (7, 0.01, None)


@pytest.mark.parametrize(
    ("answers", "count", "reason"), [([500, 200], 2, ""), ([404], 2, "HTTPError 404"), ([302], 2, "HTTPError 302")]
)
def test_there_is_one_more_attempt_and_no_redirect(
    hook: Any, caplog: pytest.LogCaptureFixture, answers: list[int], count: int, reason: str
) -> None:
    hook.answers = answers
    send(Address.read(url(hook, "http://{}/t0ken")), NOTICE)
    assert [path for path, _ in hook.got] == ["/t0ken"] * count
    assert caplog.messages == [f"the alarm of length_drift was not sent to 127.0.0.1: {reason}"] * bool(reason)


def test_a_server_that_is_not_there_is_a_line_without_the_secret(caplog: pytest.LogCaptureFixture) -> None:
    for text in ("http://127.0.0.1:9/t0ken", "smtp://me:t0ken@127.0.0.1:9?to=me@example.org"):
        send(Address.read(text), NOTICE)
    assert [line.rpartition(" ")[2] for line in caplog.messages] == ["ConnectionRefusedError"] * 2
    assert SECRET not in caplog.text


def test_a_mail_is_sent_and_no_password_without_tls(mails: Any, caplog: pytest.LogCaptureFixture) -> None:
    send(Address.read(url(mails, "smtp://{}?to=me@example.org")), NOTICE)
    text = "\n".join(mails.got)
    assert "rcpt TO:<me@example.org>" in text
    assert "Subject: alarm of length_drift in runs/a" in text
    assert "online step 7, length_drift: too long by far" in text
    mails.got.clear()
    send(Address.read(url(mails, "smtp://me:t0ken@{}?to=me@example.org")), NOTICE)
    assert not [line for line in mails.got if line.startswith(("AUTH", "mail"))]
    assert "SMTPNotSupportedError" in caplog.text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of localhost, with its key in the same file, that signed itself."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    file: Path = tmp_path_factory.mktemp("tls") / "both.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost"]
    more = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(file), "-out", f"{file}.crt"]
    subprocess.run(["openssl", "req", "-x509", *kind, *more], check=True, capture_output=True)
    with file.open("a") as end:
        end.write(Path(f"{file}.crt").read_text())
    return file


def test_a_password_goes_through_tls_to_a_trusted_server_alone(
    mails: Any, certificate: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    mails.socket = context.wrap_socket(mails.socket, server_side=True)
    to = Address.read(f"smtps://me:t0ken@localhost:{mails.server_address[1]}?to=me@example.org")
    send(to, NOTICE)
    assert "SSLCertVerificationError" in caplog.text
    assert mails.got == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    send(to, NOTICE)
    assert "AUTH PLAIN AG1lAHQwa2Vu" in mails.got  # \0me\0t0ken
    assert "rcpt TO:<me@example.org>" in mails.got


@pytest.mark.parametrize(
    "text", ["NOT_SET", "t0ken", "ftp://host/t0ken", "smtp://host/t0ken", "https://me:t0ken@host", "http://[t0ken"]
)
def test_what_is_no_address_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(RunError, match="^notify: .* should (be|hold) https://HOST/PATH") as found:
        Address.read(text)
    assert SECRET not in str(found.value)


def test_a_monitor_sends_its_alarm_from_the_address_in_a_variable(
    hook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "thresholds.json"
    Limits(0.01, 300, 100, {"watched": {"threshold": 0.5, "options": {"warm_up": 2}}}).write(file)
    monitor = component("monitor", "length_drift", warm_up=2, thresholds=str(file), notify="ALARMS")
    assert "the environment variable ALARMS is not set" in monitor.missing()["notify"]
    monkeypatch.setenv("ALARMS", url(hook, "http://{}/t0ken"))
    watched = run([])
    watched.folder = tmp_path / "mine" / "01-online"
    made, (good, bad) = monitor.build(watched), CASES["length_drift"]
    before = {*threading.enumerate()}
    alarms = [found for one in [good] * 4 + [bad] * 30 if (found := made(one))]
    for thread in {*threading.enumerate()} - before:
        if not thread.daemon:  # the server's own are, and may not have started yet
            thread.join(5)
    ((_, body),) = hook.got
    assert (body["run"], body["message"]) == ("mine/01-online", alarms[0].message)
    assert "responses" not in body


def test_a_recipe_never_holds_an_address_and_what_never_alarms_sends_nothing() -> None:
    with pytest.raises(RunError, match="notify: watched has no thresholds"):
        component("monitor", "length_drift", notify="ALARMS").build(run([]))
    with pytest.raises(PluginError, match="notify: name an environment variable that holds the address"):
        component("monitor", "reward_gap", notify="https://hooks.example.org/t0ken")


def test_watching_sends_alarms_that_come_from_now_on_once(tmp_path: Path, hook: Any) -> None:
    def alarm(run: str, step: int, status: str = "running") -> None:
        (tmp_path / run).mkdir(exist_ok=True)
        (tmp_path / run / "recipe.yaml").write_text("stages: []\n")
        row = {"step": step, "stage": "online", "monitor": "kl_limit", "message": "far", "action": None}
        with (tmp_path / run / "alarms.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        (tmp_path / run / "status.json").write_text(json.dumps({"status": status}))

    alarm("old", 1, "finished")
    alarm("now", 1)
    news = News(tmp_path)
    alarm("now", 2, "failed")
    alarm("new", 3, "finished")
    assert {(one.run, one.step, one.action) for one in news.notices()} == {("now", 2, None), ("new", 3, None)}
    assert news.notices() == []
    alarm("now", 4)  # it goes on
    assert [one.step for one in news.notices()] == [4]


def test_an_unexpected_error_is_one_line_and_the_alarms_of_other_runs_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    news = News(tmp_path)
    for name, message in (("bad", {"no": "text"}), ("good", "far")):  # a dict cannot be one of a set
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text("stages: []\n")
        (tmp_path / name / "status.json").write_text(json.dumps({"status": "running"}))
        (tmp_path / name / "alarms.jsonl").write_text(json.dumps({"step": 1, "stage": "s", "message": message}) + "\n")
    assert [one.run for one in news.notices()] == ["good"]
    assert news.notices() == []
    assert caplog.messages == ["the alarms of bad are not read: TypeError: unhashable type: 'dict'"]


def test_sending_goes_on_after_an_error_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    news, errors = News(tmp_path), iter([OSError("away"), KeyboardInterrupt()])
    monkeypatch.setattr(news, "notices", lambda: (_ for _ in ()).throw(next(errors)))
    with pytest.raises(KeyboardInterrupt):  # which is the second poll
        news.send(Address.read("https://host/path"), poll=0)


def test_the_command_refuses_an_address_that_is_none(tmp_path: Path) -> None:
    watch = register_commands()["watch"]
    for more, message in (([], "notify: the address should be"), (["--once"], "leave --once and --out away")):
        done = CliRunner().invoke(watch, [str(tmp_path), "--terminal", "--notify", "ftp://host", *more])
        assert message in str(done.exception)
