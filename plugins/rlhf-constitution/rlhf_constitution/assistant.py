"""The kind `assistant`: a model that is asked; it chooses among short answers, or writes.

An answer that does not come, or is none of the choices, is `Failed`, never a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from pydantic import Field

from rlhf_constitution.ledger import Budget, Ledger
from rlhf_constitution.outcome import Failed
from rlhf_plugins import Component, Generator, Run, hookimpl, uses

Chosen = tuple[float, ...] | Failed  # a probability for each choice
Written = str | Failed


class Asked(Protocol):
    """What an assistant builds."""

    def choose(self, questions: Sequence[str], choices: Sequence[str]) -> list[Chosen]:
        """For each question, how likely each of the short answers is, at temperature 0."""
        ...

    def write(self, questions: Sequence[str], seed: int) -> list[Written]:
        """An answer in words to each question."""
        ...


@dataclass(frozen=True, kw_only=True)
class Assistant(Component, kind="assistant"):
    """A model that is asked; `build` binds it to the run."""

    budget: Annotated[Budget, Field(description="what may be asked of it in a stage")] = field(default_factory=Budget)
    max_new_tokens: Annotated[int, Field(ge=1, description="where a written answer is cut")] = 256

    def build(self, run: Run, ledger: Ledger) -> Asked:
        """One call a question is reserved already; the ledger is for calls that are made again, and for the time.

        Raises RunError where it cannot be reached.
        """
        raise NotImplementedError

    def check_built(self, made: object) -> None:
        """What is built chooses and writes."""


@dataclass(frozen=True)
class ByPolicy(Assistant):
    """A policy on this machine: choices by the log-probabilities of short answers, in one forward pass."""

    policy: Generator = uses("generator", "policy")
    temperature: Annotated[float, Field(ge=0, description="of written answers")] = 0.7

    def build(self, run: Run, ledger: Ledger) -> Asked:
        """Raises RunError when the policy does not load."""
        return _OfPolicy(self, run)


@dataclass(frozen=True)
class _OfPolicy:
    options: ByPolicy
    run: Run

    def choose(self, questions: Sequence[str], choices: Sequence[str]) -> list[Chosen]:
        """See `Asked`."""
        with self.options.policy.build(self.run) as policy:
            return [tuple(row) for row in policy.choose(list(questions), list(choices)).exp().tolist()]

    def write(self, questions: Sequence[str], seed: int) -> list[Written]:
        """See `Asked`."""
        most, temperature = self.options.max_new_tokens, self.options.temperature
        with self.options.policy.build(self.run) as policy:
            samples = policy.sample(list(questions), temperature=temperature, max_new_tokens=most, seed=seed)
        return list(samples.responses)


@hookimpl
def register_kind() -> dict[str, type]:
    """The kind of this file."""
    return {"assistant": Assistant}


@hookimpl
def register_components() -> dict[str, dict[str, type]]:
    """The assistant of this file."""
    return {"assistant": {"policy": ByPolicy}}
