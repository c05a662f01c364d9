"""Conversations: a policy answers, an environment writes what follows, and so on.

Each turn of the policy is a response of its own, to the conversation so far: what is learned of it is the tokens that
were sampled, whatever the chat template makes of them in later turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.rows import Samples, Text
from rlhf_plugins.data.messages import messages
from rlhf_plugins.data.turns import as_answer, as_messages

if TYPE_CHECKING:
    from rlhf_plugins.contract.run_kinds import EnvironmentFunction

Respond = Callable[[Sequence[Text], Mapping[str, list[Any]]], Samples]  # a response to each prompt, with its columns


@dataclass(frozen=True)
class Conversations:
    """B responses in conversations of one turn or more: those of all first turns, then of all second ones, and so on.

    Args:
        samples: the responses, each to its conversation so far.
        conversation: the conversation that each is part of, (B,) from 0.
        turn: the turn of each in its conversation, (B,) from 0.
        cut: how many conversations ended for want of room for another response.
    """

    samples: Samples
    conversation: Sequence[int]
    turn: Sequence[int]
    cut: int = 0

    @classmethod
    def of_one_turn(cls, samples: Samples) -> Conversations:
        """Each response as a conversation."""
        count = len(samples.responses)
        return cls(samples, range(count), [0] * count)

    @property
    def count(self) -> int:
        """How many conversations there are."""
        return self.turn.count(0)

    def groups(self, size: int) -> list[int]:
        """A number for each response, equal for the same turn of conversations from one opening.

        Args:
            size: how many conversations, side by side, have the same opening.
        """
        openings = -(-self.count // size)
        return [turn * openings + talk // size for talk, turn in zip(self.conversation, self.turn, strict=True)]

    def following(self) -> list[int | None]:
        """The place of the next turn of the conversation behind each response; None behind the last."""
        places = {key: place for place, key in enumerate(zip(self.conversation, self.turn, strict=True))}
        return [places.get((talk, turn + 1)) for talk, turn in places]


def converse(
    first: Samples, respond: Respond, environment: EnvironmentFunction, turns: int, has_room: Callable[[Text], bool]
) -> Conversations:
    """Conversations of at most so many turns, from the responses to their openings.

    Args:
        first: responses to the openings.
        respond: samples the responses of later turns.
        environment: what follows each response; of several processes all ask theirs, and go on as the main one's says.
        turns: most of the policy's.
        has_room: whether there is room for a response to a conversation so far; where there is none, it ends.
    """
    parts, numbers, cut = [first], [list(range(len(first.responses)))], 0
    for _ in range(1, turns):
        last, talks = parts[-1], numbers[-1]
        replies = processes.from_main(environment(last))
        prompts = {i: _behind(last, i, turn) for i, turn in enumerate(replies) if turn is not None}
        going = [i for i, prompt in prompts.items() if has_room(prompt)]
        cut += len(prompts) - len(going)
        if not going:
            break
        columns = last.take(going).columns
        parts.append(respond([prompts[i] for i in going], {name: list(each) for name, each in columns.items()}))
        numbers.append([talks[i] for i in going])
    samples = parts[0]
    for part in parts[1:]:
        samples = samples + part
    turn = [number for number, part in enumerate(numbers) for _ in part]
    return Conversations(samples, [talk for part in numbers for talk in part], turn, cut)


def _behind(samples: Samples, place: int, replies: Text) -> Text:
    """A conversation so far with a response and what follows it. Raises DataError where a message has no text."""
    prompt, response = samples.prompts[place], samples.responses[place]
    if isinstance(prompt, str):
        return f"{prompt}{response}{replies}"
    return [*prompt, *as_answer(response), *messages("environment", "its turn", as_messages(replies))]


def discounted_returns(
    rewards: Sequence[float | None], following: Sequence[int | None], discount: float
) -> list[float | None]:
    """G = r + discount G' of each response, G' that of the next turn; None where one of these rewards is missing.

    Args:
        rewards: the rewards of each response; None where it has none.
        following: the place of the next turn, behind its own; None at the end of a conversation.
        discount: the discount of a turn.
    """
    found: list[float | None] = [None] * len(rewards)
    for place in reversed(range(len(rewards))):
        own, after = rewards[place], following[place]
        later = 0.0 if after is None or not discount else found[after]
        found[place] = None if own is None or later is None else own + discount * later
    return found
