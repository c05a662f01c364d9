"""From groups to rows of tokens, and from rows to batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from rlhf_plugins.arithmetic.ranking import NOT_PLACED, map_tensors
from rlhf_plugins.contract.records import Compared, Prediction, RankedScores
from rlhf_plugins.contract.rows import Comparison, Group
from rlhf_plugins.contract.run import Lengths
from rlhf_plugins.data.batches.branches import Layout, PromptBranches, collate
from rlhf_plugins.data.batches.lengths import Encode, responses_taken, whole_row
from rlhf_plugins.data.batches.numeric import PREFIX, in_batch, numbers_of
from rlhf_plugins.data.batches.tokens import Fit, RowEncoder
from rlhf_plugins.data.convert import agreed_ranks
from rlhf_plugins.errors import DataError


@dataclass(frozen=True)
class RankedRows:
    """Groups as token rows, with what was left out of them, the dimensions of their ratings and the codes of topics."""

    dataset: Dataset
    dimensions: tuple[str, ...]
    left_out: Mapping[str, int]
    topics: Mapping[str | None, int]


def ranked_rows(
    groups: Iterable[Group],
    encode: Encode,
    fit: Fit | int | None,
    usable: Callable[[Group], bool],
    columns: Collection[str] = (),
    like: RankedRows | None = None,
) -> RankedRows:
    """Encodes groups, without the responses that cannot be taken and the groups of which nothing usable is left.

    Such a group counts once in `left_out`, be it for its responses, and a response that another group loses once.

    Args:
        groups: prompts with judged responses.
        encode: gives the token ids of a prompt and of a response to it, or raises DataError with the reason.
        fit: what is too long; a number is of the tokens that a prompt and one response may have together.
        usable: whether a loss can learn anything from a group.
        columns: numeric columns of the groups that a loss or a head reads.
        like: rows whose dimensions and topics these have in the same places, as held-out rows those of training.

    Raises:
        DataError: no row is left, or a row lacks one of the columns.
    """
    groups, left_out = list(groups), Counter[str]()
    fit = fit if isinstance(fit, Fit) else Fit(Lengths(max_length=fit))
    numbers = numbers_of(groups, columns)
    rows: list[dict[str, Any]] = []
    first = () if like is None else like.dimensions
    dimensions = tuple(dict.fromkeys((*first, *(name for group in groups for name in group.ratings))))
    topics = {} if like is None else dict(like.topics)
    responses = 0
    for place, group in enumerate(groups):
        lost = Counter[str]()
        kept, tokens = responses_taken(group.prompt, group.responses, encode, fit, lost) or ([], None)
        group = part(group, kept)
        group = replace(group, ranks=group.ranks or agreed_ranks(group))
        if tokens is None or not kept or not usable(group):
            left_out[whole_row(lost)] += 1
            continue
        left_out.update(lost)
        topic = topics.setdefault(group.topic, len(topics))
        codes = {"row": len(rows), "first": responses, "topic": topic}
        further = {PREFIX + name: values[place] for name, values in numbers.items()}
        rows.append({**codes, **_tokens(tokens), **_judgement(group, dimensions), **further})
        responses += len(kept)
    if not rows:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in left_out.items() if count)
        raise DataError(f"no group is left to learn from ({reasons or 'there were none'})")
    return RankedRows(Dataset.from_list(rows), dimensions, dict(+left_out), topics)


def encodable(groups: Iterable[Group], encoder: RowEncoder) -> tuple[list[Group], dict[str, int]]:
    """The groups with only the responses that training would take, and the number of the others by reason."""
    kept, left_out = [], Counter[str]()
    for group in groups:
        taken = responses_taken(group.prompt, group.responses, encoder.encode, encoder.fit, left_out)
        if taken and taken[0]:
            kept.append(part(group, taken[0]))
    return kept, dict(+left_out)


def part(group: Group, kept: Sequence[int]) -> Group:
    """The group with some of its responses, and what is known of them."""
    if len(kept) == len(group.responses):
        return group
    place = {old: new for new, old in enumerate(kept)}
    compared = group.compared and tuple(
        replace(c, better=place[c.better], worse=place[c.worse])
        for c in group.compared
        if c.better in place and c.worse in place
    )
    return replace(
        group,
        responses=tuple(group.responses[i] for i in kept),
        ranks=group.ranks and tuple(group.ranks[i] for i in kept),
        gold=group.gold and tuple(group.gold[i] for i in kept),
        compared=compared,
        ratings={name: tuple(values[i] for i in kept) for name, values in group.ratings.items()},
    )


@dataclass(frozen=True)
class Collator:
    """Rows to the tensors of a branch batch, with its ranks, comparisons, ratings and columns.

    Args:
        pad_id: token id that fills short rows.
        layout: how groups become rows.
        features: (responses, width) of a frozen trunk, for every response of every row in order: then no tokens are
            laid out.
    """

    pad_id: int
    layout: Layout
    features: Tensor | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """-> the tensors of a BranchBatch, or `features` and `group`; and those that `judged` reads."""
        return {**_judged(rows), **self._inputs(rows)}  # `row` first: Trainer counts rows by it

    def groups(self, row: Mapping[str, Any]) -> list[PromptBranches]:
        """What a row lays out; responses that share no token have the first of each in the place of a prompt."""
        if self.features is not None:
            return []
        if row["prompt_ids"]:
            return [PromptBranches(row["prompt_ids"], row["branch_ids"])]
        return [PromptBranches(ids[:1], [ids[1:]]) for ids in row["branch_ids"]]

    def _inputs(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        group = torch.tensor([number for number, row in enumerate(rows) for _ in row["ranks"]])
        if self.features is None:
            laid = collate([group for row in rows for group in self.groups(row)], self.pad_id, self.layout)
            return {**laid, "group": group}
        places = [place for row in rows for place in range(row["first"], row["first"] + len(row["ranks"]))]
        return {"features": self.features[places], "group": group}


def judged(prediction: Prediction, inputs: Mapping[str, Tensor], dimensions: Sequence[str]) -> RankedScores:
    """The input of a loss: a prediction for the B branches of a batch, spread over its groups, with their labels."""
    group, ranks = inputs["group"], inputs["ranks"]
    slot = torch.arange(len(group), device=group.device) - torch.searchsorted(group, group)  # place in its group

    def spread(values: Tensor) -> Tensor:  # (B, ...) -> (groups, K, ...)
        return values.new_zeros(*ranks.shape, *values.shape[1:]).index_put((group, slot), values)

    present = spread(torch.ones_like(group)).bool()
    whole = map_tensors(prediction, spread)
    ratings = {name: inputs["ratings"][:, :, d] for d, name in enumerate(dimensions)}
    of_group, better, worse, tied, *numbers = inputs["compared"].unbind(1)
    compared = Compared(of_group.long(), better.long(), worse.long(), tied.bool(), *numbers)
    return RankedScores.of(
        whole.reward,
        inputs["margin"],
        weight=inputs["weight"],
        ranks=ranks,
        present=present,
        topic=inputs["topic"],
        ratings=ratings,
        compared=compared,
        prediction=whole,
        columns=in_batch(inputs),
    )


def _tokens(group: PromptBranches) -> dict[str, Any]:
    length = len(group.prompt) + sum(map(len, group.branches))
    return {"prompt_ids": list(group.prompt), "branch_ids": [list(ids) for ids in group.branches], "length": length}


def _judgement(group: Group, dimensions: Sequence[str]) -> dict[str, Any]:
    k = len(group.responses)
    missing = (None,) * k
    rated = [[nan if v is None else float(v) for v in group.ratings.get(name, missing)] for name in dimensions]
    placed = group.ranks or missing
    return {
        "ranks": [NOT_PLACED if rank is None else rank for rank in placed],
        "margin": float(group.margin or 0.0),
        "weight": group.weight,
        "compared": [_numbers(c) for c in group.comparisons],
        "ratings": [list(values) for values in zip(*rated, strict=True)],
        "difficulty": group.difficulty,
    }


def _numbers(c: Comparison) -> list[float]:
    """The fields of a `Compared` after its `group`. A tie that a soft label of 1/2 makes is a pair like any other."""
    certain = 0.5 if c.tied else 1.0
    probability = certain if c.probability is None else c.probability
    return [c.better, c.worse, float(c.tied and c.probability is None), float(c.margin or 0.0), c.weight, probability]


def _judged(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    most = max(len(row["ranks"]) for row in rows)
    dimensions = max((len(values) for row in rows for values in row["ratings"]), default=0)
    compared = [[number, *pair] for number, row in enumerate(rows) for pair in row["compared"]]
    return {
        "row": torch.tensor([row["row"] for row in rows]),
        "topic": torch.tensor([row["topic"] for row in rows]),
        "ranks": torch.tensor([[*row["ranks"], *[NOT_PLACED] * (most - len(row["ranks"]))] for row in rows]),
        "margin": torch.tensor([row["margin"] for row in rows], dtype=torch.float32),
        "weight": torch.tensor([row["weight"] for row in rows], dtype=torch.float32),
        "compared": torch.tensor(compared, dtype=torch.float32).view(-1, 7),
        "ratings": torch.tensor([_filled(row["ratings"], most, dimensions) for row in rows]).view(
            len(rows), most, dimensions
        ),
        **{name: torch.tensor([row[name] for row in rows]) for name in rows[0] if name.startswith(PREFIX)},
    }


def _filled(ratings: Sequence[Sequence[float]], most: int, dimensions: int) -> list[list[float]]:
    return [*map(list, ratings), *[[nan] * dimensions] * (most - len(ratings))]
