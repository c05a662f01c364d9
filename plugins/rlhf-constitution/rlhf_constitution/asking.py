"""Asks an assistant within a budget: each call is reserved before it is made, and no decision is paid for twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from rlhf_constitution.assistant import Asked, Assistant, Chosen, Written
from rlhf_constitution.ledger import OVER, Ledger
from rlhf_constitution.outcome import Failed
from rlhf_constitution.quoting import unfenced
from rlhf_plugins import Run

BATCH = 64  # questions between two looks at the clock
CACHE = "judgements.jsonl"


@dataclass
class Asker:
    """An assistant with its budget and its cache."""

    asked: Asked
    ledger: Ledger
    file: Path | None = None  # the cache; None keeps nothing
    key: str = ""  # names the assistant: another one's answers are not read from the cache
    most: int = 256  # tokens of a written answer
    known: dict[str, list[float]] = field(default_factory=dict)
    hits: int = 0
    failures: int = 0

    @staticmethod
    def of(assistant: Assistant, run: Run, file: Path | None = None) -> Asker:
        """Bound to the run, with the answers that its folder remembers."""
        file = file or outliving(run, CACHE)
        key = json.dumps(run.spec(assistant), sort_keys=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(assistant.budget, file=file)
        asker = Asker(assistant.build(run, ledger), ledger, file, key, assistant.max_new_tokens)
        asker.remember()
        return asker

    def remember(self) -> None:
        """Reads what was reserved and answered before; a line that was torn by a kill is left out."""
        if self.file is None or not self.file.exists():
            return
        text = self.file.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):
            with self.file.open("a", encoding="utf-8") as file:
                file.write("\n")  # or the next row would be part of the torn one
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if "answer" in row:
                self.known[row["key"]] = row["answer"]
            else:
                self.ledger.count(**row)

    def choose(self, questions: Sequence[str], choices: Sequence[str]) -> list[Chosen]:
        """Answers as `Asked.choose` does; equal questions are asked once, and a failed one is asked again next time."""
        keys = [self.hash(question, choices) for question in questions]
        new = {key: question for key, question in zip(keys, questions, strict=True) if key not in self.known}
        self.hits += len(keys) - len(new)
        failed: dict[str, Chosen] = {}
        for at in range(0, len(new), BATCH):
            failed |= self._batch(dict(list(new.items())[at : at + BATCH]), choices)
        return [tuple(self.known[key]) if key in self.known else failed[key] for key in keys]

    def _batch(self, new: dict[str, str], choices: Sequence[str]) -> dict[str, Chosen]:
        paid = {key: text for key, text in new.items() if self.ledger.reserve(most_tokens(text))}
        found = dict(zip(paid, self.asked.choose(list(paid.values()), choices) if paid else [], strict=True))
        good = {key: list(answer) for key, answer in found.items() if not isinstance(answer, Failed)}
        self.known |= good
        if good and self.file is not None:
            rows = [{"key": key, "answer": answer} for key, answer in good.items()]
            with self.file.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))
        bad: dict[str, Chosen] = {key: found.get(key, OVER) for key in new if key not in good}
        self.failures += len(bad)
        return bad

    def write(self, questions: Sequence[str], seed: int) -> list[Written]:
        """Answers as `Asked.write` does; questions that the budget does not cover get `OVER`."""
        paid = [self.ledger.reserve(len(text.encode()) + self.most) for text in questions]
        answers = iter(self.asked.write([text for text, ok in zip(questions, paid, strict=True) if ok], seed))
        return [next(answers) if ok else OVER for ok in paid]

    def hash(self, question: str, choices: Sequence[str]) -> str:
        """The hash of the assistant, the question and the choices; the fence in the question does not change it."""
        content = json.dumps([self.key, unfenced(question), list(choices)])
        return blake2b(content.encode(), digest_size=16).hexdigest()


def outliving(run: Run, name: str) -> Path:
    """A file of the stage beside what `Run.once` makes: all else in its folder is deleted when a killed run goes on."""
    return run.folder / "once" / name


def most_tokens(question: str) -> int:
    """What a decision about a question may use: a token for each byte, and a few for the answer."""
    return len(question.encode()) + 8
