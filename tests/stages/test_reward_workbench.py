"""Every pooling, head and loss through the reward stage on a tiny base: it trains, is saved, and scores the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlhf_plugins.errors import RlhfError
from rlhf_plugins.interfaces import Adapter, Base, Group, Prediction, Samples, StageResult
from rlhf_plugins.models.ensemble import epistemic
from rlhf_plugins.models.judges import open_judge
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.registry import registry
from rlhf_plugins.testing import tiny_base, tiny_encoder, tiny_pairs, tiny_run

FEW = {"max_steps": 3, "learning_rate": 1e-2, "logging_steps": 1, "disable_tqdm": True}
NEEDED: dict[str, dict[str, Any]] = {"multi": {"dimensions": ["kind", "true"]}}
WIDE = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}
SAMPLES = Samples(["how"] * 2, [""] * 2, [[15]] * 2, [[4, 5, 1], [9, 10, 11, 1]])
WORDS = Samples(["how"] * 12, [""] * 12, [[15]] * 12, [[word] * 4 + [1] for word in range(3, 15)])  # good, then bad


def rated(groups: Sequence[Group]) -> list[Group]:
    """With ratings in two dimensions, of which the second has one missing."""
    return [replace(g, ratings={"kind": (1.0, -1.0), "true": (0.5, None)}) for g in groups]


def trained(base: Base, folder: Path, groups: Sequence[Group] = (), **options: Any) -> StageResult:
    spec = {"use": "reward", "trainer": FEW, **options}
    result: StageResult = component("stage", spec).run(tiny_run(base, folder, groups or tiny_pairs(16)))
    return result


def judged(result: StageResult, samples: Samples = SAMPLES) -> Prediction:
    assert result.reward_model is not None
    return open_judge(result.reward_model, component)(samples)


def name_and_needed(name: str) -> dict[str, Any]:
    return {"use": name, **NEEDED.get(name, {})}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_base(tmp_path_factory.mktemp("base")).path


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As wide as quantized kernels need."""
    return tiny_base(tmp_path_factory.mktemp("wide"), **WIDE).path


@pytest.mark.parametrize("adapter", [None, Adapter(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize("head", registry().names("reward_head"))
@pytest.mark.parametrize("pooling", registry().names("pooling"))
def test_every_head_on_every_pooling_survives_saving(
    path: str, tmp_path: Path, pooling: str, head: str, adapter: Adapter | None
) -> None:
    survives(Base(path, adapter=adapter), tmp_path, pooling, head)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize(("pooling", "head"), [("multi_scale", "ensemble"), ("attention", "gaussian")])
def test_so_they_do_on_a_quantized_base(wide: str, tmp_path: Path, pooling: str, head: str, quantization: str) -> None:
    """Some CPUs run NF4 in bfloat16, and bitsandbytes rounds its scales anew when such a model is opened."""
    rounding = {"nf4": 5e-2, "int8": 0.0}[quantization]
    survives(Base(wide, quantization, Adapter(r=4)), tmp_path, pooling, head, rounding)


def survives(base: Base, folder: Path, pooling: str, head: str, rounding: float = 0.0) -> None:
    """The trained model, kept, and the saved one opened again give the same scores."""
    stage = component("stage", {"use": "reward", "pooling": pooling, "head": name_and_needed(head), "trainer": FEW})
    kept: dict[str, Any] = {}
    object.__setattr__(stage, "_model", lambda run: kept.setdefault("model", type(stage)._model(stage, run)))
    result = stage.run(tiny_run(base, folder / "run", tiny_pairs(8)))
    torch.testing.assert_close(
        judged(result).reward, kept["model"].judge(SAMPLES, 0).reward, rtol=rounding, atol=rounding
    )


@pytest.mark.parametrize(
    ("loss", "head"),
    [
        ("bradley_terry", "quantile"),
        ("bradley_terry_margin", "scalar"),
        ("centering", "scalar"),
        ("contrastive", "scalar"),
        ({"use": "weighted", "by": "difficulty"}, "scalar"),
        ("label_smoothed", "ensemble"),
        ("plackett_luce", "scalar"),
        ("ties_davidson", "scalar"),
        ("ties_rao_kupper", "scalar"),
        ("regression", "multi"),
        ("regression", "scalar"),
        ("gaussian_nll", "gaussian"),
        ("thurstone", "gaussian"),
        ("quantile", "quantile"),
        ({"use": "sum", "losses": ["bradley_terry", "centering"], "weights": [1, 0.01]}, "ensemble"),
        ({"use": "multi_task", "dimensions": ["kind", "true"], "losses": ["regression", "bradley_terry"]}, "multi"),
        ({"use": "multi_task_uncertainty", "dimensions": ["kind", "true"], "losses": ["regression"]}, "multi"),
    ],
)
def test_every_loss_trains_a_head_that_it_fits(path: str, tmp_path: Path, loss: Any, head: str) -> None:
    result = trained(Base(path), tmp_path, rated(tiny_pairs(16)), loss=loss, head=name_and_needed(head))
    values = [value for _, value in result.curves["loss"]]
    assert len(set(values)) == 3


@pytest.mark.parametrize(
    ("loss", "head", "message"),
    [
        ("gaussian_nll", "scalar", "gaussian"),
        ("thurstone", "scalar", "gaussian"),
        ("quantile", "scalar", "quantile"),
        ({"use": "multi_task", "dimensions": ["kind"], "losses": ["regression"]}, "scalar", "multi"),
    ],
)
def test_a_head_that_a_loss_cannot_use_is_refused(
    path: str, tmp_path: Path, loss: Any, head: str, message: str
) -> None:
    with pytest.raises(RlhfError, match=message):
        trained(Base(path), tmp_path, rated(tiny_pairs(8)), loss=loss, head=head)


def test_ratings_are_learned(path: str, tmp_path: Path) -> None:
    options = {"head": NEEDED["multi"] | {"use": "multi"}, "loss": "regression", "trainer": {**FEW, "max_steps": 40}}
    said = judged(trained(Base(path), tmp_path, rated(tiny_pairs(64)), **options), WORDS)
    kind = said.dimensions["kind"]
    assert kind[:6].mean() > kind[6:].mean() + 1  # rated 1 and -1


@pytest.mark.parametrize("sampler", registry().names("sampler"))
def test_every_sampler_draws_a_training(path: str, tmp_path: Path, sampler: str) -> None:
    groups = [replace(g, difficulty=float(i), topic="ab"[i % 2]) for i, g in enumerate(tiny_pairs(10))]
    trainer = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "disable_tqdm": True}
    assert len(trained(Base(path), tmp_path, groups, sampler=sampler, trainer=trainer).curves["loss"]) == 6


def test_an_encoder_with_an_adapter_learns(tmp_path: Path) -> None:
    base = replace(tiny_encoder(tmp_path / "base"), adapter=Adapter(r=4))
    trainer = {**FEW, "max_steps": 30}
    result = trained(
        base, tmp_path / "run", tiny_pairs(64), pooling={"use": "mean", "over": "response"}, trainer=trainer
    )
    losses = [value for _, value in result.curves["loss"]]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").exists()


def test_a_frozen_trunk_trains_the_head_as_in_the_loop(path: str, tmp_path: Path) -> None:
    """The same head, trained on features computed once, and with the trunk in the loop but without gradients."""
    once = trained(Base(path), tmp_path / "once", trunk="frozen", pooling="mean")
    stage = component("stage", {"use": "reward", "pooling": "mean", "trainer": FEW})
    made = type(stage)._model

    def unlearning(run: Any) -> Any:
        model = made(stage, run)
        model.trunk.requires_grad_(False)
        return model

    object.__setattr__(stage, "_model", unlearning)
    looped = stage.run(tiny_run(Base(path), tmp_path / "loop", tiny_pairs(16)))
    assert [v for _, v in once.curves["loss"]] == pytest.approx([v for _, v in looped.curves["loss"]], rel=1e-5)
    torch.testing.assert_close(judged(once).reward, judged(looped).reward, rtol=1e-4, atol=1e-5)


def test_a_frozen_trunk_is_not_written_again(path: str, tmp_path: Path) -> None:
    result = trained(Base(path), tmp_path, trunk="frozen")
    assert result.reward_model is not None
    assert sorted(file.name for file in result.reward_model.iterdir()) == ["head.safetensors", "reward_model.json"]


def test_features_are_not_computed_once_under_a_pooling_that_learns(path: str, tmp_path: Path) -> None:
    with pytest.raises(RlhfError, match="pooling attention has weights to train"):
        trained(Base(path), tmp_path, trunk="frozen", pooling="attention")


def test_rewards_and_losses_of_weights_of_their_own_leave_nothing_in_the_saved_head(path: str, tmp_path: Path) -> None:
    loss = {"use": "multi_task_uncertainty", "dimensions": ["kind"], "losses": ["regression"]}
    head = {"use": "multi", "dimensions": ["kind"]}
    trained(Base(path), tmp_path, rated(tiny_pairs(8)), loss=loss, head=head)
    assert all(name.startswith("head.") for name in load_file(tmp_path / "model" / "head.safetensors"))


@pytest.mark.parametrize("adapter", [None, Adapter(r=4)], ids=["full", "lora"])
def test_an_ensemble_of_models_is_trained_on_resampled_groups(path: str, tmp_path: Path, adapter: Any) -> None:
    spec = {"use": "reward_ensemble", "members": 3, "aggregation": "weighted", "trainer": {**FEW, "max_steps": 20}}
    result = component("stage", spec).run(tiny_run(Base(path, adapter=adapter), tmp_path, tiny_pairs(48)))
    said = judged(result, WORDS)
    assert said.members is not None
    assert said.members.shape == (12, 3)
    assert (epistemic(said) > 0).all()
    assert said.reward[:6].mean() > said.reward[6:].mean()
    assert all(accuracy > 0.5 for accuracy in result.metrics["out_of_bag_accuracy"])


def test_members_of_a_head_see_resampled_rows_and_end_apart(path: str, tmp_path: Path) -> None:
    trainer = {**FEW, "max_steps": 20}
    said = judged(trained(Base(path), tmp_path, tiny_pairs(48), head="ensemble", trainer=trainer), WORDS)
    assert said.members is not None
    assert said.members.shape == (12, 5)
    good, bad = said.members[:6].mean(0), said.members[6:].mean(0)
    assert (good > bad).all()


def test_a_model_is_distilled_from_an_ensemble(path: str, tmp_path: Path) -> None:
    trainer = {**FEW, "max_steps": 30}
    teacher = component("stage", {"use": "reward_ensemble", "members": 2, "trainer": trainer})
    first = teacher.run(tiny_run(Base(path), tmp_path / "teacher", tiny_pairs(48)))
    student = component("stage", {"use": "reward", "teacher": first.name, "loss": "regression", "trainer": trainer})
    run = tiny_run(Base(path), tmp_path / "student", tiny_pairs(48), (first,))
    pair = judged(first, WORDS).reward, judged(student.run(run), WORDS).reward
    assert torch.corrcoef(torch.stack(pair))[0, 1] > 0.9


def test_a_teacher_that_no_stage_trained_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(RlhfError, match=r"no earlier stage left a reward model of that name \(known: none\)"):
        trained(Base(path), tmp_path, teacher="ensemble", loss="regression")
