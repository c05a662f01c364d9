"""A policy that is the base of a recipe is measured beside the model that it was trained from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import Adapter, Base, RunError, StageResult, session
from rlhf_plugins.contract.rows import Data
from rlhf_plugins.contract.run import Weights
from rlhf_plugins.recipe.base_policy import called
from rlhf_plugins.recipe.check import load_recipe
from rlhf_plugins.recipe.course import courses
from rlhf_plugins.run.preflight import Preflight
from rlhf_plugins.run.stage.starts import NOTHING_BELOW
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

TRAINER = {"max_steps": 3, "learning_rate": 0.05, "per_device_train_batch_size": 4, "disable_tqdm": True}
EVALUATE: dict[str, Any] = {"use": "evaluate", "prompts": 8, "best_of": 1, "ceiling": 2, "max_new_tokens": 4}


def rows_on(base: Base, folder: Path) -> Data:
    return tiny_run(base, folder, tiny_pairs(16)).data


@pytest.fixture(scope="module", params=[Adapter(r=4), None], ids=["lora", "full"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StageResult]:
    """A run with a policy `dpo`, and its own evaluation of it."""
    folder = tmp_path_factory.mktemp("trained")
    base = replace(tiny_base(folder / "base"), adapter=request.param)
    run = session(base, rows_on(base, folder / "rows"), folder / "run")
    run.train({"use": "preference", "trainer": TRAINER}, name="dpo")
    return folder / "run", run.train(EVALUATE, name="evaluated")


def again(trained: Path, folder: Path) -> Any:
    """A session from that policy."""
    adapter = Adapter() if (trained / "dpo/model/adapter_config.json").exists() else None
    base = Base(f"{trained}#dpo", adapter=adapter)
    return session(base, rows_on(Base(str(trained.parent / "base")), folder / "rows"), folder / "run")


def test_an_evaluation_alone_compares_a_policy_with_what_it_was_trained_from(
    trained: tuple[Path, StageResult], tmp_path: Path
) -> None:
    """The numbers are those of the evaluation of the run that trained it."""
    found, before = again(trained[0], tmp_path).train(EVALUATE, name="alone"), trained[1]
    assert (list(found.report.policies), found.reference) == (["base", "dpo"], "base")
    assert found.evaluation == before.evaluation
    for name in ("gold", "gain", "kl", "win_rate", "normalised"):
        assert found.report.policies["dpo"].get(name) == before.report.policies["dpo"].get(name), name
    assert found.report.policies["dpo"]["kl"] > 0.01
    said = f"The reference base is {trained[0].parent / 'base'}, from which dpo, the base of the recipe, was trained."
    assert said in found.report.notes


def test_behind_a_training_the_base_is_the_policy_and_below_is_named(
    trained: tuple[Path, StageResult], tmp_path: Path
) -> None:
    run = again(trained[0], tmp_path)
    run.train({"use": "preference", "trainer": TRAINER}, name="more")
    of_base = run.train(EVALUATE, name="e1").report.policies
    below = run.train({**EVALUATE, "reference": "below"}, name="e2").report.policies
    assert (list(of_base), list(below)) == (["base", "more"], ["base", "dpo", "more"])
    assert below["dpo"]["gold"] == of_base["base"]["gold"]
    assert below["more"]["gold"] == of_base["more"]["gold"]
    assert below["dpo"]["kl"] == trained[1].report.policies["dpo"]["kl"]
    named = again(trained[0], tmp_path / "named")
    named.train({"use": "preference", "trainer": TRAINER}, name="dpo")
    assert list(named.train({**EVALUATE, "reference": "below"}, name="e").report.policies) == ["base", "start", "dpo"]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("a/02-dpo/model", "dpo"),
        ("a/dpo/model", "dpo"),
        ("a/02-dpo/checkpoint-20", "dpo@20"),
        ("my-adapter", "my-adapter"),
    ],
)
def test_a_policy_is_called_by_its_stage(folder: str, name: str) -> None:
    assert called(Weights("base", Base("b"), Path(folder))) == called(Weights("base", Base(folder))) == name


def test_nothing_is_below_a_base_that_is_no_policy(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    run = session(base, rows_on(base, tmp_path / "rows"), tmp_path / "run")
    with pytest.raises(RunError, match="reference: the recipe's base is no policy that was trained from a model"):
        run.train({**EVALUATE, "reference": "below"}, name="e")


def test_a_check_says_which_reference(trained: tuple[Path, StageResult]) -> None:
    def words(*stages: dict[str, Any], **more: Any) -> str:
        recipe = {"base": f"{trained[0]}#dpo", "data": {"format": "sandbox", "prompts": 60}, "stages": list(stages)}
        *_, course = courses(load_recipe({**recipe, **more})).values()
        assert course is not None
        return course.words

    evaluate, base = {"stage": "evaluate"}, trained[0].parent / "base"
    assert words(evaluate).endswith(f"; reference base, which is {base}")
    assert "2 policies" in words(evaluate)
    assert words({"stage": "preference"}, evaluate).endswith("; reference base")
    assert words({"stage": "preference", "name": "a"}, {**evaluate, "reference": "a"}).endswith("; reference a")
    below = words({"stage": "preference"}, {**evaluate, "reference": "below"})
    assert below.endswith(f"; reference base, which is {base}")
    assert "3 policies" in below
    plain = {"base": "sandbox", "data": "sandbox", "stages": [{"stage": "evaluate", "reference": "below"}]}
    assert Preflight()(load_recipe(plain)) == [(("stages", 0, "reference"), NOTHING_BELOW)]
