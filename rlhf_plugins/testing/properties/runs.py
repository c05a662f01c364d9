"""Properties of a reward, which scores what a policy wrote: one number a response, whatever is scored beside it."""

from __future__ import annotations

import copy
import math
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from rlhf_plugins.contract.guards import unchecked
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.reward_rows import Wrong, scores_of
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Run, StageResult
from rlhf_plugins.contract.unsaved_state import Looks, unkept
from rlhf_plugins.errors import ComponentError, PluginError, RlhfError
from rlhf_plugins.testing.conformance import holds_of
from rlhf_plugins.testing.subject import Broken, Subject, Untried, expect, raised

PROMPTS = ("how is the ant\n", "who\n", "what is the fox\n", "who\n")
RESPONSES = ("bee cat dog", "", "mud mud mud log ice key gas jam", "elk gas")


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Which is there until the process ends."""
    return tempfile.TemporaryDirectory(prefix="rlhf-conformance-")


@cache
def run_with_reward() -> Run:
    """A run over a tiny base, of which a stage has left a reward model."""
    from rlhf_plugins.engine.weights.loading import load_trunk
    from rlhf_plugins.recipe.assemble import component
    from rlhf_plugins.reward_models.reward_model import RewardModel
    from rlhf_plugins.testing.tiny import tiny_base, tiny_run

    folder = Path(_folder().name)
    base = tiny_base(folder / "base")
    parts = {"pooling": {"use": "last_token"}, "head": {"use": "scalar"}}
    try:
        pooling, head = component("pooling", "last_token"), component("reward_head", "scalar")
    except PluginError as error:  # no fault of what is tried
        raise RuntimeError(f"the kit has no reward model to try a component with: {error}") from error
    model = RewardModel(load_trunk(base), pooling, head)
    model.save(folder / "reward", {"base": {"path": base.path}, **parts})
    rewards = {"reward": {"use": "saved", "path": str(folder / "reward")}}
    return tiny_run(base, folder / "run", finished=[StageResult(rewards=rewards, name="reward")])


def _samples() -> Samples:
    from rlhf_plugins.engine.weights.loading import load_tokenizer

    tokenizer = load_tokenizer(run_with_reward().base)
    ids = [[tokenizer(text)["input_ids"] for text in texts] for texts in (PROMPTS, RESPONSES)]
    return Samples(list(PROMPTS), list(RESPONSES), ids[0], [[*one, tokenizer.eos_token_id] for one in ids[1]])


def _picked(samples: Samples, row: int) -> Samples:
    ids = ([samples.prompt_ids[row]], [samples.response_ids[row]])
    return Samples([samples.prompts[row]], [samples.responses[row]], *ids)


def _first(subject: Subject, words: str) -> list[Any]:
    """What it says of the samples at first. Raises Untried where it refuses this run."""
    result = _scores(subject, words, _samples())
    if isinstance(result, RlhfError):
        raise Untried(raised(result))
    return result


def _scores(subject: Subject, words: str, samples: Samples) -> list[Any] | RlhfError:
    """What it says of the samples; an error of ours where it refuses this run with one."""
    try:
        answer = unchecked(subject.made().build(run_with_reward()))(samples)
        if isinstance(answer, Prediction):
            return answer.reward.tolist()
        return scores_of(list(answer), samples.responses)[0]
    except ComponentError as error:  # of a part
        raise Broken(words, "a reward for each response", raised(error)) from error
    except RlhfError as error:
        return error
    except Wrong as wrong:
        raise Broken(words, "a number, None or a dict for each response", f"it {wrong}") from wrong
    except Exception as error:
        raise Broken(words, "a reward for each response", raised(error)) from error


@holds_of("reward")
def one_reward_each(subject: Subject) -> None:
    """Rewards are matched with responses by their places: one too few, or a NaN, and every gradient is wrong."""
    words = "four responses to three prompts, one of them empty"
    result = _first(subject, words)
    expect(len(result) == 4, words, "4 rewards", str(len(result)))
    plain = all(one is None or (isinstance(one, float | int) and math.isfinite(one)) for one in result)
    expect(plain, words, "finite numbers of Python, or None where it abstains", str(result))


@holds_of("reward")
def rewards_stand_alone(subject: Subject) -> None:
    """What a response earns must not hang on its place in the batch, nor on the responses beside it."""
    words = "four responses together, and each alone"
    samples = _samples()
    for row, reward in enumerate(_first(subject, words)):
        alone = _scores(subject, words, _picked(samples, row))
        same = isinstance(alone, list) and len(alone) == 1 and _close(alone[0], reward)
        expect(same, words, f"{reward} for number {row + 1} both times", f"{alone} alone")


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-4)


@holds_of("reward")
def samples_are_unmutated(subject: Subject) -> None:
    """The samples are trained on after they are scored."""
    samples = _samples()
    before = copy.deepcopy(samples)
    result = _scores(subject, "four responses", samples)
    expect(samples == before, "four responses", "the samples as they were", "samples changed in place")
    if isinstance(result, RlhfError):
        raise Untried(raised(result))


@holds_of("reward")
def rewards_repeat(subject: Subject) -> None:
    """A run can be repeated only if equal responses earn equal rewards."""
    result = _first(subject, "four responses, twice")
    again = _scores(subject, "four responses, twice", _samples())
    expect(result == again, "four responses, twice", str(result), str(again))


@holds_of("reward")
def state_of_a_reward_is_kept(subject: Subject) -> None:
    """What changes as it scores and has no `state_dict` is in no checkpoint: a killed run goes on as another one."""
    words = "four responses, three times by one built reward"
    looks = Looks()
    try:
        acts = subject.made().build(run_with_reward())
        for _ in range(3):
            acts(_samples())
            for built in looks.changed(acts):
                raise Broken(words, "what it holds as it was, or a state_dict", unkept(built))
    except Broken:
        raise
    except Exception as error:  # which other properties are about
        raise Untried(raised(error)) from error


@holds_of("stage")
def stage_has_a_name(subject: Subject) -> None:
    """The name is the run's folder and the table's row."""
    made = subject.made()
    named = isinstance(getattr(made, "name", None), str) and bool(made.name)
    expect(named, "its `name`", "text", repr(getattr(made, "name", None)))


@holds_of("environment")
def one_turn_each(subject: Subject) -> None:
    """Turns are matched with responses by their places: one too few, and conversations are continued as others."""
    words = "four responses to three prompts, one of them empty"
    samples = _samples()
    before = copy.deepcopy(samples)
    try:
        result = subject.made().build(run_with_reward())(samples)
    except ComponentError as error:
        raise Broken(words, "a text or None for each response", raised(error)) from error
    except RlhfError as error:  # it refuses this run, or plain text
        raise Untried(raised(error)) from error
    expect(len(result) == 4, words, "4 turns", str(len(result)))
    expect(samples == before, words, "the samples as they were", "samples changed in place")


@holds_of("monitor", "generator", "judge", "environment")
def it_builds(subject: Subject) -> None:
    """What is built is what a training or a stage calls; one that cannot be built fails in the middle of a run."""
    words = "a run over a tiny base, of which a stage has left a reward model"
    try:
        made = subject.made().build(run_with_reward())
    except ComponentError as error:
        raise Broken(words, "something to call", raised(error)) from error
    except RlhfError as error:  # it refuses this run
        raise Untried(raised(error)) from error
    except Exception as error:
        raise Broken(words, "something to call", raised(error)) from error
    if subject.kind in ("monitor", "judge", "environment"):
        expect(callable(made), words, "a function to call", f"a {type(made).__name__}")
