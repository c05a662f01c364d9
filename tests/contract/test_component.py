"""Traits are declared by the kind, given as class keywords, and follow what a component holds; calls are checked."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf_plugins import (
    Component,
    Earlier,
    Generator,
    PluginError,
    RankedScores,
    RewardHead,
    RewardLoss,
    component,
    trait,
    uses,
)
from rlhf_plugins.contract.guards import named
from rlhf_plugins.errors import ComponentError

PAIRS = RankedScores.of(torch.tensor([[1.0, 0.0]], requires_grad=True))


@dataclass(frozen=True)
class Gap(RewardLoss, takes_ties=True, needs={"margin"}):
    def __call__(self, scores: RankedScores) -> Tensor:
        return scores.rejected - scores.chosen


@dataclass(frozen=True)
class Listwise(RewardLoss, whole_groups=True, under_shift="same"):
    def __call__(self, scores: RankedScores) -> Tensor:
        return scores.scores.logsumexp(1) - scores.scores[:, 0]


@dataclass(frozen=True)
class Doubled(RewardLoss, like="loss"):
    loss: Any = uses("reward_loss", "bradley_terry")

    def __call__(self, scores: RankedScores) -> Tensor:
        return 2 * self.loss(scores)


@dataclass(frozen=True)
class Both(RewardLoss, like=("first", "others"), needs=()):
    first: Any = uses("reward_loss")
    others: Any = uses("reward_loss")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"whole_group": True}, r"has no trait 'whole_group' \(did you mean whole_groups\? known: columns, "),
        ({"take_ties": True}, r"did you mean takes_ties\?"),
        (
            {"needs": {"margins"}},
            r"trait needs unknown value 'margins' \(did you mean margin\? known: annotator, difficulty, ",
        ),
        ({"needs": "margin"}, "trait needs should be a set of names, got 'margin'"),
        ({"whole_groups": 1}, "trait whole_groups should be bool, got 1"),
        ({"under_shift": "sam"}, r"trait under_shift unknown value 'sam' \(did you mean same\?"),
    ],
)
def test_a_trait_that_the_kind_does_not_declare_does_not_import(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        type("Wrong", (RewardLoss,), {}, **keywords)


def test_traits_have_the_defaults_of_the_kind() -> None:
    assert (Gap.takes_ties, Gap.whole_groups, Gap.needs, Gap.under_shift) == (True, False, {"margin"}, None)
    assert (Gap.kind, RewardLoss.kind) == ("reward_loss", "reward_loss")
    assert RewardLoss.traits["takes_ties"].meaning == "is given tied pairs too"


def test_a_subclass_inherits_traits() -> None:
    class Wider(Gap, whole_groups=True):
        pass

    assert (Wider.takes_ties, Wider.whole_groups, Gap.whole_groups) == (True, True, False)


def test_a_wrapper_takes_over_what_it_does_not_give() -> None:
    assert (Doubled(loss=Gap()).takes_ties, Doubled(loss=Listwise()).takes_ties) == (True, False)
    assert (Doubled(loss=Listwise()).whole_groups, Doubled(loss=Listwise()).under_shift) == (True, "same")
    assert Doubled(loss=Doubled(loss=Gap())).needs == {"margin"}
    both = Both(first=Gap(), others=(Listwise(), Listwise()))
    assert (both.takes_ties, both.whole_groups, both.under_shift, both.needs) == (True, True, None, frozenset())


def test_what_is_built_inherits_traits_and_is_checked() -> None:
    @dataclass(frozen=True)
    class Learned(RewardLoss, whole_groups=True):
        def build(self) -> nn.Module:
            return nn.Flatten(0)

    built = Learned().build()
    assert (built.whole_groups, built.takes_ties, type(built).__name__) == (True, False, "Flatten")
    with pytest.raises(ComponentError, match=r"Flatten of torch.*, built by .*Learned of .*, failed: AttributeError"):
        deepcopy(built)(PAIRS)


def test_messages_name_what_a_recipe_names() -> None:
    """A class that derives from a registered one is not that one."""
    scalar, mlp = component("reward_head", "scalar"), component("reward_head", "mlp")
    assert (scalar.recipe_name, named(scalar), named(mlp.build(2))) == (
        "scalar",
        "reward_head scalar",
        "reward_head mlp",
    )
    own = type("Own", (type(scalar),), {})()
    assert (own.recipe_name, named(own)) == ("Own", f"Own of {__name__}")
    with pytest.raises(ComponentError, match="^reward_head mlp failed: "):
        mlp.build(2)("text")


def test_a_call_is_checked_without_a_guard_by_hand() -> None:
    assert Gap()(PAIRS).tolist() == [-1.0]
    wrong = type("Wrong", (RewardLoss,), {"__call__": lambda self, scores: scores.scores[:, :1]})()
    with pytest.raises(ComponentError, match=r"Wrong of .* gave shape \(1, 1\), not \(1,\)"):
        wrong(PAIRS)


def test_a_function_that_is_built_is_checked_and_keeps_its_state() -> None:
    class Stateful:
        calls = 0

        def __call__(self, features: Tensor) -> Tensor:
            self.calls += 1
            return features.sum(1, keepdim=True)

    @dataclass(frozen=True)
    class Head(RewardHead):
        def build(self, width: int) -> Any:
            return Stateful()

    head = Head().build(2)
    with pytest.raises(ComponentError, match=r"Stateful of .*, built by .*Head of .* gave shape \(1, 1\), not \(1,\)"):
        head(torch.ones(1, 2))
    assert (head.calls, deepcopy(head).calls) == (1, 1)


def test_a_kind_declares_its_own_traits() -> None:
    class Principle(Component, kind="principle"):
        level: str = trait("rule", "how it ranks", choices=("base", "rule"))

    class Safety(Principle, level="base"):
        pass

    assert (Safety.kind, Safety.level, Principle.level) == ("principle", "base", "rule")
    with pytest.raises(PluginError, match=r"principle has no trait 'levle' \(did you mean level\?"):
        type("Typo", (Principle,), {}, levle="base")


def test_soft_labels_are_taken_where_all_parts_take_them() -> None:
    takes = component("reward_loss", "bradley_terry")
    assert Both(first=takes, others=(takes,)).takes_probabilities
    assert not Both(first=takes, others=(Gap(),)).takes_probabilities


def test_a_field_may_hold_several_or_none() -> None:
    assert Both(first=Gap(), others=(Listwise(), Gap())).held() == (Gap(), Listwise(), Gap())
    assert Both(first=Gap(), others=None).held() == (Gap(),)


def test_what_a_component_needs_is_what_all_of_its_parts_need() -> None:
    assert Both(first=Listwise(), others=(Doubled(loss=Gap()),)).needs_of() == {"margin"}


def test_a_call_by_keyword_is_checked_like_any_other() -> None:
    @dataclass(frozen=True)
    class OfAnyShape(RewardLoss):
        def __call__(self, scores: RankedScores, scale: float = 1.0) -> Tensor:
            return scale * scores.scores

    with pytest.raises(ComponentError, match=r"gave shape \(1, 2\), not \(1,\)"):
        OfAnyShape()(scores=PAIRS)
    assert torch.equal(Gap()(scores=PAIRS), Gap()(PAIRS))


def test_an_option_names_what_a_stage_can_make() -> None:
    with pytest.raises(PluginError, match=r"Earlier: unknown 'rewards' \(did you mean reward\?"):
        Earlier("rewards")


def test_what_a_generator_builds_answers_prompts() -> None:
    @dataclass(frozen=True)
    class Nothing(Generator):
        def build(self, run: Any) -> Any:
            return None

    with pytest.raises(ComponentError, match="built a NoneType, which is no Policy: it has no `sample`"):
        Nothing().build(None)
