"""A generator behind a server that speaks the OpenAI protocol, such as vLLM, llama.cpp, or a paid one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.run_kinds import Generator
from rlhf_plugins.engine.servers.service import Service

if TYPE_CHECKING:
    from rlhf_plugins.contract.handles import Policy
    from rlhf_plugins.contract.run import Run


@dataclass(frozen=True)
class Served(Generator, Service):
    """A served model, which answers in text alone: it cannot be trained, mixed, or asked for log-probabilities.

    A prompt of text is asked as what a user says. A response that does not come is empty, and the samples' column
    `failed` says why; where none comes, it is an error. Tokens are those of the run's base.
    """

    def build(self, run: Run) -> Policy:
        """Raises RunError when the key is missing, the server does not answer, or it has no such model."""
        from rlhf_plugins.engine.servers.served_policy import ServedPolicy
        from rlhf_plugins.engine.weights.loading import load_row_encoder

        return ServedPolicy(self.reached("generator server"), load_row_encoder(run.base), self.parallel)


@hookimpl
def register_generator() -> dict[str, type]:
    """The generator of this file."""
    return {"server": Served}
