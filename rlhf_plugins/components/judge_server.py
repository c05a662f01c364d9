"""A judge behind a server that speaks the OpenAI protocol, such as vLLM, llama.cpp, or a paid one."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.records import Verdict
from rlhf_plugins.contract.run_kinds import Judge
from rlhf_plugins.engine.comparison_prompt import QUESTION, asked, both_orders
from rlhf_plugins.engine.servers.service import Service

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Text
    from rlhf_plugins.contract.run import Run
    from rlhf_plugins.contract.run_kinds import JudgeFunction


@dataclass(frozen=True)
class ByServer(Judge, Service):
    """P(A) / (P(A) + P(B)) of a served model's first token, or its answer A or B, over both orders (Zheng et al. 2023).

    What is no answer, or stays unavailable, is a verdict that failed, never a number.
    """

    question: Annotated[str, Field(description="with {prompt}, {first} and {second}; the answer is A or B")] = QUESTION

    def __post_init__(self) -> None:
        asked(self.question, "", "", "")

    def build(self, run: Run) -> JudgeFunction:
        """Raises RunError when the key is missing, the server does not answer, or it has no such model."""
        from rlhf_plugins.engine.servers.served import preference

        server = self.reached("judge server")

        def prefers_first(prompts: Sequence[Text], first: Sequence[str], second: Sequence[str]) -> list[Verdict]:
            texts = [asked(self.question, *row) for row in zip(prompts, first, second, strict=True)]
            with ThreadPoolExecutor(self.parallel) as calls:
                return list(calls.map(lambda text: preference(server, text), texts))

        return both_orders(prefers_first)


@hookimpl
def register_judge() -> dict[str, type]:
    """The judge of this file."""
    return {"server": ByServer}
