"""The responses of a row that can be learned from or scored: the one rule of every stage, counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from rlhf_plugins.contract.rows import Text
from rlhf_plugins.data.batches.branches import PromptBranches
from rlhf_plugins.data.batches.tokens import Fit
from rlhf_plugins.errors import DataError

Ids = list[int]
Encode = Callable[[Text, Text], tuple[Ids, Ids]]  # prompt, response -> the ids of both
PROMPT_TOO_LONG = "prompt longer than max_prompt_length"
CUT, PROMPT_CUT = "response cut at max_length", "prompt cut at max_prompt_length"
EQUAL = "response equal to another once tokenized"
NO_TOKEN = "prompt or response without a token"
NOTHING_LEFT = "nothing left to compare"


def responses_taken(
    prompt: Text, responses: Sequence[Text], encode: Encode, fit: Fit, left_out: Counter[str]
) -> tuple[list[int], PromptBranches] | None:
    """The places of the responses that can be learned from or scored, and their tokens behind one prompt.

    Left out and counted by reason: what cannot be rendered, has no token or is too long, and of responses that are
    equal once tokenized all but the first. None where the row cannot be taken at all, which counts once.
    """
    found: dict[int, tuple[Ids, Ids]] = {}
    refused = Counter[str]()
    for place, response in enumerate(responses):
        try:
            found[place] = encode(prompt, response)
        except DataError as error:
            refused[str(error).removeprefix("its ")] += 1
    left_out.update(refused if found else set(refused))
    if not found:
        return None
    whole = aligned(list(found.values()))
    shared = fit.prompt(list(whole.prompt))
    if not shared:
        left_out[NO_TOKEN if shared == [] else PROMPT_TOO_LONG] += 1
        return None
    left_out[PROMPT_CUT] += len(shared) < len(whole.prompt)
    kept: dict[tuple[int, ...], int] = {}
    for place, branch in zip(found, map(list, whole.branches), strict=True):
        ids = fit.response(len(shared), branch)
        if not branch:
            left_out[NO_TOKEN] += 1
        elif ids is None:
            left_out[fit.reason(len(shared) + len(branch))] += 1
        elif tuple(ids) in kept:
            left_out[EQUAL] += 1
        else:
            left_out[CUT] += len(ids) < len(branch)
            kept[tuple(ids)] = place
    return list(kept.values()), PromptBranches(shared, [list(ids) for ids in kept])


def whole_row(lost: Counter[str]) -> str:
    """Why a row is left out that lost these responses, by reason: it counts once, in their place."""
    return next((reason for reason, count in lost.items() if count and reason not in (CUT, PROMPT_CUT)), NOTHING_LEFT)


def aligned(ids: Sequence[tuple[Ids, Ids]]) -> PromptBranches:
    """One prompt for all: where some response merges with the prompt's end, the prompt ends before it for all."""
    shortest = min(len(prompt) for prompt, _ in ids)
    return PromptBranches(ids[0][0][:shortest], [(prompt + branch)[shortest:] for prompt, branch in ids])
