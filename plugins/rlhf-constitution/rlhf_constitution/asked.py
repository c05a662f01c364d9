"""The reviser `assistant`: a model writes the answer again, given the critique; its instruction is a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import Field

from rlhf_constitution.asking import Asker, outliving
from rlhf_constitution.assistant import Assistant
from rlhf_constitution.outcome import Failed
from rlhf_constitution.quoting import question
from rlhf_constitution.reviser import Reviser
from rlhf_constitution.revision import Propose, Request
from rlhf_constitution.texts import plain
from rlhf_plugins import OnDisk, Run, RunError, hookimpl, uses


@dataclass(frozen=True)
class ByAssistant(Reviser):
    """Asks the policy, another model or a server; an answer that fails is no proposal."""

    assistant: Assistant = uses("assistant", "policy")
    n: Annotated[int, Field(ge=1, description="proposals for a request")] = 2
    instruction: Annotated[
        str | None, OnDisk(), Field(description="a file with {critique} in it; null is the bundled one")
    ] = None

    def missing(self) -> dict[str, str]:
        """A file that is not there, or has no place for the critique."""
        if self.instruction is None:
            return {}
        if not Path(self.instruction).is_file():
            return {"instruction": f"no such file: {self.instruction}"}
        text = Path(self.instruction).read_text(encoding="utf-8")
        return {} if "{critique}" in text else {"instruction": f"{self.instruction} has no {{critique}} in it"}

    def build(self, run: Run) -> Propose:
        """Raises RunError where the assistant cannot be reached."""
        if found := self.missing():
            raise RunError(f"reviser assistant: {found['instruction']}")
        bundled = Path(str(files("rlhf_constitution") / "prompts" / "revise.txt"))
        instruction = (Path(self.instruction) if self.instruction else bundled).read_text(encoding="utf-8")
        ask = Asker.of(self.assistant, run, outliving(run, "revisions_asked.jsonl"))

        def propose(requests: Sequence[Request], seed: int) -> list[list[str]]:
            texts = [asked(instruction, request) for request in requests]
            rounds = [ask.write(texts, run.seed + seed * self.n + number) for number in range(self.n)]
            return [[text for text in row if not isinstance(text, Failed)] for row in zip(*rounds, strict=True)]

        return propose


def asked(instruction: str, request: Request) -> str:
    """The question: the critique is quoted too, since it may hold words of the answer."""
    quoted = {"Prompt": plain(request.prompt), "Answer": request.response, "Critique": str(request.critique)}
    return question(instruction.replace("{critique}", "The problem is in the critique below."), quoted, "New answer:")


@hookimpl
def register_components() -> dict[str, dict[str, type]]:
    """The reviser of this file."""
    return {"reviser": {"assistant": ByAssistant}}
