"""Asks an assistant to put a critique in words: what is wrong, where, and what would help, as a file tells it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from rlhf_constitution.asking import Asker, outliving
from rlhf_constitution.assistant import Assistant
from rlhf_constitution.critique import Critique
from rlhf_constitution.outcome import Failed
from rlhf_constitution.quoting import question
from rlhf_constitution.revision import Request
from rlhf_constitution.texts import plain
from rlhf_plugins import Run

ANGLES = {
    "content": "Look at its facts and its reasoning.",
    "style": "Look at its tone and the way it is put.",
    "compliance": "Look at whether it does what the principle forbids.",
}
LINE = re.compile(r"^[^\w\n]*(wrong|where|fix)[^\w\n]*:[^\w\n]*(.+)$", re.IGNORECASE | re.MULTILINE)
PLACES = ("{principle}", "{angle}")


def unreadable(file: str | None) -> str:
    """Why a file is no instruction; empty where it is one, or None."""
    if file is None:
        return ""
    if not Path(file).is_file():
        return f"no such file: {file}"
    text = Path(file).read_text(encoding="utf-8")
    return next((f"{file} has no {place} in it" for place in PLACES if place not in text), "")


def critic(assistant: Assistant, run: Run, file: str | None) -> Callable[[Sequence[Request]], list[Request]]:
    """A function that writes the critiques of requests again; where that fails, they stay as they are."""
    path = Path(file) if file else Path(str(files("rlhf_constitution") / "prompts" / "criticise.txt"))
    text, ask = path.read_text(encoding="utf-8"), Asker.of(assistant, run, outliving(run, "critiques_asked.jsonl"))

    def criticise(requests: Sequence[Request]) -> list[Request]:
        answers = ask.write([asked(text, request) for request in requests], run.seed)
        pairs = zip(requests, answers, strict=True)
        return [one if isinstance(answer, Failed) else worded(one, answer) for one, answer in pairs]

    return criticise


def asked(text: str, request: Request) -> str:
    """The question about one response."""
    found = request.critique
    text = text.replace("{angle}", ANGLES[found.angle]).replace("{principle}", found.principle)
    return question(text, {"Prompt": plain(request.prompt), "Answer": request.response}, "Wrong:")


def worded(request: Request, answer: str) -> Request:
    """The request with the assistant's words; a place that the response does not have is left out."""
    given = answer if LINE.match(answer) else f"Wrong: {answer}"
    found = {name.lower(): words.strip() for name, words in LINE.findall(given)}
    old, where = request.critique, found.get("where", "").strip("'\"")
    new = Critique(
        old.principle,
        old.angle,
        old.severity,
        found.get("wrong", old.why).rstrip("."),
        where if where in request.response else old.where,
        found.get("fix", old.fix).rstrip("."),
    )
    return replace(request, critique=new)
