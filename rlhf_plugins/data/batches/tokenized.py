"""Pairs and answers as rows of tokens for the trainers of policies, rendered as everything else is.

What a model cannot take is left out and counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset

from rlhf_plugins.contract.rows import LEARNED, Group, Text
from rlhf_plugins.data.batches.groups import best_response, labels, pair_rows, pairs
from rlhf_plugins.data.batches.lengths import NOTHING_LEFT, PROMPT_TOO_LONG, responses_taken, whole_row
from rlhf_plugins.data.batches.tokens import RowEncoder
from rlhf_plugins.data.messages import is_unlearned
from rlhf_plugins.errors import DataError

NO_LABEL = "no label and no preferred response"
NO_OTHER = "no other prompt's response fits behind the prompt and differs"
Messages = list[dict[str, Any]]
ASSISTANT = "assistant"  # the role of a policy's turns
EARLIER = "an earlier turn says that it is to be learned, and only the last one is: write `train_on: all`"
TRIED = 64  # rows among which another response is looked for


@dataclass(frozen=True)
class Tokenized:
    """Rows of tokens, how many were left out, by reason, and how many are earlier turns in rows of their own."""

    dataset: Dataset
    left_out: Mapping[str, int]
    apart: int = 0


def tokenized_pairs(groups: Iterable[Group], encoder: RowEncoder) -> Tokenized:
    """Pairs with the columns `prompt_ids`, `chosen_ids`, `rejected_ids`, and `margin` and `probability` where known.

    A group without an ordered pair, such as a tie, is left out.

    Raises:
        DataError: no group holds a strictly ordered pair, or no pair is left.
    """
    groups, found = list(groups), []
    left_out = Counter({NOTHING_LEFT: sum(not any(pairs([group])) for group in groups)})
    for row in pair_rows(groups):
        both = [row.pop("chosen"), row.pop("rejected")]
        lost = Counter[str]()
        taken = responses_taken(row.pop("prompt"), both, encoder.encode, encoder.fit, lost)
        if not taken or len(taken[0]) < len(both):
            left_out[whole_row(lost)] += 1
        else:
            left_out.update(lost)
            tokens = taken[1]
            chosen, rejected = map(list, tokens.branches)
            found.append({"prompt_ids": list(tokens.prompt), "chosen_ids": chosen, "rejected_ids": rejected, **row})
    return _tokenized(found, left_out)


def tokenized_labels(groups: Iterable[Group], encoder: RowEncoder) -> Tokenized:
    """Labelled responses with the columns of `tokenized_pairs`, as losses with the trait `unpaired` read them.

    `chosen_ids` is the response, `probability` its label, and `rejected_ids` the response of a later row with another
    prompt. Of pairs and rankings a better response is desirable, and a worse one is not; a tie is left out.

    Raises:
        DataError: no response has a label, or no row is left.
    """
    of_groups = [(group.prompt, labels(group)) for group in groups]
    labelled = [(prompt, *row) for prompt, rows in of_groups for row in rows]
    if not labelled:
        raise DataError("no response has a label, and none is preferred to another: there is nothing to learn from")
    left_out, found = Counter({NO_LABEL: sum(not rows for _, rows in of_groups)}), []
    for place, (prompt, response, label) in enumerate(labelled):
        if not (taken := responses_taken(prompt, [response], encoder.encode, encoder.fit, left_out)) or not taken[0]:
            continue
        others = (labelled[(place + step) % len(labelled)] for step in range(1, min(len(labelled), TRIED)))
        both = (
            responses_taken(prompt, [response, other], encoder.encode, encoder.fit, Counter())
            for asked, other, _ in others
            if asked != prompt
        )
        tokens = next((each[1] for each in both if each and len(each[0]) > 1), None)
        if tokens is None:
            left_out[NO_OTHER] += 1
            continue
        own, other = map(list, tokens.branches)
        row = {"prompt_ids": list(tokens.prompt), "chosen_ids": own, "rejected_ids": other}
        found.append({**row, "probability": float(label)})
    return _tokenized(found, left_out)


def tokenized_answers(groups: Iterable[Group], encoder: RowEncoder, every_turn: bool = False) -> Tokenized:
    """Each group's best response with the columns `input_ids` and `completion_mask`, 1 at the response.

    Where a group has a weight other than 1, there is a column `weight` too; one of weight 0 is left out.

    Args:
        groups: to learn from.
        encoder: the encoder of the model.
        every_turn: the mask is 1 at each turn of the assistant, also in the prompt, and 0 at other turns in a response;
            a turn that the chat template writes otherwise where others follow is a row of its own, as the answer to
            what is before it.

    Raises:
        DataError: there is no response that may be imitated, none is left, or an earlier turn says that it is to be
            learned and only the last one is.
    """
    groups = list(groups)
    weighed, left_out, found, apart = any(group.weight != 1 for group in groups), Counter[str](), [], 0
    for group in groups:
        if not group.weight:
            left_out["weight 0"] += 1
            continue
        response = best_response(group)
        if not every_turn and not isinstance(group.prompt, str) and any(m.get(LEARNED) for m in group.prompt):
            raise DataError(f"{group.origin or 'a row'}: {EARLIER}")
        if response is None:
            left_out["labelled undesirable" if group.responses else "no response"] += 1
            continue
        rows = _answer(group.prompt, response, encoder, left_out)
        if rows and every_turn and not isinstance(group.prompt, str) and not isinstance(response, str):
            rows = _turns(group.prompt, response, rows[0], encoder, left_out)
            apart += max(0, len(rows) - 1)
        found += [{**row, "weight": float(group.weight)} if weighed else row for row in rows]
    return replace(_tokenized(found, left_out), apart=apart)


def _answer(prompt: Text, response: Text, encoder: RowEncoder, left_out: Counter[str]) -> list[dict[str, Any]]:
    """A response behind its prompt as a row; no row where it is left out, which is counted."""
    taken = responses_taken(prompt, [response], encoder.encode, encoder.fit, left_out)
    if taken is None or not taken[0]:
        return []
    (ids,) = taken[1].branches
    shared = list(taken[1].prompt)
    return [{"input_ids": [*shared, *ids], "completion_mask": [0] * len(shared) + [1] * len(ids)}]


def _turns(
    prompt: Messages, response: Messages, row: dict[str, Any], encoder: RowEncoder, left_out: Counter[str]
) -> list[dict[str, Any]]:
    """The row of a response, learned at every turn of its conversation, after rows of turns that are none of its.

    Args:
        prompt: the prompt of the row.
        response: the response of the row.
        row: the row as `_answer` makes it, whose tokens may be cut.
        encoder: the encoder of the model.
        left_out: counts the turns that no row can have.
    """
    talk, (asked, answer) = [*prompt, *response], encoder.encode(prompt, response)
    mask, rows = [0] * (len(asked) + len(answer)), list[dict[str, Any]]()
    for place, message in enumerate(talk):
        if message["role"] != ASSISTANT or is_unlearned(message):
            continue
        try:
            before, said = encoder.encode(talk[:place], [message])
        except DataError as error:
            left_out[f"earlier turn: {str(error).removeprefix('its ')}"] += 1
            continue
        end = len(before) + len(said)
        if [*before, *said] == [*asked, *answer][:end]:
            mask[len(before) : end] = [1] * len(said)
        else:
            rows += _answer(talk[:place], [message], encoder, left_out)
    size = row["completion_mask"].count(0)  # of the prompt, which loses its first tokens where it is cut
    marks = mask[len(asked) - size :][: len(row["input_ids"])]
    return [*rows, {**row, "completion_mask": marks}] if any(marks) else rows


def prompts_with_room(
    prompts: Iterable[Group], encoder: RowEncoder, room: int, option: str = ""
) -> tuple[list[Group], dict[str, int]]:
    """The prompts that leave the model `room` tokens for a response, and the number of the others by reason.

    They are sampled from as they are: none is cut.

    Args:
        prompts: the prompts.
        encoder: the encoder of the model.
        room: the tokens of a response.
        option: the option that sets `room`, which the error names; empty where none does.

    Raises:
        DataError: none is left.
    """
    left_out, kept, rooms = Counter[str](), list[Group](), list[int]()
    most, longest = encoder.fit.most, encoder.lengths.max_prompt_length
    for group in prompts:
        try:
            tokens = len(encoder.encode_start(group.prompt))
        except DataError as error:
            left_out[f"prompt: {str(error).removeprefix('its ')}"] += 1
            continue
        if not tokens:
            left_out["prompt without a token"] += 1
        elif longest is not None and tokens > longest:
            left_out[PROMPT_TOO_LONG] += 1
        elif most is not None and tokens + room > most:
            whose = "that the model takes" if most == encoder.max_tokens else "of max_length"
            left_out[f"prompt that leaves no room for {room} tokens of the {most} {whose}"] += 1
            rooms.append(most - tokens)
        else:
            kept.append(group)
    if left_out and not kept:
        reasons = ", ".join(f"{n} x {reason}" for reason, n in left_out.items())
        raise DataError(f"no prompt is left: {reasons}{_smaller(option, rooms) if option else ''}")
    return kept, dict(left_out)


def _smaller(option: str, rooms: list[int]) -> str:
    """Words for the values of an option that fit prompts which leave a response so many tokens; empty if none fits."""
    least, most = min(rooms, default=0), max(rooms, default=0)
    if most < 1:
        return ""
    fits = f"{least} fits all of them" if least == most else f"the shortest of them leaves {most}"
    if 0 < least < most:
        fits += f", the longest {least}"
    return f"; write a smaller {option}: {fits}"


def _tokenized(rows: list[dict[str, Any]], left_out: Counter[str]) -> Tokenized:
    if not rows:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in (+left_out).items())
        raise DataError(f"no row is left to learn from ({reasons or 'there were no responses to imitate'})")
    return Tokenized(Dataset.from_list(rows), dict(+left_out))
