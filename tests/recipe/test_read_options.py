"""A package's own YAML file is read as a recipe is: components by name, and every fault with its line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from rlhf_plugins import RecipeError, RewardLoss, read_options, uses


@dataclass(frozen=True)
class Options:
    """A loss, how often, and a rule that both have to keep."""

    loss: RewardLoss = uses("reward_loss", "bradley_terry")
    often: Annotated[int, Field(ge=1)] = 1

    def __post_init__(self) -> None:
        if self.often == 7:
            raise ValueError("often: not seven")


def test_a_file_becomes_the_options_and_their_components(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("often: 3")
    found = read_options(tmp_path / "own.yaml", Options)
    assert (type(found.loss).__name__, found.often) == ("BradleyTerry", 3)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("loss: bradly_terry\noften: 0", [":1: loss: unknown", ":2: often: should be greater"]),
        ("oftn: 1", ["did you mean often?"]),
        ("\noften: 7", ["often: not seven"]),
    ],
)
def test_every_fault_is_named_with_its_line(tmp_path: Path, text: str, faults: list[str]) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_options(tmp_path / "own.yaml", Options)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(faults)
    assert [line for fault, line in zip(faults, lines, strict=True) if fault not in line] == []
