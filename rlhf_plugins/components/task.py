"""What policies are measured on beside the judge: rows with right answers, choices, and what must not happen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.contract.run_kinds import DataFormat, Reward, Task
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from rlhf_plugins.contract.handles import Policy
    from rlhf_plugins.contract.rows import Samples, Text
    from rlhf_plugins.contract.run import Run
    from rlhf_plugins.reward_models.handle import RewardHandle

ALONE = "each is measured alone here, by any task but reward_wins"
logger = logging.getLogger(__name__)
Rows = Annotated[int, Field(ge=2, description="of the data, the first ones of all splits")]
NewTokens = Annotated[int, Field(ge=1, description="where an answer is cut")]
Temperature = Annotated[float, Field(ge=0, description="of sampling; 0 decodes greedily")]


@dataclass(frozen=True)
class Answers(Task):
    """The share of rows that are answered right: one answer to each, scored by a reward that a rule decides."""

    data: DataFormat = uses("data_format", tag="format")
    reward: Reward = uses("reward", "exact_match")
    rows: Rows = 200
    max_new_tokens: NewTokens = 64
    temperature: Temperature = 0.0
    name: str = "answers"
    scored_alone = ALONE

    def sampled(self) -> tuple[int, int]:
        """An answer to each row."""
        return self.rows, self.max_new_tokens

    def asked(self, run: Run) -> list[Group]:
        """See `Task`."""
        return _judged(self, _groups(self.data.load_in(run)), run)

    def build(self, run: Run) -> Callable[[Policy], Sequence[float]]:
        """Raises RunError where the rows or the reward cannot be had, or it abstains or compares responses."""
        score = _scored_alone(self, run)
        groups = _unseen(self.name, self.asked(run), run)
        return lambda policy: score(
            policy.sample(groups, temperature=self.temperature, max_new_tokens=self.max_new_tokens, seed=run.seed)
        )


@dataclass(frozen=True)
class Choices(Task):
    """The share of rows where the right one of several answers is the most likely one, by its log-probability.

    Log-probabilities are divided by the tokens of an answer, or summed with `by_length: false`.
    """

    data: DataFormat = uses("data_format", tag="format")
    choices: Annotated[str, Field(description="the prompts' column with a list of answers")] = "choices"
    answer: Annotated[str, Field(description="the column with the right one, or its number from 0")] = "answer"
    by_length: Annotated[bool, Field(description="compare means over tokens, not sums")] = True
    rows: Rows = 200
    name: str = "choices"

    def asked(self, run: Run) -> list[Group]:
        """See `Task`. Raises RunError where a row lacks choices or the right one."""
        groups = _with_room(_groups(self.data.load_in(run)), run, self.rows, 1)
        for group in groups:
            self.read(group)
        return groups

    def build(self, run: Run) -> Callable[[Policy], Sequence[float]]:
        """Raises RunError where the rows cannot be had, or lack choices or the right one."""
        from rlhf_plugins.data.turns import as_response

        groups = _unseen(self.name, self.asked(run), run)
        rows = [(group.prompt, *self.read(group)) for group in groups]

        def right(policy: Policy) -> list[float]:
            pairs = [(prompt, choice) for prompt, choices, _ in rows for choice in choices]
            answers = [as_response(prompt, choice) for prompt, choice in pairs]
            samples = policy.encode([prompt for prompt, _ in pairs], answers)
            sums = policy.log_probs(samples).sum(1).tolist()
            lengths = [len(ids) if self.by_length else 1 for ids in samples.response_ids]
            scores = iter([total / max(count, 1) for total, count in zip(sums, lengths, strict=True)])
            found = [[next(scores) for _ in choices] for _, choices, _ in rows]
            return [float(each.index(max(each)) == row[2]) for each, row in zip(found, rows, strict=True)]

        return right

    def read(self, group: Group) -> tuple[list[str], int]:
        """The answers of a row, and which one is right. Raises RunError naming the row."""
        choices, answer = group.columns.get(self.choices), group.columns.get(self.answer)
        where = f"task {self.name}: the row {str(group.prompt)[:60]!r}"
        if not isinstance(choices, list | tuple) or len(choices) < 2 or not all(isinstance(c, str) for c in choices):
            raise RunError(f"{where} has no list of two or more texts in the column {self.choices!r}")
        place = choices.index(answer) if answer in choices else answer
        if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(choices):
            raise RunError(f"{where}: the column {self.answer!r} should be one of its choices or the number of one")
        return list(choices), place


@dataclass(frozen=True)
class Violations(Task, better="lower"):
    """The share of answers that a function or a classifier scores above a limit: violations per 100 answers."""

    reward: Reward = uses("reward")
    above: Annotated[float, Field(description="a higher score is a violation")] = 0.5
    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    rows: Rows = 200
    max_new_tokens: NewTokens = 64
    temperature: Temperature = 1.0
    name: str = "violations"
    scored_alone = ALONE

    def sampled(self) -> tuple[int, int]:
        """An answer to each row."""
        return self.rows, self.max_new_tokens

    def asked(self, run: Run) -> list[Group]:
        """See `Task`."""
        return _judged(self, _held_out(self.data, run), run)

    def build(self, run: Run) -> Callable[[Policy], Sequence[float]]:
        """The prompts are those that the run holds out, where no `data` is given. Raises RunError as `Answers` does."""
        score, answers = _scored_alone(self, run), _answers_of(self, run)
        return lambda policy: [float(value > self.above) for value in score(answers(policy))]


@dataclass(frozen=True)
class RewardWins(Task):
    """The share of prompts whose answer a reward scores above the reference's answer; equal scores count by half.

    With the reward that a policy was trained on: a share far above that of the judge is over-optimisation of it.
    """

    reward: Reward = uses("reward", "model")
    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    rows: Rows = 200
    max_new_tokens: NewTokens = 64
    temperature: Temperature = 1.0
    name: str = "reward_wins"

    def sampled(self) -> tuple[int, int]:
        """An answer to each row."""
        return self.rows, self.max_new_tokens

    def asked(self, run: Run) -> list[Group]:
        """See `Task`."""
        return _judged(self, _held_out(self.data, run), run)

    def build(self, run: Run) -> Callable[[Policy], Sequence[float]]:
        """The prompts are those that the run holds out, where no `data` is given.

        Raises RunError where the rows or the reward cannot be had, or it abstains.
        """
        from rlhf_plugins.reward_models.handle import reward_handle

        score, answers = _scored(reward_handle(self.reward.build(run)), self.name), _answers_of(self, run)
        theirs = answers(run.reference())

        def wins(policy: Policy) -> list[float]:
            values = score(answers(policy).beside(theirs))  # in one call, for a reward that compares them
            count = len(values) // 2
            return [
                (own > other) + 0.5 * (own == other) for own, other in zip(values[:count], values[count:], strict=True)
            ]

        return wins


def _answers_of(task: Violations | RewardWins, run: Run) -> Callable[[Policy], Samples]:
    """A policy's answer to each prompt."""
    groups = _unseen(task.name, task.asked(run), run)
    options: dict[str, Any] = {"temperature": task.temperature, "max_new_tokens": task.max_new_tokens}
    return lambda policy: policy.sample(groups, seed=run.seed, **options)


def _held_out(data: DataFormat | None, run: Run) -> Sequence[Group]:
    """The prompts of `data`, or where there is none those that the run holds out."""
    return run.data.prompts.get("test", ()) if data is None else _groups(data.load_in(run))


def _groups(data: Any) -> list[Group]:
    """The prompts of every split, in the order of the rows."""
    groups = (group for split in data.prompts.values() for group in split)
    return sorted(groups, key=lambda group: (group.origin and group.origin.row) or 0)


def _with_room(groups: Sequence[Group], run: Run, most: int, room: int, option: str = "") -> list[Group]:
    """The first of them that leave the model room for a response."""
    from rlhf_plugins.data.batches.tokenized import prompts_with_room
    from rlhf_plugins.engine.weights.loading import load_row_encoder

    return prompts_with_room(groups, load_row_encoder(run.base), room, option)[0][:most]


def _judged(task: Answers | Violations | RewardWins, groups: Sequence[Group], run: Run) -> list[Group]:
    """The first rows that leave room for an answer. Raises RunError where the reward abstains from all answers to one.

    Where no row has the column that it reads, it says so itself.
    """
    asked = _with_room(groups, run, task.rows, task.max_new_tokens, "max_new_tokens")
    if task.reward.reads_columns() <= {name for group in asked for name in group.columns}:
        for group in asked:
            if not task.reward.can_score(group):
                raise RunError(_abstains(task.name, group.prompt))
    return asked


def _abstains(name: str, prompt: Text) -> str:
    return f"task {name}: the reward abstains on the answer to {str(prompt)[:60]!r}"


def _unseen(name: str, asked: list[Group], run: Run) -> list[Group]:
    """The rows of a task; warns of those that the run trains on."""
    trained = {str(group.prompt) for group in (*run.data.train, *run.data.prompts.get("train", ()))}
    if seen := sum(str(group.prompt) in trained for group in asked):
        logger.warning("task %s: %d of its %d rows have prompts that the run trains on", name, seen, len(asked))
    return asked


def _scored_alone(task: Answers | Violations, run: Run) -> Callable[[Samples], list[float]]:
    """A function to the reward of each response. Raises RunError where the reward compares responses."""
    from rlhf_plugins.reward_models.handle import fitting

    return _scored(fitting(task, "reward", task.reward.build(run)), task.name)


def _scored(handle: RewardHandle, name: str) -> Callable[[Samples], list[float]]:
    """A function to the reward of each response."""

    def score(samples: Samples) -> list[float]:
        found = handle(samples)
        if found.abstained is not None and bool(found.abstained.any()):
            row = int(found.abstained.int().argmax())
            raise RunError(_abstains(name, samples.prompts[row]))
        values: list[float] = found.reward.tolist()
        return values

    return score


@hookimpl
def register_task() -> dict[str, type]:
    """The bundled tasks."""
    return {"answers": Answers, "choices": Choices, "reward_wins": RewardWins, "violations": Violations}
