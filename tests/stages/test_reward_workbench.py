"""Every pooling, head and loss through the reward stage on a tiny base: it trains, is saved, and scores the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from handed import folder_of
from marks import slow
from safetensors.torch import load_file

from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rows import Comparison, Group, Samples
from rlhf_plugins.contract.run import Adapter, Base, StageResult
from rlhf_plugins.errors import RlhfError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.registry.registry import registry
from rlhf_plugins.reward_models.ensemble import epistemic
from rlhf_plugins.reward_models.opening import open_reward
from rlhf_plugins.stages.reward_ensemble import out_of_bag
from rlhf_plugins.testing import tiny_base, tiny_encoder, tiny_pairs, tiny_run

FEW = {"max_steps": 3, "learning_rate": 1e-2, "logging_steps": 1, "disable_tqdm": True}
NEEDED: dict[str, dict[str, Any]] = {"multi": {"dimensions": ["kind", "true"]}, "multi_scale": {"window": 3}}
OF_COLUMNS = {"cross_attention", "gated_fusion", "late_fusion", "personal"}  # heads that read what these rows lack
HEADS, POOLINGS = sorted({*registry().names("reward_head")} - OF_COLUMNS), registry().names("pooling")
EVERY = [  # `make test` tries each head and each pooling with one of the others, `make bench` with all
    pytest.param(pooling, head, marks=[] if i % len(HEADS) == j or j % len(POOLINGS) == i else pytest.mark.slow)
    for i, pooling in enumerate(POOLINGS)
    for j, head in enumerate(HEADS)
]
WIDE = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}
SAMPLES = Samples(["how"] * 2, [""] * 2, [[15]] * 2, [[4, 5, 1], [9, 10, 11, 1]])
WORDS = Samples(["how"] * 12, [""] * 12, [[15]] * 12, [[word] * 4 + [1] for word in range(3, 15)])  # good, then bad


def rated(groups: Sequence[Group]) -> list[Group]:
    """With a margin, and ratings in two dimensions, of which the second has one missing."""
    return [replace(g, margin=1.0, ratings={"kind": (1.0, -1.0), "true": (0.5, None)}) for g in groups]


def trained(base: Base, folder: Path, groups: Sequence[Group] = (), **options: Any) -> StageResult:
    spec = {"use": "reward", "trainer": FEW, **options}
    result: StageResult = component("stage", spec).run(tiny_run(base, folder, groups or tiny_pairs(16)))
    return result


def judged(result: StageResult, samples: Samples = SAMPLES) -> Prediction:
    return open_reward(folder_of(result.rewards), component)(samples)


def name_and_needed(name: str) -> dict[str, Any]:
    return {"use": name, **NEEDED.get(name, {})}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_base(tmp_path_factory.mktemp("base")).path


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As wide as quantized kernels need."""
    return tiny_base(tmp_path_factory.mktemp("wide"), **WIDE).path


@pytest.mark.parametrize("adapter", [*slow(None), Adapter(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize(("pooling", "head"), EVERY)
def test_every_head_on_every_pooling_survives_saving(
    path: str, tmp_path: Path, pooling: str, head: str, adapter: Adapter | None
) -> None:
    survives(Base(path, adapter=adapter), tmp_path, pooling, head)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize(("pooling", "head"), [("multi_scale", "ensemble"), ("attention", "gaussian")])
def test_so_they_do_on_a_quantized_base(wide: str, tmp_path: Path, pooling: str, head: str, quantization: str) -> None:
    """Some CPUs run NF4 in bfloat16, and bitsandbytes rounds its scales again when such a model is opened."""
    rounding = {"nf4": 5e-2, "int8": 0.0}[quantization]
    survives(Base(wide, quantization, Adapter(r=4)), tmp_path, pooling, head, rounding)


def survives(base: Base, folder: Path, pooling: str, head: str, rounding: float = 0.0) -> None:
    """The trained model, kept, and the saved one opened again give the same scores."""
    stage = component(
        "stage", {"use": "reward", "pooling": name_and_needed(pooling), "head": name_and_needed(head), "trainer": FEW}
    )
    kept: dict[str, Any] = {}
    object.__setattr__(stage, "_model", lambda run: kept.setdefault("model", type(stage)._model(stage, run)))
    result = stage.run(tiny_run(base, folder / "run", tiny_pairs(8)))
    torch.testing.assert_close(
        judged(result).reward, kept["model"].predict(SAMPLES, 0).reward, rtol=rounding, atol=rounding
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
    values = [value for _, value in result.curves["loss"].points]
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


@pytest.mark.slow
def test_ratings_are_learned(path: str, tmp_path: Path) -> None:
    options = {"head": NEEDED["multi"] | {"use": "multi"}, "loss": "regression", "trainer": {**FEW, "max_steps": 40}}
    said = judged(trained(Base(path), tmp_path, rated(tiny_pairs(64)), **options), WORDS)
    kind = said.dimensions["kind"]
    assert kind[:6].mean() > kind[6:].mean() + 1  # rated 1 and -1


@pytest.mark.parametrize("sampler", registry().names("sampler"))
def test_every_sampler_draws_a_training(path: str, tmp_path: Path, sampler: str) -> None:
    groups = [replace(g, difficulty=float(i), topic="ab"[i % 2]) for i, g in enumerate(tiny_pairs(10))]
    trainer = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "disable_tqdm": True}
    assert len(trained(Base(path), tmp_path, groups, sampler=sampler, trainer=trainer).curves["loss"].points) == 6


@pytest.mark.slow
def test_an_encoder_with_an_adapter_learns(tmp_path: Path) -> None:
    base = replace(tiny_encoder(tmp_path / "base"), adapter=Adapter(r=4))
    trainer = {**FEW, "max_steps": 30}
    result = trained(
        base, tmp_path / "run", tiny_pairs(64), pooling={"use": "mean", "over": "response"}, trainer=trainer
    )
    losses = [value for _, value in result.curves["loss"].points]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").exists()


def test_a_frozen_trunk_trains_the_head_as_in_the_loop(path: str, tmp_path: Path) -> None:
    """The same head, trained on features computed once, and with the trunk in the loop but without gradients."""
    once = trained(Base(path), tmp_path / "once", train_layers=0, pooling="mean")
    stage = component("stage", {"use": "reward", "pooling": "mean", "trainer": FEW})
    made = type(stage)._model

    def unlearning(run: Any) -> Any:
        model = made(stage, run)
        model.trunk.requires_grad_(False)
        return model

    object.__setattr__(stage, "_model", unlearning)
    looped = stage.run(tiny_run(Base(path), tmp_path / "loop", tiny_pairs(16)))
    assert [v for _, v in once.curves["loss"].points] == pytest.approx(
        [v for _, v in looped.curves["loss"].points], rel=1e-5
    )
    torch.testing.assert_close(judged(once).reward, judged(looped).reward, rtol=1e-4, atol=1e-5)


def test_a_frozen_trunk_is_not_written_again(path: str, tmp_path: Path) -> None:
    result = trained(Base(path), tmp_path, train_layers=0)
    assert sorted(file.name for file in folder_of(result.rewards).iterdir()) == [
        "head.safetensors",
        "reward_model.json",
    ]


def test_features_are_not_computed_once_under_a_pooling_that_learns(path: str, tmp_path: Path) -> None:
    with pytest.raises(RlhfError, match="pooling attention has weights to train"):
        trained(Base(path), tmp_path, train_layers=0, pooling="attention")


def test_rewards_and_losses_of_weights_of_their_own_leave_nothing_in_the_saved_head(path: str, tmp_path: Path) -> None:
    loss = {"use": "multi_task_uncertainty", "dimensions": ["kind"], "losses": ["regression"]}
    head = {"use": "multi", "dimensions": ["kind"]}
    trained(Base(path), tmp_path, rated(tiny_pairs(8)), loss=loss, head=head)
    assert all(name.startswith("head.") for name in load_file(tmp_path / "model" / "head.safetensors"))


@pytest.mark.parametrize("adapter", slow(None, Adapter(r=4)), ids=["full", "lora"])
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


@pytest.mark.slow
def test_a_model_is_distilled_from_an_ensemble(path: str, tmp_path: Path) -> None:
    trainer = {**FEW, "max_steps": 30}
    teacher = component("stage", {"use": "reward_ensemble", "members": 2, "trainer": trainer})
    first = teacher.run(tiny_run(Base(path), tmp_path / "teacher", tiny_pairs(48)))
    longer = {"teacher": "reward_ensemble", "loss": "regression", "trainer": {**FEW, "max_steps": 120}}
    student = component("stage", {"use": "reward", **longer})
    run = tiny_run(Base(path), tmp_path / "student", tiny_pairs(192), (first,))
    pair = judged(first, WORDS).reward, judged(student.run(run), WORDS).reward
    assert torch.corrcoef(torch.stack(pair))[0, 1] > 0.9


def test_a_teacher_that_no_stage_trained_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(RlhfError, match="no earlier stage made a reward model"):
        trained(Base(path), tmp_path, teacher="ensemble", loss="regression")


def test_only_the_top_layers_are_trained(path: str, tmp_path: Path) -> None:
    trained(Base(path), tmp_path, train_layers=1, trainer={**FEW, "max_steps": 10})
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (path, tmp_path / "model"))
    moved = {name for name in after if not torch.equal(before[f"model.{name}"], after[name])}
    assert moved == {name for name in after if name.startswith("layers.1.")}


@pytest.mark.parametrize(("layers", "message"), [(3, "3 of LlamaModel, which has 2 layers"), (1, "adapter: none")])
def test_layers_that_cannot_be_trained_are_refused(path: str, tmp_path: Path, layers: int, message: str) -> None:
    base = Base(path, adapter=Adapter(r=4) if layers == 1 else None)
    with pytest.raises(RlhfError, match=message):
        trained(base, tmp_path, train_layers=layers)


def test_the_head_may_learn_at_a_rate_of_its_own(path: str, tmp_path: Path) -> None:
    """Adam's first step moves every weight by its learning rate."""
    spec = {
        "use": "reward",
        "head_learning_rate": 0.5,
        "trainer": {**FEW, "max_steps": 1, "lr_scheduler_type": "constant"},
    }
    stage = component("stage", spec)
    kept: dict[str, Any] = {}

    def watched(run: Any) -> Any:
        kept["model"] = type(stage)._model(stage, run)
        kept["before"] = {name: weights.detach().clone() for name, weights in kept["model"].named_parameters()}
        return kept["model"]

    object.__setattr__(stage, "_model", watched)
    stage.run(tiny_run(Base(path), tmp_path, tiny_pairs(16)))
    moved = {n: float((w.detach() - kept["before"][n]).abs().max()) for n, w in kept["model"].named_parameters()}
    assert moved.pop("head.weight") == pytest.approx(0.5, rel=1e-3)
    assert max(moved.values()) == pytest.approx(FEW["learning_rate"], rel=1e-3)


def long_response(words: int) -> Group:
    return Group("how is\n", (" ".join(["ant"] * words), "gas"), (0, 1))


OVERLONG = [*tiny_pairs(8), long_response(300), long_response(251)]  # 251 words and 5 tokens around them are 256


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_what_the_model_cannot_read_is_left_out_and_counted(tmp_path: Path, architecture: str) -> None:
    """The tiny encoders have 256 positions, of which RoBERTa leaves out the first; their tokenizers say 254."""
    result = trained(base := tiny_encoder(tmp_path / "base", architecture), tmp_path / "run", OVERLONG)
    assert result.report.left_out == {"response longer than the model takes": 2}
    run = tiny_run(base, tmp_path / "later", tiny_pairs(8), (result,))
    run = replace(run, data=replace(run.data, test=(*run.data.test, long_response(300))))
    found = component("stage", "evaluate_reward").run(run).report
    assert found.left_out == {"held out, response longer than the model takes": 1}


def test_an_ensemble_counts_what_none_of_its_members_could_read(tmp_path: Path) -> None:
    base = tiny_encoder(tmp_path / "base")
    spec = {"use": "reward_ensemble", "members": 2, "trainer": FEW}
    result = component("stage", spec).run(tiny_run(base, tmp_path / "run", [*tiny_pairs(8), long_response(300)]))
    assert all(0 <= accuracy <= 1 for accuracy in result.metrics["out_of_bag_accuracy"])


def test_a_rated_group_of_which_nothing_can_be_read_is_left_out(path: str, tmp_path: Path) -> None:
    groups = [*rated(tiny_pairs(8)), replace(long_response(300), responses=(" ".join(["ant"] * 300),) * 2)]
    groups[-1] = replace(groups[-1], ratings={"kind": (1.0, 2.0)})
    result = trained(Base(path), tmp_path, groups, loss="regression", trainer={**FEW, "max_length": 64})
    assert result.report.left_out == {"response longer than the model takes": 1}


def test_what_a_teacher_cannot_read_is_counted(tmp_path: Path) -> None:
    base = tiny_encoder(tmp_path / "base")
    first = trained(base, tmp_path / "first", tiny_pairs(8))
    student = component("stage", {"use": "reward", "teacher": "reward", "loss": "regression", "trainer": FEW})
    result = student.run(tiny_run(base, tmp_path / "student", [*tiny_pairs(8), long_response(300)], (first,)))
    assert result.report.left_out == {"for the teacher, response longer than the model takes": 1}


def test_a_teacher_is_refused_where_the_loss_reads_no_ratings(path: str, tmp_path: Path) -> None:
    first = trained(Base(path), tmp_path / "first")
    student = component("stage", {"use": "reward", "teacher": "reward", "trainer": FEW})
    with pytest.raises(
        RlhfError, match="become ratings, which bradley_terry does not read; take one such as regression"
    ):
        student.run(tiny_run(Base(path), tmp_path / "student", tiny_pairs(8), (first,)))


@pytest.mark.parametrize("many", [*slow(False), True], ids=["alone", "in an ensemble"])
def test_dropout_that_a_recipe_asks_for_is_not_switched_off(path: str, tmp_path: Path, many: bool) -> None:
    """The same seed with and without it gives other losses."""
    heads: list[dict[str, Any]] = [{"use": "mlp", "dropout": rate} for rate in (0.0, 0.5)]
    heads = [{"use": "ensemble", "head": head} for head in heads] if many else heads
    runs = [trained(Base(path), tmp_path / str(i), head=head).curves["loss"].points for i, head in enumerate(heads)]
    assert runs[0] != runs[1]


@pytest.mark.parametrize(
    ("loss", "counted"),
    [
        ({"use": "weighted", "loss": "plackett_luce", "by": "difficulty"}, 1),
        ({"use": "sum", "losses": ["plackett_luce"], "weights": [1]}, 1),
        ({"use": "sum", "losses": ["plackett_luce", "ties_davidson"], "weights": [1, 1]}, 0),
        ("regression", 8),
    ],
)
def test_groups_of_which_no_part_of_a_loss_can_use_anything_are_counted(
    path: str, tmp_path: Path, loss: Any, counted: int
) -> None:
    ties = (Comparison(0, 1, tied=True), Comparison(1, 2, tied=True))
    odd = Group("how\n", ("ant", "bee", "cat"), compared=ties, ratings={"kind": (1.0, 2.0, 3.0)})
    result = trained(Base(path), tmp_path, [*tiny_pairs(8), odd], loss=loss)
    assert result.report.left_out.get("nothing left to compare", 0) == counted


def test_a_teacher_that_can_read_nothing_is_told(tmp_path: Path) -> None:
    base = tiny_encoder(tmp_path / "base")
    first = trained(base, tmp_path / "first", tiny_pairs(8))
    student = component("stage", {"use": "reward", "teacher": "reward", "loss": "regression", "trainer": FEW})
    unread = [replace(long_response(300), responses=(" ".join(["ant"] * 300), " ".join(["gas"] * 300)))]
    with pytest.raises(RlhfError, match="teacher: reward cannot read any response .2 x response longer"):
        student.run(tiny_run(base, tmp_path / "student", unread, (first,)))


def test_what_the_test_and_strange_prompts_leave_out_is_added_up(tmp_path: Path) -> None:
    result = trained(base := tiny_encoder(tmp_path / "base"), tmp_path / "run", tiny_pairs(8))
    run = tiny_run(base, tmp_path / "later", tiny_pairs(8), (result,))
    more = replace(run.data, test=(*run.data.test, long_response(300)), out_of_distribution=(long_response(301),))
    found = component("stage", "evaluate_reward").run(replace(run, data=more)).report
    assert found.left_out == {"held out, response longer than the model takes": 2}


def test_a_copy_of_a_drawn_row_and_a_row_of_its_prompt_were_not_left_out() -> None:
    rows = [Group(prompt, ("yes", "no"), (0, 1)) for prompt in ("a", " A", "b", "c")]
    assert out_of_bag([*rows, Group("a", ("x", "y"), (0, 1))], [0, 3]) == [rows[2]]
