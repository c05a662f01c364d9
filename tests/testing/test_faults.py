"""Faults that were seen in trainers, and others that could be, are found, each by a message that names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faulty as other
import faulty_losses as loss
import faulty_runs as run
import pytest
from marks import slow
from torch import nn

from rlhf_plugins import Reward, RewardHead, Run, RunError
from rlhf_plugins.testing import Subject, examine, properties_of
from rlhf_plugins.testing.conformance import outcome

FAULTS = [
    # what was tried must name the place, what came the fault
    ("reward_loss", loss.MarginAsColumn, "shape", "loss of shape (4, 4)"),
    ("reward_loss", loss.MarginOfAll, "batch_mates", "it follows the others' `margin`"),
    ("reward_loss", loss.MarginsDropped, "batch_mates", "four pairs, two with a margin, number 2 alone"),
    ("reward_loss", loss.OptionIgnored, "options_are_read", "nothing depends on the option 'form'"),
    ("reward_loss", loss.OptionOfOnePath, "options_are_read", "of 1.0 with form = logistic, on every case"),
    ("reward_loss", loss.LogOfSigmoid, "finite", "rewards of"),
    ("reward_loss", loss.RootOfGap, "gradient_is_finite", "equal rewards"),
    ("reward_loss", loss.ChosenDetached, "gradient_reaches", "a gradient for the first responses' outputs"),
    ("reward_loss", loss.FactorDetached, "gradcheck", "another gradient of `scores`"),
    ("reward_loss", loss.WrongWay, "direction", "for one that disagrees"),
    ("reward_loss", loss.AbsentCount, "padding_content", "with other numbers in the padding"),
    ("reward_loss", loss.AbsentCount, "padding_gets_no_gradient", "no gradient for `scores` where there is padding"),
    ("reward_loss", loss.ShiftHeeded, "shift_as_declared", "as `under_shift = 'same'` says"),
    ("preference_loss", loss.BetaTwice, "ends_are_usable", "beta = 0"),
    ("preference_loss", loss.InPlace, "unmutated", "`ref_chosen` changed in place"),
    ("preference_loss", loss.ReferenceHidden, "reference_as_declared", "as `reads_reference = False` says"),
    ("preference_loss", loss.Averaged, "shape", "loss of shape ()"),
    ("preference_loss", loss.Noisy, "deterministic", "twice"),
    ("preference_loss", loss.Noisy, "random_state", "another state of torch"),
    ("preference_loss", loss.Anything, "wrong_options_are_refused", "beta = 'no such value'"),
    ("preference_loss", loss.IllegalDefault, "defaults_are_legal", "beta = 0.0, its default"),
    ("preference_loss", loss.Counted, "state_is_kept", "Add state_dict and load_state_dict to _Counting"),
    ("pooling", other.LastColumn, "padding_amount", "with more padding"),
    ("pooling", other.CountedFromLeft, "padding_side", "padded on the left"),
    ("pooling", other.NoToken, "finite", "a mask that marks no token"),
    ("reward_head", other.Forgetful, "state_is_restored", "saved were scale"),
    ("reward_head", other.Forgetful, "weights_are_registered", "the module.layers outside of them"),
    ("reward_head", other.Drifting, "state_is_restored", "saved were linear.bias, linear.weight"),
    ("reward_head", other.Shared, "builds_anew", "one module, twice"),
    ("reward_head", other.Column, "shape", "reward of shape (4, 1)"),
    ("reward_head", other.Normed, "batch_mates", "it follows the others' `features`"),
    ("advantage", other.MaskForgotten, "padding_content", "with other numbers in the padding"),
    ("advantage", other.ZeroDeviation, "finite", "equal rewards"),
    ("advantage", other.BatchWhitened, "batch_mates", "it follows the others' `scores`"),
    ("advantage", other.Undone, "options_are_felt", "baseline = 1.0, 0.25"),
    ("aggregation", other.Standardised, "batch_mates", "it follows the others' `rewards`"),
    ("aggregation", other.Unseen, "options_are_read", "nothing depends on the option 'alpha'"),
    ("sampler", other.GlobalRandom, "arrays_answer_repeats", "other answers"),
    ("sampler", other.TooFew, "draws_are_legal", "losses that nobody has seen yet"),
    ("sampler", other.Emptied, "arrays_are_unmutated", "`remaining` changed in place"),
    ("metric", other.Undefined, "numbers_are_plain", "a finite number for undefined"),
    ("metric", other.FirstHalf, "pairs_have_no_order", "forwards and backwards"),
    ("reward", run.Ranked, "rewards_stand_alone", "and each alone"),
    ("reward", run.OnlyAnswers, "one_reward_each", "4 rewards"),
    ("reward", run.Unscored, "one_reward_each", "a dict with the keys 'rewards' for the response"),
    ("reward", run.Tiring, "state_of_a_reward_is_kept", "the place of the function that Tiring.build returns"),
    ("policy_loss", other.TokenMean, "shape", "of shape (4,)"),
    ("policy_loss", other.PaddedMean, "padding_content", "with other numbers in the padding"),
    ("policy_loss", other.PaddedMean, "padding_amount", "with more padding"),
    ("policy_loss", other.PaddedMean, "padding_gets_no_gradient", "no gradient for `log_ratio` where there is padding"),
    ("policy_loss", other.OneForAll, "batch_mates", "it follows the others' `log_ratio`"),
    ("kl_estimator", other.Centred, "batch_mates", "it follows the others' `log_ratio`"),
    ("kl", other.StrengthFixed, "options_are_read", "nothing depends on the option 'per_word'"),
    ("reduction", other.Unweighed, "options_are_mentioned", "a line that reads 'weight_of_prompts'"),
    ("shaping", other.Uncapped, "options_are_mentioned", "a line that reads 'ceiling'"),
    ("environment", run.LeavesSilence, "one_turn_each", "gave 3 turns for 4 responses"),
    ("generator", run.Unbuilt, "it_builds", "a NoneType, which is no Policy"),
    ("data_format", run.Unshuffled, "options_are_mentioned", "a line that reads 'shuffled_twice'"),
    ("data_step", run.Uncounted, "steps_repeat_and_count", "left out 1 training rows, and counts 0"),
    ("selector", run.Favourite, "every_algorithm_is_ranked", "ranked dpo, not each of dpo, ipo, ppo"),
    ("stage", run.NeverResumed, "options_are_mentioned", "a line that reads 'resume_from_best'"),
    ("stage", run.NeverResumed, "import_changes_nothing", "a change of the environment"),
    ("stage", run.Silent, "a_result_is_returned", "a NoneType"),
]

LONG = {"options_are_felt", "import_changes_nothing"}  # which train, and start a process
BUILT_OF_A_RUN = {"judge", "monitor", "regularizer", "task"}


@pytest.mark.parametrize(
    ("kind", "component", "name", "words"),
    [slow(one)[0] if one[2] in LONG else one for one in FAULTS],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_planted_fault_is_found_and_named(kind: str, component: type, name: str, words: str) -> None:
    (one,) = [each for each in properties_of(kind) if each.name == name]
    found = str(examine(Subject.of(component, kind, {}), one))
    assert words in found
    assert f"{kind} {component.__name__}: {name}" in found


def test_the_faults_are_many_and_of_every_kind() -> None:
    from rlhf_plugins.registry.registry import KINDS

    assert len({component for _, component, _, _ in FAULTS}) >= 20
    assert {kind for kind, _, _, _ in FAULTS} == set(KINDS) - BUILT_OF_A_RUN


def test_what_refuses_to_be_built_is_found_before_all_properties_hold_of_it() -> None:
    @dataclass(frozen=True)
    class Unbuildable(RewardHead):
        def build(self, width: int) -> nn.Module:
            raise RunError(f"width {width} is not supported")

    (one,) = [each for each in properties_of("reward_head") if each.name == "can_be_built"]
    assert "RunError: width 8 is not supported" in str(examine(Subject.of(Unbuildable, "reward_head", {}), one))


def test_a_reward_may_give_dicts() -> None:
    @dataclass(frozen=True)
    class Graded(Reward):
        def build(self, run: Run) -> Any:
            return lambda samples: [{"score": -1.0, "full": bool(text)} if text else None for text in samples.responses]

    subject = Subject.of(Graded, "reward", {})
    for name in ("one_reward_each", "rewards_stand_alone", "samples_are_unmutated", "rewards_repeat"):
        (one,) = [each for each in properties_of("reward") if each.name == name]
        assert examine(subject, one) is None


def test_a_reward_that_refuses_every_run_is_not_said_to_hold() -> None:
    """So does one whose server is not there; the kit gives the reason of either."""

    @dataclass(frozen=True)
    class Unreached(Reward):
        def build(self, run: Run) -> Any:
            raise RunError("there is no server")

    subject = Subject.of(Unreached, "reward", {})
    asked = {"one_reward_each", "rewards_stand_alone", "samples_are_unmutated", "rewards_repeat"}
    asked.add("state_of_a_reward_is_kept")
    said = [str(outcome(subject, one)) for one in properties_of("reward") if one.name in asked]
    assert said == ["RunError: there is no server"] * len(asked)


@pytest.mark.parametrize("name", ["batch_mates", "order", "gradient_stays"])
def test_of_an_answer_without_rows_the_shape_alone_is_reported(name: str) -> None:
    (one,) = [each for each in properties_of("preference_loss") if each.name == name]
    assert examine(Subject.of(loss.Averaged, "preference_loss", {}), one) is None
