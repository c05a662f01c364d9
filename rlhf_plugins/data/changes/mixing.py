"""Puts several sets together, each with a weight."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.data.fields import form, key
from rlhf_plugins.data.splits import digest
from rlhf_plugins.data.turns import AS_MESSAGES
from rlhf_plugins.errors import DataError

HELD = ("test", "out_of_distribution")  # splits that no part trains on
OF_RECIPE = "prompt is held out in the recipe's data"
HELD_OUT = "prompt is held out in another part"


def mixed(parts: Sequence[Data], weights: Sequence[float], seed: int) -> Data:
    """The rows of all parts; each training row and prompt of a part is there as often as the part's weight says.

    Weight 2 is twice, 0.5 every second one by the hash of its prompt, 1.5 once and every second one again.
    What is held out is there once. A prompt that a part holds out is in no part's training rows.

    Raises:
        DataError: some parts are text and others conversations, or no training row is left.
    """
    forms = {form(group.prompt): number for number, part in enumerate(parts) for group in (*part.train, *part.test)[:1]}
    if len(forms) > 1:
        words = " and ".join(f"part {number} is {each}" for each, number in forms.items())
        raise DataError(f"mix: {words}; all parts should have one form; {AS_MESSAGES}")
    apart = held_out(parts)
    train, asked, dropped = list[Group](), list[Group](), Counter[str]()
    for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
        seen, own, lost = _without(part, apart)
        dropped.update(part.dropped)
        dropped[HELD_OUT] += lost
        train += repeated(seen, weight, seed + number)
        asked += repeated(own, weight, seed + number)
    if not train and not asked:
        raise DataError("mix: every prompt is held out in another part, so none is left to train on")
    names = dict.fromkeys(name for part in parts for name in part.prompts if name != "train")
    prompts = {name: tuple(group for part in parts for group in part.prompts.get(name, ())) for name in names}
    golds = {part.gold for part in parts}
    return Data(
        tuple(train),
        tuple(group for part in parts for group in part.test),
        {"train": tuple(asked), **prompts},
        dict(+dropped),
        golds.pop() if len(golds) == 1 else None,
        tuple(group for part in parts for group in part.out_of_distribution),
    )


def held_out(parts: Sequence[Data]) -> set[str]:
    """The hashes of all prompts that a part holds out."""
    held = [group for part in parts for group in (*part.test, *part.out_of_distribution)]
    held += [group for part in parts for name in HELD for group in part.prompts.get(name, ())]
    return {hashed(group) for group in held}


def without_held_out(data: Data, whole: Data) -> Data:
    """A stage's own rows without those to train on whose prompt the recipe's data hold out, which are counted.

    Raises:
        DataError: no row to train on is left.
    """
    train, asked, lost = _without(data, held_out([whole]))
    if lost:
        if not train and not asked:
            raise DataError("data of the stage: the recipe's data hold out every prompt, so none is left to train on")
        dropped = {**data.dropped, OF_RECIPE: lost}
        return replace(data, train=train, prompts={**data.prompts, "train": asked}, dropped=dropped)
    return data


def _without(data: Data, apart: set[str]) -> tuple[tuple[Group, ...], tuple[Group, ...], int]:
    """The rows and the prompts to train on that are not apart, and how many are left out, of prompts alone too."""
    given = data.train, data.prompts.get("train", ())
    train, asked = (tuple(group for group in groups if hashed(group) not in apart) for groups in given)
    return train, asked, max(len(given[0]) - len(train), len(given[1]) - len(asked))


def trained(data: Data) -> set[str]:
    """The hashes of all prompts to train on."""
    return {hashed(group) for group in (*data.train, *data.prompts.get("train", ()))}


def hashed(group: Group) -> str:
    """Equal for groups whose prompts have the same words."""
    return digest(group.prompt_words, 0).hex()


def repeated(groups: Sequence[Group], weight: float, seed: int) -> list[Group]:
    """Each group as often as the weight says; what is left of it by the hash of the prompt."""
    whole, rest = math.floor(weight), weight - math.floor(weight)
    order = sorted(groups, key=lambda group: digest(key(group.prompt), seed))
    return list(groups) * whole + order[: round(rest * len(order))]
