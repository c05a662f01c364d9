"""Rewards for several objectives, and the stage that trains a policy for each weighting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from rlhf_objectives.objectives import Combined

from rlhf_plugins import (
    PluginError,
    Prediction,
    Reward,
    Run,
    RunError,
    Samples,
    StageResult,
    check_recipe,
    component,
)
from rlhf_plugins.testing import tiny_base, tiny_run

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
TRAINER = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 4, "max_steps": 1}
BOTH = {"objectives": ["gold", "brevity"], "names": ["good", "short"], "points": 2, "prompts": 4, "max_new_tokens": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("objectives")
    return tiny_run(tiny_base(folder / "base"), folder / "run")


def samples(*responses: str) -> Samples:
    """Responses to one prompt."""
    ids = [[3] * max(1, len(response.split())) for response in responses]
    return Samples(["how"] * len(ids), list(responses), [[15]] * len(ids), ids)


def rewards(run: Any, name: str, *responses: str, **options: Any) -> list[float]:
    found: list[float] = component("reward", name, **options).build(run)(samples(*responses)).reward.tolist()
    return found


def test_brevity_and_a_true_dimension_by_hand(run: Any) -> None:
    """Three words; one good word of two."""
    assert rewards(run, "brevity", "ant bee cat") == pytest.approx([-0.3])
    assert rewards(run, "gold_dimension", "ant gas", dimension="total") == [0.5]
    with pytest.raises(RunError, match=r"no true dimension 'kind' \(known: total\)"):
        rewards(run, "gold_dimension", "ant", dimension="kind")
    with pytest.raises(RunError, match=r"no dimension 'kind' \(known: none\)"):
        rewards(run, "dimension", "ant", dimension="kind", reward="gold")


def test_a_dimension_abstains_where_a_function_gives_none(run: Any, tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text(
        "def own(completions):\n    return [{'score': 1, 'near': 0.25}, {'score': 2}, {'score': None, 'near': 1}]\n"
    )
    made = component("reward", "dimension", dimension="near", reward={"use": "python", "path": f"{tmp_path}/r.py:own"})
    found: Prediction = made.build(run)(samples("a", "b", "c"))
    assert found.abstained is not None
    assert (found.reward.tolist(), found.abstained.tolist()) == ([0.25, 0.0, 0.0], [False, True, True])


def test_members_are_aggregated_by_hand(run: Any) -> None:
    """All words are good in the first two, and the second is shorter; the third is shortest and bad."""
    both = {"rewards": ["gold", "brevity"], "aggregation": "lexicographic"}
    assert rewards(run, "combined", "ant bee", "ant", "", **both) == [0.5, 1.0, 0.0]
    with pytest.raises(PluginError, match="at least two"):
        rewards(run, "combined", "ant", rewards=["gold"], aggregation="mean")


def test_what_is_compared_needs_another_and_a_judge_takes_each_pair_by_itself(run: Any) -> None:
    """By brevity the first wins in the first pair and loses in the second; both are to one prompt."""
    both = {"rewards": ["brevity", "gold"], "aggregation": "lexicographic"}
    with pytest.raises(RunError, match="aggregation lexicographic compares .* 1 of 1 have no other"):
        rewards(run, "combined", "ant", **both)
    judge = component("judge", "reward", reward={"use": "combined", **both}).build(run)
    verdicts = judge(["who "] * 2, ["ant", "ant bee gas"], ["ant bee", "ant bee"])
    assert [one.probability for one in verdicts] == [1.0, 0.0]


@dataclass(frozen=True)
class Shy(Reward):
    """1 for each response; it abstains on an empty one, with a number that means nothing."""

    def build(self, run: Run) -> Any:
        """Needs nothing of the run."""
        said = lambda samples: torch.tensor([float(bool(response)) for response in samples.responses])  # noqa: E731
        return lambda samples: Prediction(said(samples), abstained=said(samples) == 0)


def test_an_answer_on_which_a_member_abstains_is_no_sibling(run: Any) -> None:
    """Of three the better of two has rank 1; the third, worst by its number, would make the worse one 0.5."""
    both = Combined(
        rewards=(Shy(), component("reward", "brevity")), aggregation=component("aggregation", "lexicographic")
    )
    found = both.build(run)(samples("ant bee", "ant", ""))
    assert found.reward.tolist() == [0.0, 1.0, 0.0]
    assert found.abstained.tolist() == [False, False, True]
    assert both.build(run)(samples("ant", "")).abstained.tolist() == [True, True]  # the first has no other left


@pytest.fixture(scope="module")
def swept(run: Any) -> StageResult:
    made: StageResult = component("stage", "pareto", online={"trainer": TRAINER, "advantage": "rloo"}, **BOTH).run(run)
    return made


def test_a_policy_for_each_weighting(run: Any, swept: StageResult) -> None:
    assert list(swept.policies) == ["pareto-0", "pareto-1"]
    rows = {row["policy"]: row for row in swept.sections[0].rows}
    assert [rows[name]["weights"] for name in ("start", "pareto-0", "pareto-1")] == ["", "1, 0", "0, 1"]
    assert {name for name, row in rows.items() if row["front"]} == set(swept.metrics["front"])
    assert "brevity" not in (svg := (run.folder / "front.svg").read_text())
    assert "<svg" in svg


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["a", "b", "c"]}, "2 objectives need as many different names"),
        ({"online": {"reward": "gold"}}, "online.reward: `pareto` gives it"),
        ({"online": {"advantag": "rloo"}}, "did you mean advantage"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        component("stage", "pareto", **{**BOTH, **options})


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_the_shipped_recipe_is_sound_and_short(file: Path) -> None:
    assert check_recipe(file)["stages"]
    assert len(file.read_text().splitlines()) <= 40
