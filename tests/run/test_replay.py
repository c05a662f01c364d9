"""A component that fails stops the run by name, and its call can be done again from what was saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from marks import slow
from torch import Tensor
from typer.testing import CliRunner

from rlhf_plugins import PluginError, RunError, run_recipe
from rlhf_plugins.cli.app import app
from rlhf_plugins.contract.records import MemberScores, PairLogps, RankedScores, SamplerState, ScoredPairs
from rlhf_plugins.contract.rollout import Rollout
from rlhf_plugins.errors import ComponentError
from rlhf_plugins.registry.discovery import in_file
from rlhf_plugins.registry.registry import Registry, bases, registry
from rlhf_plugins.run.replay import FAULT, replay, save

Fails = Callable[..., tuple[ComponentError, Registry]]

BROKEN = """\
from dataclasses import dataclass
import rlhf_plugins as api
from rlhf_plugins import KLTerm, hookimpl
import numpy as np
import torch
from torch import nn

class Module(nn.Linear):
    def forward(self, features):
        return {head}

@dataclass(frozen=True)
class Broken(api.{base}):
    scale: float = 2.0
    coef = 0.1
    {body}

@hookimpl
def register_{kind}():
    return {{"broken": Broken}}
"""
CALL = "def __call__(self, *given): return {answer}"
HEAD = "def build(self, width): return Module(width, 1)"
REWARD = "def build(self, run): return lambda samples: {answer}"

ONES = torch.ones(2, requires_grad=True)
MASK = torch.ones(2, 3).bool()
PAIRS = ScoredPairs(*np.array([[1.0, 2.0], [0.0, 3.0], [5, 6], [7, 8]]), topic=np.array(["a", "b"], dtype=object))
EIGHT = np.arange(8)
DRAW = SamplerState(2, EIGHT > 0, 0.5, EIGHT, EIGHT * 0.5, EIGHT % 2, np.full(8, np.nan), np.random.default_rng(1))
ROLLOUT = Rollout(ONES.detach(), torch.ones(2, 3), None, MASK, torch.zeros(2).long())
MEMBERS = MemberScores(torch.ones(3, 2), torch.ones(3), torch.zeros(2))


def source(kind: str, body: str, head: str = "features") -> str:
    return BROKEN.format(kind=kind, body=body, head=head, base=bases()[kind].__name__)


@pytest.fixture
def fails(tmp_path: Path) -> Fails:
    """A component of a file, called through a guard; the error, and a registry that knows the component."""

    def call(kind: str, text: str, *inputs: Any) -> Any:
        (tmp_path / "mine.py").write_text(text)
        registry = Registry().with_files([tmp_path / "mine.py"])
        made = registry.get(kind, "broken")()
        target = made.build(4) if kind == "reward_head" else made
        with pytest.raises(ComponentError) as caught:
            target(*inputs)
        return caught.value, registry

    return call


class Case(NamedTuple):
    kind: str
    body: str
    inputs: tuple[Any, ...]
    message: str


def answers(kind: str, answer: str, *inputs: Any, message: str) -> Case:
    """A component that answers so, called so."""
    return Case(kind, CALL.format(answer=answer), inputs, message)


SCORES, LOGPS, HIDDEN = RankedScores.of(torch.ones(2, 2), ONES), PairLogps.of(*[ONES] * 6), torch.ones(2, 3, 4)
TWO = (2,)
CASES = [
    answers("reward_loss", "given[0].scores.T", SCORES, message=r"shape \(2, 2\), not \(2,\)"),
    answers("preference_loss", "given[0].chosen.detach()", LOGPS, message="without a grad"),
    answers("pooling", "given[0][:, 9]", HIDDEN, MASK, message="failed: IndexError"),
    answers("aggregation", "given[0].rewards[0] / 0", MEMBERS, message="made inf of finite"),
    answers("advantage", "given[0].scores", ROLLOUT, message="gave a Tensor, not Advantages"),
    answers("sampler", "given[0].rng.permutation(9)[:2] + 8", DRAW, message=r"row \d+ of 8 examples"),
    answers("kl", "KLTerm(given[0][0])", ONES.view(1, 2), message=r"shape \(2,\), not"),
    answers("metric", "{'broken': given[0].topic}", PAIRS, message="gave 'broken': array"),
    Case("reward_head", HEAD, (torch.ones(2, 4),), r"gave shape \(2, 4\), not \(2,\)"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_a_failed_call_fails_again_from_its_files(fails: Fails, tmp_path: Path, case: Case) -> None:
    error, registry = fails(case.kind, source(case.kind, case.body), *case.inputs)
    assert f"{tmp_path / 'mine.py'}:" in str(error)
    file = save(error, tmp_path / "stage", "the message", [str(tmp_path / "mine.py")], registry)
    then, again = replay(file, Registry())
    assert then == "the message"
    assert str(again) == str(error)
    with pytest.raises(ComponentError, match=case.message):
        raise again or AssertionError


def test_a_head_is_done_again_with_its_own_weights(fails: Fails, tmp_path: Path) -> None:
    error, registry = fails("reward_head", source("reward_head", HEAD), torch.ones(2, 4))
    file = save(error, tmp_path, "", [str(tmp_path / "mine.py")], registry)
    text = source("reward_head", HEAD, head="super().forward(features)[:, 0].fill_(float(self.weight.sum())) / 0")
    (tmp_path / "mine.py").write_text(text)
    weights: Tensor = error.call.component.weight
    assert f"made {'-' * bool(weights.sum() < 0)}inf of finite numbers" in str(replay(file, Registry()).again)


def test_a_mended_component_passes(fails: Fails, tmp_path: Path) -> None:
    text = source("reward_loss", CALL.format(answer="given[0].chosen.detach()"))
    error, registry = fails("reward_loss", text, RankedScores.of(ONES.view(1, 2) * 1, ONES[:1]))
    file = save(error, tmp_path, "", [str(tmp_path / "mine.py")], registry)
    (tmp_path / "mine.py").write_text(text.replace(".detach()", ""))
    assert replay(file, Registry()).again is None


def test_a_call_whose_plugin_is_gone_or_that_is_no_call_is_refused(fails: Fails, tmp_path: Path) -> None:
    given = RankedScores.of(torch.ones(2, 2), ONES)
    error, registry = fails("reward_loss", source("reward_loss", CALL.format(answer=1)), given)
    file = save(error, tmp_path, "", [], registry)
    with pytest.raises(PluginError, match=r"needs the file mine.py \(file sha256"):
        replay(file, Registry())
    file.write_text("{}")
    with pytest.raises(RunError, match="fault.json cannot be replayed: it is no saved call"):
        replay(file, Registry())


SMALL = ["stages.second.trainer={max_steps: 1, max_completion_length: 8}"]
RECIPE = """\
base: sandbox
plugins: [mine.py]
data: {format: sandbox, prompts: 8, test_prompts: 8}
adapter: none
output_dir: out
stages:
  - {stage: reward, loss: bradley_terry, train_layers: 0, trainer: {max_steps: 1}}
  - STAGE
"""
TINY = "train_layers: 0, trainer: {max_steps: 1}"
SUM = "{use: sum, losses: [bradley_terry, broken], weights: [1, 1]}"
RUNS = [
    ("reward_loss", CALL.format(answer="given[0].chosen.detach()"), f"reward, loss: broken, {TINY}", "without a grad"),
    ("sampler", CALL.format(answer="1 / 0"), f"reward, sampler: broken, {TINY}", "failed: ZeroDivisionError"),
    ("monitor", REWARD.format(answer="1 / 0"), f"reward, monitors: [broken], {TINY}", "failed: ZeroDivisionError"),
    ("metric", CALL.format(answer="[]"), "evaluate_reward, metrics: [broken]", "gave a list, not numbers by name"),
    ("reward_loss", CALL.format(answer="given[0].chosen[:1]"), f"reward, loss: {SUM}, {TINY}", r"shape \(1,\), not"),
    ("reward", REWARD.format(answer="[run.seed]"), "online, reward: broken", r"gave 1 number for"),
]
FAST = RUNS[4:5]  # a part of a sum


# The calls of the others are saved and repeated above, and a run stops alike at each.
@pytest.mark.parametrize(
    ("kind", "body", "stage", "message"),
    [pytest.param(*case, id=case[0], marks=[pytest.mark.slow] * (case not in FAST)) for case in RUNS],
)
def test_a_run_that_stops_names_the_plugin_and_saves_the_call(
    kind: str, body: str, stage: str, message: str, folder: Path
) -> None:
    Path("mine.py").write_text(source(kind, body))
    Path("r.yaml").write_text(RECIPE.replace("STAGE", f"{{stage: {stage}, name: second}}"))
    version = in_file(Path("mine.py")).plugin.version
    named = rf"stage second failed: {kind} broken of plugin mine.py \(file {version}\): .* {message}.*mine.py:\d+\)"
    with pytest.raises(RunError, match=named + "; do it again with: rlhf plugins replay out/02-second/fault.json"):
        run_recipe("r.yaml", SMALL if "online" in stage else (), say=lambda _: None)
    file = Path("out/02-second", FAULT)
    assert json.loads(file.read_text())["component"] == {"use": "broken", "scale": 2.0}
    with pytest.raises(ComponentError, match=message):
        raise replay(file, registry()).again or AssertionError


BUILT = "def build(self, run, model): return lambda: 1 / 0"
PLACED = "def build(self, run): return 1 / 0"


@pytest.mark.parametrize(("kind", "body"), slow(("regularizer", BUILT), ("monitor", PLACED)))
def test_a_call_that_cannot_be_repeated_is_not_offered(kind: str, body: str, folder: Path) -> None:
    Path("mine.py").write_text(source(kind, body))
    Path("r.yaml").write_text(RECIPE.replace("STAGE", f"{{stage: reward, {kind}s: [broken], {TINY}, name: second}}"))
    with pytest.raises(RunError, match=r"failed: ZeroDivisionError(?s:(?!plugins replay).)*$"):
        run_recipe("r.yaml", say=lambda _: None)


@pytest.mark.slow
def test_a_call_that_cannot_be_saved_does_not_hide_the_failure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("rlhf_plugins.run.replay.save_file", full)
    Path("mine.py").write_text(source("sampler", CALL.format(answer="1 / 0")))
    Path("r.yaml").write_text(RECIPE.replace("STAGE", f"{{stage: reward, sampler: broken, {TINY}, name: second}}"))
    with pytest.raises(RunError, match="failed: ZeroDivisionError.*; the call could not be saved: OSError: No space"):
        run_recipe("r.yaml", say=lambda _: None)


IN_LOSS, IN_REWARD = (f"kl: {{use: {place}, estimator: broken}}" for place in ("in_loss", "in_reward"))
PULLS = [
    ("kl", "kl: broken", "given[0]", "KLTerm(given[0])", "gave a Tensor, not a KLTerm"),
    ("kl_estimator", IN_REWARD, "given[0] / 0", "given[0]", "made nan of finite numbers"),
    ("kl_estimator", IN_LOSS, "given[0].data", "given[0]", "gave numbers without a gradient"),
]


@pytest.mark.parametrize(
    ("kind", "kl", "wrong", "right", "message"),
    [pytest.param(*case, id=case[1], marks=[pytest.mark.slow] * (case[1] != IN_LOSS)) for case in PULLS],
)
def test_a_pull_towards_the_reference_stops_the_run_until_it_is_mended(
    kind: str, kl: str, wrong: str, right: str, message: str, folder: Path
) -> None:
    Path("mine.py").write_text(source(kind, CALL.format(answer=wrong)))
    Path("r.yaml").write_text(RECIPE.replace("STAGE", f"{{stage: online, reward: gold, {kl}, name: second}}"))
    with pytest.raises(RunError, match=rf"second failed: {kind} broken of plugin mine.py .*{message}.*mine.py:16\)"):
        run_recipe("r.yaml", SMALL, say=lambda _: None)
    again = CliRunner().invoke(app, ["plugins", "replay", f"out/02-second/{FAULT}", "--trust-plugins"])
    assert again.stdout.startswith(f"then: {kind} broken of plugin mine.py (file sha256:")
    assert (again.exit_code, message in again.stderr) == (2, True)
    Path("mine.py").write_text(source(kind, CALL.format(answer=right)))
    mended = CliRunner().invoke(app, ["plugins", "replay", f"out/02-second/{FAULT}", "--trust-plugins"])
    assert (mended.exit_code, mended.stdout.splitlines()[-1]) == (0, "now: the call succeeds")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scratch folder, which becomes the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
