"""The records' own words: best and worst of a ranking, and fields that hold components."""

from __future__ import annotations

from dataclasses import MISSING, FrozenInstanceError, dataclass, fields

import pytest
from torch import tensor

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.records import RankedScores
from rlhf_plugins.contract.rows import Group


def test_chosen_is_the_first_and_rejected_the_last() -> None:
    scores = RankedScores.of(tensor([[4.0, 3.0, 2.0, 1.0], [0.5, 9.0, 9.0, 0.2]]), tensor([0.0, 0.0]))
    assert scores.chosen.tolist() == [4.0, 0.5]
    assert scores.rejected.tolist() == pytest.approx([1.0, 0.2])


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Group("p", ("a", "b")).margin = 1.0  # type: ignore[misc]


def test_a_field_says_which_component_it_holds() -> None:
    @dataclass(frozen=True)
    class Holder:
        pooling: object = uses("pooling", "mean")

    (field,) = fields(Holder)
    assert field.metadata == {"kind": "pooling", "default": "mean"}
    assert field.kw_only
    assert field.default is MISSING  # assembly makes the object; nothing is made behind its back
