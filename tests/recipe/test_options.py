"""Options are read from dataclass fields, and values are held to their annotations."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from pydantic import Field

from rlhf_plugins import PluginError, uses
from rlhf_plugins.recipe.options import options, plain, validated

if TYPE_CHECKING:
    from nowhere import Loss, Missing


@dataclass(frozen=True)
class Sample:
    rate: Annotated[float, Field(gt=0, description="how fast")] = 1.0
    mode: Literal["fast", "slow"] = "fast"
    sizes: tuple[int, ...] = (1, 2)
    place: Path = Path("here")
    flag: bool = False
    cut: int | None = None
    more: dict[str, Any] = field(default_factory=dict)
    loss: Loss = uses("reward_loss", "plain")
    losses: tuple[Loss, ...] = uses("reward_loss")


def test_a_field_says_all_about_its_option() -> None:
    found = options(Sample)
    assert str(found["rate"]) == "rate: float = 1.0  how fast"
    assert str(found["loss"]) == "loss: reward_loss = plain"
    assert str(found["losses"]) == "losses: list of reward_loss (required)"
    assert found["cut"].optional
    assert not found["rate"].optional


GOOD = [
    ("rate", "1e-5", 1e-5),
    ("rate", 2, 2.0),
    ("sizes", [3, "4"], (3, 4)),
    ("place", "a/b", Path("a/b")),
    ("cut", None, None),
    ("more", {"a": True}, {"a": True}),
]


@pytest.mark.parametrize(("name", "value", "result"), GOOD)
def test_a_value_is_read_as_its_type(name: str, value: object, result: object) -> None:
    assert validated(options(Sample)[name].annotation, value) == result


BAD = [
    ("rate", True, "should be float, got true"),
    ("rate", 0, "should be greater than 0, got 0"),
    ("rate", "fast", "should be a valid number, unable to parse string as a number, got 'fast'"),
    ("rate", float("inf"), "should be a finite number, got inf"),
    ("rate", "9" * 400, "should be a finite number"),
    ("rate", None, "should be a valid number, got null"),
    ("mode", "fats", r"unknown value 'fats' \(did you mean fast\? known: fast, slow\)"),
    ("sizes", [1, False], r"should be tuple\[int, ...\], got \[1, False\]"),
    ("sizes", [1, "x"], r"unable to parse string as an integer, got \[1, 'x'\] \(at 1\)"),
    ("flag", "yes", "should be bool, got 'yes'"),
    ("flag", 1, "should be bool, got 1"),
    ("cut", 1.5, "should be a valid integer, got a number with a fractional part, got 1.5"),
    ("more", {"a": {"b": [float("nan")]}}, "should be a finite number"),
    ("more", [1], "should be a valid dictionary"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_a_wrong_value_is_explained(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validated(options(Sample)[name].annotation, value)


def test_plain_values_are_what_yaml_holds() -> None:
    assert plain(options(Sample)["sizes"].annotation, (1, 2)) == [1, 2]
    assert plain(options(Sample)["place"].annotation, Path("a")) == "a"


def test_an_annotation_that_cannot_be_read_is_the_plugins_fault() -> None:
    @dataclass(frozen=True)
    class Absent:
        size: Missing = 3

    @dataclass(frozen=True)
    class Foreign:
        size: memoryview = memoryview(b"")

    with pytest.raises(PluginError, match="Absent.size: annotation not found: name 'Missing' is not defined"):
        options(Absent)
    with pytest.raises(PluginError, match="Foreign.size: a recipe cannot hold a value of type memoryview"):
        options(Foreign)
