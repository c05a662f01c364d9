"""From a format's rows to groups to train and test on: what is useless, and what is held out."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.data.dropped import Dropped, reasons
from rlhf_plugins.data.fields import agreed, form, key
from rlhf_plugins.data.rows import Row, no_such_split, read_rows
from rlhf_plugins.data.sources import Sources
from rlhf_plugins.data.turns import AS_MESSAGES
from rlhf_plugins.errors import DataError, nearest

CONTRADICTED = "contradicted by another row"  # why a row is left out
STRANGE = "out_of_distribution"  # the split of rows unlike those of training
Placed = tuple[str, Group]  # its place, such as `file:12`
Read = Callable[[Iterable[Row], Dropped], Iterable[Placed]]  # a format: rows to groups, useless rows counted


def load(sources: Sources, read: Read, seed: int) -> Data:
    """Groups of a format's rows, split so that no prompt (and, if topics are held out, no topic) is in both.

    Prompts that differ in case and space alone are one prompt (`Group.prompt_words`).
    Repeated rows, rows of weight 0 and pairs or answers that another row of the same annotator judges otherwise are
    left out and counted, and so are training rows whose prompt (or topic) is in `test_source`. Without a `test_source`,
    `test_fraction` of the prompts or topics is held out by hash, so that the order of rows does not matter. Rows out of
    distribution, of their own source or of the topics that `hold_out` names, share no prompt with any other rows; those
    topics are taken out of `test_source` too.

    Raises:
        DataError: a source cannot be read, lacks a column, or holds a value of the wrong type; no row is useful;
            the prompts of one source are text and those of another messages; or topics are held out of data that has
            fewer than two, or not those that are named.
    """
    dropped = Dropped()
    if message := no_such_split(sources.source, sources.split):
        raise DataError(message)
    placed = useful(sources.source, sources.split, read, dropped)
    given = [] if sources.test_source is None else useful(sources.test_source, "test", read, dropped, placed)
    strange, placed, test = _strange(sources, placed, given, read, dropped)
    unit = _unit(sources)
    if sources.test_source is not None:
        apart, elsewhere = {unit(item) for item in test}, "the test source"
    else:
        apart, elsewhere = _held_out(sources, placed, seed), "a held-out topic"
        test = [item for item in placed if unit(item) in apart]
        placed = [item for item in placed if unit(item) not in apart]
        if sources.hold_out == "topic" and not test:
            raise DataError(f"{sources.source}: has one topic, so none can be held out")
    whole = "topic" if sources.hold_out == "topic" else "prompt"
    train = list(_unseen(placed, test, apart, unit, dropped, (whole, elsewhere)))
    if not train:
        raise DataError(f"{sources.source}: every {whole} is in {elsewhere} too, so none is left to train on")
    return _data(dropped, train=train, test=test, **({"out_of_distribution": strange} if strange else {}))


def _data(dropped: Dropped, **placed: Sequence[Placed]) -> Data:
    splits = {name: tuple(group for _, group in of_split) for name, of_split in placed.items()}
    prompts = {name: prompts_of(groups) for name, groups in splits.items()}
    return Data(splits["train"], splits["test"], prompts, dropped, out_of_distribution=splits.get(STRANGE, ()))


def _strange(
    sources: Sources, placed: list[Placed], test: list[Placed], read: Read, dropped: Dropped
) -> tuple[list[Placed], list[Placed], list[Placed]]:
    """The groups out of distribution, and the others of both sources without their prompts."""
    named = sources.hold_out["topic"] if isinstance(sources.hold_out, dict) else []
    topics = {group.topic for _, group in placed} - {None}
    for name in named:
        if name not in topics:
            raise DataError(
                f"{sources.source}: hold_out: no row has the topic {name!r} {nearest(name, map(str, topics))}"
            )
    strange = list(_distinct([item for item in (*placed, *test) if item[1].topic in named], dropped))
    if sources.out_of_distribution is not None:
        strange += useful(sources.out_of_distribution, "test", read, dropped, placed)
    rest = ([item for item in part if item[1].topic not in named] for part in (placed, test))
    placed, test = (list(_elsewhere(part, strange, dropped)) for part in rest)
    return strange, placed, test


def _elsewhere(placed: Iterable[Placed], strange: Sequence[Placed], dropped: Dropped) -> Iterator[Placed]:
    """The groups whose prompt is not out of distribution."""
    asked = {group.prompt_words for _, group in strange}
    for item in placed:
        if item[1].prompt_words in asked:
            dropped.add("prompt is out of distribution too", item[0])
        else:
            yield item


def _unit(sources: Sources) -> Callable[[Placed], str]:
    """What is held out whole: the prompt or the topic that a group belongs to."""

    def topic(item: Placed) -> str:
        where, group = item
        if group.topic is None:
            raise DataError(f"{where}: has no topic, and topics are to be held out (`hold_out`)")
        return group.topic

    return topic if sources.hold_out == "topic" else lambda item: item[1].prompt_words


def _unseen(
    placed: Sequence[Placed],
    test: Sequence[Placed],
    apart: set[str],
    unit: Callable[[Placed], str],
    dropped: Dropped,
    words: tuple[str, str],
) -> Iterator[Placed]:
    """Groups to train on whose topic and prompt are nowhere in the test groups."""
    name, elsewhere = words
    asked = {group.prompt_words for _, group in test}
    for item in placed:
        if unit(item) in apart:
            dropped.add(f"{name} is in {elsewhere} too", item[0])
        elif item[1].prompt_words in asked:
            dropped.add(f"prompt is in {elsewhere} too", item[0])
        else:
            yield item


def useful(source: str, split: str, read: Read, dropped: Dropped, like: Sequence[Placed] = ()) -> list[Placed]:
    """The groups of a source, without repeated and contradicted ones.

    Raises:
        DataError: there are none, rows are refused, or their prompts have another form than those of `like`.
    """
    left_out = Dropped(gathers=True)
    try:
        placed = list(_alike(read(_counted(read_rows(source, split, left_out), left_out), left_out), left_out))
    finally:
        left_out.refuse(source)  # also where what is left of the rows is no set
    found = list(_distinct(placed, left_out))
    if not found:
        raise DataError(f"{source}: no row is useful ({reasons(left_out)})")
    forms = [form(group.prompt) for _, group in (*found[:1], *like[:1])]
    if len(set(forms)) > 1:
        which = f"its prompts are {forms[0]}, those to train on are {forms[1]}"
        raise DataError(f"{source}: {which}: write both alike; {AS_MESSAGES}")
    judged = any(len(group.responses) > 1 or (group.ratings and group.label is None) for _, group in found)
    if judged and not _says_something([group for _, group in found]):
        raise DataError(
            f"{source}: no response is preferred to another and no two ratings differ, so there is nothing to learn"
        )
    dropped.include(left_out)
    return found


def _counted(rows: Iterable[Row], dropped: Dropped) -> Iterator[Row]:
    for row in rows:
        dropped.rows += 1
        yield row


def _alike(placed: Iterable[Placed], dropped: Dropped) -> Iterator[Placed]:
    expected: str | None = None
    for where, group in placed:
        expected = expected or form(group.prompt)
        with dropped.row(where):
            if form(group.prompt) != expected:
                raise DataError(f"{where}: is {form(group.prompt)}, the rows before it are {expected}; {AS_MESSAGES}")
            yield where, group


def _distinct(placed: Sequence[Placed], dropped: Dropped) -> Iterator[Placed]:
    judged: dict[str, Counter[str]] = defaultdict(Counter)  # of each pair: its judgements
    for _, group in placed:
        if _is_judged(group) and group.weight:
            judged[_asked(group)][_judgements(group)] += 1
    dropped.judged_again += [tuple(counts.values()) for counts in judged.values() if counts.total() > 1]
    seen: set[str] = set()
    for where, group in placed:
        whole = _asked(group) + _judgements(group) + ("" if group.responses else repr(sorted(group.columns.items())))
        if not group.weight:
            dropped.add("weight 0", where)
        elif _is_judged(group) and len(judged[_asked(group)]) > 1:
            dropped.add(CONTRADICTED, where)
        elif whole in seen:
            dropped.add("repeated row", where)
        else:
            seen.add(whole)
            yield where, group


def _is_judged(group: Group) -> bool:
    """Whether one judgement is all that is known of a group, so that another may contradict it."""
    return (len(group.responses) == 2 and not group.ratings) or group.label is not None


def _asked(group: Group) -> str:
    """Equal for groups in which the same annotators, or unknown ones, judge the same texts."""
    return _texts(group) + repr(sorted({str(comparison.annotator) for comparison in group.comparisons}))


def _texts(group: Group) -> str:
    return key(group.prompt) + key(*sorted(group.responses, key=key))


def _judgements(group: Group) -> str:
    """Equal for groups with the same judgements of the same responses by the same annotators, in any order."""
    found = []
    for c in group.comparisons:
        sides = [key(group.responses[c.better]), key(group.responses[c.worse])]
        found.append((sorted(sides) if c.tied else sides, c.tied, str(c.annotator)))
    rated = [
        (name, sorted(zip(map(key, group.responses), map(str, v), strict=True))) for name, v in group.ratings.items()
    ]
    return repr((sorted(found), rated, group.label))


def _says_something(groups: Sequence[Group]) -> bool:
    if any(not c.tied for group in groups for c in group.comparisons):
        return True
    values: dict[str, set[float]] = defaultdict(set)
    for group in groups:
        for name, ratings in group.ratings.items():
            values[name] |= {rating for rating in ratings if rating is not None}
    return any(len(different) > 1 for different in values.values())


def _held_out(sources: Sources, placed: Sequence[Placed], seed: int) -> set[str]:
    """The prompts or topics with the smallest hashes: two if the fraction is less, which a mean needs; never all."""
    if sources.hold_out == "topic":
        names = sorted(set(map(_unit(sources), placed)), key=lambda name: digest(name, seed))
    else:
        names = in_random_order((group for _, group in placed), seed)
    count = max(round(sources.test_fraction * len(names)), min(2, len(names) // 2))
    return set(names[: min(count, len(names) - 1)])


def in_random_order(groups: Iterable[Group], seed: int) -> list[str]:
    """The prompts' words, each once, in an order that neither that of the groups nor other prompts change."""
    least: dict[str, str] = {}  # of the prompts with the same words
    for group in groups:
        least[group.prompt_words] = min(key(group.prompt), least.get(group.prompt_words, key(group.prompt)))
    return sorted(least, key=lambda words: digest(least[words], seed))


def digest(name: str, seed: int) -> bytes:
    """What orders names at random, the same in every process."""
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()


def prompts_of(groups: Iterable[Group]) -> tuple[Group, ...]:
    """Each prompt once, without responses, with the columns in which its groups agree.

    A prompt alone that a set has with different columns, such as two answers, is kept with each of them.
    """
    alike: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        own = "" if group.responses else repr(sorted(group.columns.items()))
        alike[key(group.prompt) + own].append(group)
    return tuple(_prompt(same) for same in alike.values())


def _prompt(groups: Sequence[Group]) -> Group:
    first = groups[0]
    columns = agreed([group.columns for group in groups])
    return Group(first.prompt, topic=first.topic, columns=columns, origin=first.origin)
