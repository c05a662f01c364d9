"""From groups to the pairs that people compared and back: the only copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from rlhf_plugins.contract.records import Compared, Prediction, RankedScores
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

NOT_PLACED = -1


def per_group(loss: Any, scores: RankedScores) -> Tensor:
    """The loss of each group, (groups,).

    For a loss of pairs it is the mean over a group's pairs (Ouyang et al. 2022, equation 1); 0 where it has none.

    Args:
        loss: a reward loss, or the module that it built.
        scores: a batch of groups.
    """
    if loss.whole_groups:
        found: Tensor = loss(scores)
        return found
    return mean_over_pairs(loss, scores, ties=loss.takes_ties)


def mean_over_pairs(function: Callable[[RankedScores], Tensor], scores: RankedScores, ties: bool = False) -> Tensor:
    """The mean over a group's pairs, tied ones too if asked, of a function of pairs, (groups,); 0 where it has none."""
    compared = comparisons(scores, ties=ties)
    if not len(compared.group):
        return scores.scores.masked_fill(~scores.present, 0.0).sum(1) * 0.0
    losses = function(pairs(scores, compared))  # (P,)
    zero = losses.new_zeros(len(scores.scores))
    count = zero.index_add(0, compared.group, torch.ones_like(losses))
    return zero.index_add(0, compared.group, losses) / count.clamp(min=1)


def comparisons(scores: RankedScores, ties: bool = False) -> Compared:
    """What is known of pairs: the groups' own comparisons, or every pair that the ranks order; tied pairs if asked."""
    found = _ranked(scores) if scores.compared is None else scores.compared
    if ties:
        return found
    kept = (~found.tied).nonzero().squeeze(1)  # once: a GPU's answer is waited for
    return map_tensors(found, lambda values: values.index_select(0, kept))


def pairs(scores: RankedScores, compared: Compared) -> RankedScores:
    """P comparisons as groups of two responses, the better one first; every field follows."""
    places = torch.stack([compared.better, compared.worse], 1)  # (P, 2)
    rows = compared.group.unsqueeze(1)  # (P, 1)

    def pick(values: Tensor) -> Tensor:  # (groups, K, ...) -> (P, 2, ...)
        return values[rows, places]

    second = torch.stack([torch.zeros_like(compared.better), (~compared.tied).long()], 1)
    return RankedScores.of(
        scores=pick(scores.scores),
        margin=compared.margin,
        present=torch.ones_like(second, dtype=torch.bool),
        weight=compared.weight,
        ranks=second,
        topic=scores.topic[compared.group],
        probability=compared.probability,
        columns={name: values[compared.group] for name, values in scores.columns.items()},
        ratings={name: pick(values) for name, values in scores.ratings.items()},
        prediction=None if scores.prediction is None else map_tensors(scores.prediction, pick),
    )


def map_tensors(record: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The record with every tensor in it changed; see `map_fields`."""
    return map_fields(record, lambda _, tensor: change(tensor))


def map_fields(value: Any, change: Callable[[str, Tensor], Tensor], name: str = "") -> Any:
    """A record with every tensor changed in its fields, and in the mappings, tuples and records that these hold.

    Args:
        value: a record, or what a field of one holds.
        change: is given the name of the innermost field and the tensor, in the order of the fields.
        name: the name of the field.
    """
    if isinstance(value, torch.Tensor):
        return change(name, value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: map_fields(getattr(value, f.name), change, f.name) for f in fields(value)})
    if isinstance(value, tuple):
        return tuple(map_fields(each, change, name) for each in value)
    return {key: map_fields(each, change, name) for key, each in value.items()} if isinstance(value, Mapping) else value


def concatenated(predictions: list[Prediction]) -> Prediction:
    """One prediction of all responses of several, in order; where some abstain, the others are known not to.

    Raises:
        RunError: a part lacks a field that another has, so that they are not of one head.
    """
    if any(prediction.abstained is not None for prediction in predictions):
        predictions = [_heard(prediction) for prediction in predictions]
    return Prediction(**{f.name: _joined(f.name, predictions) for f in fields(Prediction)})


def _heard(prediction: Prediction) -> Prediction:
    """The prediction with `abstained` filled in: False where it was None."""
    if prediction.abstained is not None:
        return prediction
    return replace(prediction, abstained=torch.zeros_like(prediction.reward, dtype=torch.bool))


def _joined(name: str, predictions: list[Prediction]) -> Any:
    """One field of several predictions."""
    parts = [getattr(prediction, name) for prediction in predictions]
    first = parts[0]
    if len({_held(part) for part in parts}) > 1:
        raise RunError(f"predictions of different heads cannot be joined: some have another `{name}`, or none")
    if isinstance(first, torch.Tensor):
        return torch.cat(parts)
    if isinstance(first, tuple):
        return tuple(concatenated(list(of_member)) for of_member in zip(*parts, strict=True))
    return {key: torch.cat([part[key] for part in parts]) for key in first} if isinstance(first, Mapping) else first


def _held(part: Any) -> Any:
    """What two parts of one field have in common where they can be joined."""
    if isinstance(part, torch.Tensor):
        return torch.Tensor
    if isinstance(part, tuple):
        return len(part)
    return frozenset(part) if isinstance(part, Mapping) else part


def _ranked(scores: RankedScores) -> Compared:
    """Every pair of placed responses, the better one by rank first; equal ranks tie."""
    ranks, placed = scores.ranks, scores.present & (scores.ranks != NOT_PLACED)
    both = placed.unsqueeze(2) & placed.unsqueeze(1)  # (groups, K, K)
    better = ranks.unsqueeze(2) < ranks.unsqueeze(1)
    tied = (ranks.unsqueeze(2) == ranks.unsqueeze(1)).triu(1)
    group, first, second = (both & (better | tied)).nonzero(as_tuple=True)
    is_tied = ranks[group, first] == ranks[group, second]
    certain = torch.ones_like(scores.margin[group]).masked_fill(is_tied, 0.5)
    probability = scores.probability[group].where(~is_tied, certain) if ranks.shape[1] == 2 else certain
    return Compared(group, first, second, is_tied, scores.margin[group], scores.weight[group], probability)
