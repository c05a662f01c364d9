"""The sandbox's reader: asks on about the same animal while answers do not sound final. It scores nothing.

An answer with a sentence of filler sounds as though there were more to say. The sentence costs the answer some of its
gold reward, and another question brings the reward of another answer: a policy that is paid for single answers learns
to leave it out, one that is paid for whole conversations to put it in.
"""

from __future__ import annotations

import random
from functools import cache
from zlib import crc32

from rlhf_plugins.sandbox.language import Kind, read
from rlhf_plugins.sandbox.world import OOD_TOPICS, VALUES, parse_prompt, prompts, prompts_by_cell
from rlhf_plugins.sandbox.writer import write


def next_question(conversation: str, response: str) -> str | None:
    """What the reader says next, between line breaks; None where they leave.

    They leave after an answer that sounds final, and where they have asked all that they may of the animal: attributes
    of the training prompts, or of the out-of-distribution ones. The same conversation gives the same question.

    Args:
        conversation: the prompt, or a longer conversation.
        response: the answer to its last question.
    """
    asked = [query for line in conversation.splitlines() if (query := parse_prompt(line)) is not None]
    if not asked or not any(sentence and sentence.kind is Kind.FILLER for sentence, _ in read(response)):
        return None
    topic, known = asked[-1].topic, {query.subject for query in asked}
    left = [question for subject, question in _questions(topic) if subject not in known]
    return f"\n{left[crc32(conversation.encode()) % len(left)]}" if left else None


def with_history(prompt: str, turns: int, seed: int) -> str:
    """A prompt as the last question of a conversation on one animal, whose earlier ones the sloppy writer answered.

    How many come before it, up to `turns` - 1, is drawn evenly.
    """
    query, rng = parse_prompt(prompt), random.Random(f"{seed} {prompt}")
    if query is None:
        return prompt
    others = [each for each in _questions(query.topic) if each[0] != query.subject]
    earlier: dict[str, str] = {}
    for subject, question in rng.sample(others, len(others)):
        earlier.setdefault(subject, question)
    asked = list(earlier.values())[: rng.randrange(turns)]
    return "".join(f"{question}{write(question, rng)}\n" for question in asked) + prompt


@cache
def _questions(topic: str) -> tuple[tuple[str, str], ...]:
    """The attributes of a topic that may be asked, each in all of its phrasings."""
    split = "out_of_distribution" if topic in OOD_TOPICS else "train"
    own, allowed = set(VALUES), frozenset(prompts(split))
    found = []
    for cell in prompts_by_cell():
        query = parse_prompt(cell[0])
        if query is not None and query.topic == topic and query.subject in own:
            found += [(query.subject, prompt) for prompt in cell if prompt in allowed]
    return tuple(sorted(found))
