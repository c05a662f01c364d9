"""The fusions by hand, what they refuse, and that text and picture together learn what neither can alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rlhf_multimodal.fusion import CrossAttention, GatedFusion, LateFusion
from torch import Tensor, nn, tensor

from rlhf_plugins import DataError, Group, check_recipe, component
from rlhf_plugins.testing import tiny_base, tiny_run

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
H, V = tensor([[2.0, 3.0]]), tensor([[[1.0], [5.0]]])  # features of a response, and two vectors of one number


def set_to(module: nn.Module, **values: Any) -> Any:
    """The module with these weights and all others 0."""
    with torch.no_grad():
        for name, weights in module.named_parameters():
            weights.copy_(tensor(values.get(name.replace(".", "_"), 0.0)).expand_as(weights))
    return module


APART = {"text_weight": [[1.0, 0.0]], "query_weight": [[0.0, 1.0]], "key_weight": [[1.0, 2.0]]}


def asked(head: Any) -> tuple[float, float, float]:
    found = head(H, {"media_features": V})
    return tuple(x.item() for x in (found.reward, found.dimensions["text"], found.dimensions["visual"]))


def test_late_fusion_by_hand() -> None:
    """r_text = 2, r_visual = 3 (1 + 2 * 5) / sqrt(1) = 33; halves at first, then sigmoid(log 3) = 3/4 of the second."""
    head = set_to(LateFusion(width=1, vectors=2, rank=1).build(2), **APART)
    assert asked(head) == (17.5, 2.0, 33.0)
    assert asked(set_to(head, **APART, balance=1.0986123))[0] == pytest.approx(0.25 * 2 + 0.75 * 33)


def test_gated_fusion_by_hand() -> None:
    """The gate reads h_0 and the key 11: sigmoid(0.5 * 2 - 11 / 11) = 1/2, and sigmoid(0) without weights."""
    head = set_to(GatedFusion(width=1, vectors=2, rank=1).build(2), **APART, gate_weight=[[0.5, 0.0, -1 / 11]])
    assert asked(head)[0] == pytest.approx(17.5)
    assert asked(set_to(head, **APART, gate_bias=100.0))[0] == pytest.approx(33.0)


def test_cross_attention_by_hand() -> None:
    """Matches log 2 times the vectors 1 and 5 count 2 to 32: z = (2 * 1 + 32 * 5) / 34, and r = 2 + gelu(z)."""
    slope = 0.6931472 / 3  # times the query is log 2
    weights = {"query_weight": [[0.0, 1.0]], "key_weight": [[slope]], "value_weight": [[1.0]]}
    mixed = {"mixed_weight": [[0.0, 1.0, 0.0]], "score_weight": [[1.0]]}
    head = set_to(CrossAttention(width=1, rank=1).build(2), **weights, **mixed, text_weight=[[1.0, 0.0]])
    z = (2 * 1 + 32 * 5) / 34
    gelu = float(nn.functional.gelu(tensor(z)))
    assert asked(head) == pytest.approx((2 + gelu, 2.0, gelu), rel=1e-5)


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 1), torch.zeros(1, 2, 2), torch.zeros(1, 2)])
def test_images_of_another_shape_are_refused(images: Tensor) -> None:
    with pytest.raises(DataError, match="the head reads 2 vectors of 1 numbers an image, and rows have"):
        LateFusion(width=1, vectors=2).build(2)(H, {"media_features": images})


def about_pictures(n: int, seed: int) -> list[Group]:
    """`ant` is better where the picture shows one, `gas` where it shows the other: text alone is at chance."""
    draw = torch.Generator().manual_seed(seed)
    shown = [int(torch.randint(2, (1,), generator=draw)) for _ in range(n)]
    return [Group("what\n", ("ant", "gas"), (s, 1 - s), columns={"media_features": [[2.0 * s - 1]]}) for s in shown]


@pytest.mark.parametrize(
    "head", ["cross_attention", *(pytest.param(one, marks=pytest.mark.slow) for one in ("late_fusion", "gated_fusion"))]
)
def test_what_neither_modality_tells_alone_is_learned(head: str, tmp_path: Path) -> None:
    options = {"width": 1, **({} if head == "cross_attention" else {"vectors": 1})}
    base = tiny_base(tmp_path / "base")
    run = tiny_run(base, tmp_path / "run", about_pictures(24, 0))
    trainer = {"max_steps": 40, "learning_rate": 0.05, "disable_tqdm": True}
    words = {"head": {"use": head, **options}, "train_layers": 0, "trainer": trainer}
    made = component("stage", "reward_model", **words).run(run)
    model: Any = tiny_run(base, tmp_path / "later", finished=[replace(made, name="reward_model")]).reward()
    samples = model.encode(["what\n"] * 4, ["ant", "ant", "gas", "gas"])
    one, other = [[1.0]], [[-1.0]]
    shown = replace(samples, columns={"media_features": [one, other] * 2})
    ant_one, ant_other, gas_one, gas_other = model.predict(shown).reward.tolist()
    assert ant_one < gas_one
    assert ant_other > gas_other


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_the_shipped_recipe_is_sound_and_short(file: Path) -> None:
    assert check_recipe(file)["stages"]
    assert len(file.read_text().splitlines()) <= 40
