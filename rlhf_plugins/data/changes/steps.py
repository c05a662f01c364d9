"""Applies steps to loaded rows: what is left out is counted by reason, and what is held out stays."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from hashlib import blake2b

from rlhf_plugins.contract.rows import Data, Group, Origin, Text
from rlhf_plugins.contract.run import Json, Run
from rlhf_plugins.data.dropped import Dropped, reasons
from rlhf_plugins.data.fields import content, key
from rlhf_plugins.errors import DataError

AT_ONCE = 64  # prompts or pairs that a model is asked about before its answers are kept
Reason = Callable[[Group], str | None]  # why a row is left out; None keeps it
Step = Callable[[Data, int], Data]


def prepared(data: Data, steps: Sequence[Step], seed: int) -> Data:
    """The data after all steps. A prompt all of whose rows were left out is not asked in training either.

    Raises:
        DataError: a step leaves no training row.
    """
    for number, step in enumerate(steps):
        after = step(data, seed)
        if not after.train:
            why = reasons(Counter(after.dropped) - Counter(data.dropped))
            raise DataError(f"steps.{number}: left out all {len(data.train)} training rows: {why}")
        data = _with_prompts(data, after)
    return data


def _with_prompts(before: Data, after: Data) -> Data:
    gone = {key(group.prompt) for group in before.train} - {key(group.prompt) for group in after.train}
    if not gone or "train" not in after.prompts:
        return after
    asked = tuple(group for group in after.prompts["train"] if key(group.prompt) not in gone)
    return replace(after, prompts={**after.prompts, "train": asked})


def kept(data: Data, reason: Reason) -> Data:
    """The data without the training rows that have a reason to be left out, each counted by it."""
    reasons = [reason(group) for group in data.train]
    return without(data, reasons)


def without(data: Data, reasons: Sequence[str | None]) -> Data:
    """The data without the training rows that are given a reason, one or None for each row."""
    dropped = copied(data)
    rows = []
    for group, why in zip(data.train, reasons, strict=True):
        if why is None:
            rows.append(group)
        else:
            dropped.add(why, str(group.origin or "a row"))
    return replace(data, train=tuple(rows), dropped=dropped)


def copied(data: Data) -> Dropped:
    """What was left out before, to add to."""
    made = Dropped()
    if isinstance(data.dropped, Dropped):
        made.include(data.dropped)
    else:
        made.update(data.dropped)
    return made


def made_of(group: Group, step: str, responses: tuple[Text, ...], weight: float = 1.0) -> Group:
    """A row of other responses to a row's prompt, the best first, that says which step made it, and of which row."""
    ranks = tuple(range(len(responses))) if len(responses) > 1 else None
    origin = made_from(group, step)
    return Group(group.prompt, responses, ranks, weight=weight, topic=group.topic, columns=group.columns, origin=origin)


def made_from(group: Group, step: str) -> Origin:
    """The origin of a row that a step makes of another."""
    return Origin(step, parents=(str(group.origin or "a row"),))


def remembered(run: Run, given: Json, make: Callable[[], Json]) -> Json:
    """What `make` returns, made once in the stage for what was given: a model is not asked again after a kill."""
    name = blake2b(json.dumps(given, default=str).encode(), digest_size=8).hexdigest()
    return run.once(f"asked-{name}", make)


def is_made(group: Group) -> bool:
    """Whether a step or a stage made the row of another one."""
    return group.origin is not None and group.origin.row is None and bool(group.origin.parents)


def made_by(groups: Sequence[Group]) -> list[str]:
    """A sentence on how many rows were made of others, and by which steps or stages; none where there are none."""
    makers = Counter(g.origin.source.partition(":")[0] for g in groups if g.origin and is_made(g))
    found = ", ".join(f"{count} by {maker}" for maker, count in makers.items())
    return [f"Of {len(groups)} training rows {makers.total()} were made of others: {found}."] if makers else []


def judged_less(group: Group, gone: Collection[int]) -> Group:
    """The row without some of its comparisons, given by their places in `comparisons`; its order then is theirs."""
    if not gone:
        return group
    compared = tuple(c for place, c in enumerate(group.comparisons) if place not in gone)
    return replace(group, compared=compared, ranks=None)


def whole(group: Group) -> str:
    """What a reader sees of a row: the prompt and every response."""
    return "\n".join(map(content, (group.prompt, *group.responses)))


def best(group: Group) -> int | None:
    """The place of the response that is imitated or preferred: the only one, or the first by rank; None without."""
    if len(group.responses) < 2:
        return 0 if group.responses else None
    strict = [c for c in group.comparisons if not c.tied]
    better, worse = {c.better for c in strict}, {c.worse for c in strict}
    return min(better - worse, default=None)
