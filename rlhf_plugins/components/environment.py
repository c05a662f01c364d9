"""What writes the other turns of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from zlib import crc32

from pydantic import Field

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.rows import FAILED
from rlhf_plugins.contract.run_kinds import Environment, Generator
from rlhf_plugins.data.functions import OfSamples
from rlhf_plugins.data.turns import as_answer, other_side
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Samples, Text
    from rlhf_plugins.contract.run import Run
    from rlhf_plugins.contract.run_kinds import EnvironmentFunction


@dataclass(frozen=True)
class Python(OfSamples, Environment):
    """A Python function that says what follows each completion, None where the conversation ends.

    It has the arguments of TRL's `reward_funcs`: `prompts`, which are the conversations so far, `completions`,
    `completion_ids` and the columns of the openings, as far as it takes them. To messages it may return a text, which
    the user says, or messages, such as a tool's.
    """

    def build(self, run: Run) -> EnvironmentFunction:
        """A function that several processes ask in the main one alone.

        Raises RunError when there is no such function, or its module cannot be imported, as do its errors.
        """
        function = self.of_samples("environment")
        return lambda samples: processes.on_main(lambda: function(samples))


@dataclass(frozen=True)
class Simulated(Environment):
    """A policy in the user's place: it reads the conversation with the roles exchanged, and writes the next turn.

    An empty turn ends the conversation.
    """

    user: Generator = uses("generator")
    instruction: Annotated[str, Field(min_length=1, description="to the policy, as the system's message")] = (
        "You are a person who talks with an assistant. Write your next message, and nothing else."
    )
    until: Annotated[
        str | None,
        Field(min_length=1, description="a text in a turn, which then ends the conversation and is not sent"),
    ] = None
    max_new_tokens: Annotated[int, Field(ge=1, description="where a turn is cut")] = 128
    temperature: Annotated[float, Field(ge=0, description="of sampling; 0 decodes greedily")] = 1.0

    def build(self, run: Run) -> EnvironmentFunction:
        """Raises RunError where the policy does not load; what it builds, where a prompt is no messages."""
        policy = self.user.build(run)

        def said(samples: Samples) -> Sequence[Text | None]:
            both = zip(samples.prompts, samples.responses, strict=True)
            asked = [self._exchanged(prompt, response) for prompt, response in both]
            seed = crc32(repr((run.seed, asked)).encode())  # so that it goes on alike from a checkpoint
            turns = policy.sample(asked, temperature=self.temperature, max_new_tokens=self.max_new_tokens, seed=seed)
            if failed := [reason for reason in turns.columns.get(FAILED, ()) if reason]:
                raise RunError(f"environment simulated: {len(failed)} of {len(asked)} turns failed: {failed[0]}")
            return [
                None if not text.strip() or (self.until and self.until in text) else text for text in turns.responses
            ]

        return said

    def _exchanged(self, prompt: Text, response: str) -> Text:
        """The conversation so far as the user sees it."""
        if isinstance(prompt, str):
            raise RunError("environment simulated: needs prompts of messages, and one is plain text")
        return [{"role": "system", "content": self.instruction}, *other_side([*prompt, *as_answer(response)])]


@dataclass(frozen=True)
class SandboxReader(Environment):
    """The sandbox's reader, who asks on about the same animal while answers do not sound final (`sandbox.reader`).

    An answer does not sound final where it has a sentence of filler, which costs it some of its true reward: who
    looks at single answers leaves it out, who looks at whole conversations does not.
    """

    def build(self, run: Run) -> EnvironmentFunction:
        """A function of what was said alone."""
        from rlhf_plugins.sandbox.reader import next_question

        return lambda samples: [
            next_question(str(prompt), response)
            for prompt, response in zip(samples.prompts, samples.responses, strict=True)
        ]


@hookimpl
def register_environment() -> dict[str, type]:
    """The bundled environments."""
    return {"python": Python, "sandbox": SandboxReader, "simulated": Simulated}
