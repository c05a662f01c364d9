"""A judge behind a server that speaks the OpenAI protocol, such as vLLM, llama.cpp, or a paid one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.records import Verdict
from rlhf_plugins.contract.run_kinds import Judge
from rlhf_plugins.engine.asking import QUESTION, asked, both_orders
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Text
    from rlhf_plugins.contract.run import Run
    from rlhf_plugins.contract.run_kinds import JudgeFunction


@dataclass(frozen=True)
class ByServer(Judge):
    """P(A) / (P(A) + P(B)) of a served model's first token, or its answer A or B, over both orders (Zheng et al. 2023).

    What is no answer, or stays unavailable, is a verdict that failed, never a number.
    """

    url: Annotated[str, Field(pattern="^https?://", description="such as http://127.0.0.1:8000/v1")]
    model: Annotated[str, Field(min_length=1, description="its name on the server")]
    key: Annotated[str | None, Field(description="environment variable that holds the API key; null sends none")] = None
    question: Annotated[str, Field(description="with {prompt}, {first} and {second}; the answer is A or B")] = QUESTION
    attempts: Annotated[int, Field(ge=1, description="calls for one answer, where the server is busy")] = 4
    timeout: Annotated[float, Field(gt=0, description="seconds for one call")] = 60.0
    parallel: Annotated[int, Field(ge=1, description="calls at once")] = 8

    def __post_init__(self) -> None:
        asked(self.question, "", "", "")

    def build(self, run: Run) -> JudgeFunction:
        """Raises RunError when the key is missing, the server does not answer, or it has no such model."""
        from rlhf_plugins.engine.served import Server, preference

        server = Server(self.url, self.model, self._secret(), self.attempts, self.timeout)
        server.check()

        def prefers_first(prompts: Sequence[Text], first: Sequence[str], second: Sequence[str]) -> list[Verdict]:
            texts = [asked(self.question, *row) for row in zip(prompts, first, second, strict=True)]
            with ThreadPoolExecutor(self.parallel) as calls:
                return list(calls.map(lambda text: preference(server, text), texts))

        return both_orders(prefers_first)

    def _secret(self) -> str | None:
        if self.key is None:
            return None
        if not os.environ.get(self.key):
            raise RunError(f"judge server: the environment variable {self.key} is not set; it should hold the API key")
        return os.environ[self.key]


@hookimpl
def register_judge() -> dict[str, type]:
    """The judge of this file."""
    return {"server": ByServer}
