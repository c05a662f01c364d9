"""The kind `reviser`: what proposes revisions of a response, given a critique; it does not accept any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from rlhf_constitution.revision import Propose, Request
from rlhf_plugins import Component, Run, hookimpl


class Reviser(Component, kind="reviser"):
    """Proposes revisions; `build` binds it to the run."""

    def build(self, run: Run) -> Propose:
        """A function from requests and a seed to proposals for each request."""
        raise NotImplementedError


@dataclass(frozen=True)
class Samples(Reviser):
    """Other answers of the policy to the same prompt: best-of-n by the constitution, for a policy that cannot edit."""

    n: Annotated[int, Field(ge=1, description="answers to a request")] = 4
    temperature: Annotated[float, Field(gt=0, description="of sampling")] = 1.0
    max_new_tokens: Annotated[int, Field(ge=1, description="where an answer is cut")] = 64

    def build(self, run: Run) -> Propose:
        """A function that samples `n` answers to each request's prompt from the policy that the stage starts from."""

        def propose(requests: Sequence[Request], seed: int) -> list[list[str]]:
            asked = [request.prompt for request in requests]
            with run.policy() as policy:
                found = policy.sample(
                    asked,
                    self.n,
                    temperature=self.temperature,
                    max_new_tokens=self.max_new_tokens,
                    seed=run.seed + 1 + seed,
                ).responses
            return [list(found[at : at + self.n]) for at in range(0, len(found), self.n)]

        return propose


@hookimpl
def register_kind() -> dict[str, type]:
    """The kind of this file."""
    return {"reviser": Reviser}


@hookimpl
def register_components() -> dict[str, dict[str, type]]:
    """The reviser of this file."""
    return {"reviser": {"samples": Samples}}
