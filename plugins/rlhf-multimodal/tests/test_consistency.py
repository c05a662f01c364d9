"""Consistency between modalities: agreement and its interval by hand, captions in place of images, and the stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rlhf_multimodal.consistency import agree, estimate, row
from rlhf_multimodal.media import captioned
from rlhf_multimodal.shapes import Scene

from rlhf_plugins import Base, DataError, Group, RunError, component
from rlhf_plugins.testing import tiny_base, tiny_run

SEEN = Group("what ", ("ant", "gas"), (0, 1), columns={"media_features": [[1.0], [2.0]], "caption": "ant bee"})
LATE = {"use": "late_fusion", "width": 1, "vectors": 2}


def test_agreement_by_hand() -> None:
    """Alike, not alike, and a tie."""
    assert agree(np.array([1.0, -1.0, 0.0]), np.array([2.0, 1.0, 1.0])).tolist() == [1.0, 0.0, 0.5]


def test_the_interval_draws_whole_images() -> None:
    """Four pairs about one image say nothing of others; two that differ are drawn as (0, 0), (0, 1), (1, 0), (1, 1)."""
    alone = estimate(np.array([1.0, 0.0, 0.0, 1.0]), np.zeros(4), 0)
    assert alone == pytest.approx((0.5, np.nan, np.nan), nan_ok=True)
    assert estimate(np.array([1.0, 1.0, 0.0, 0.0]), np.array([7, 7, 3, 3]), 0) == (0.5, 0.0, 1.0)
    assert estimate(np.ones(10), np.arange(10), 0) == pytest.approx((1.0, 10 / (10 + 1.959964**2), 1.0))  # Wilson's


def test_agreement_of_independent_errors_by_hand() -> None:
    """Right in 3/4 and 1/2: 3/4 * 1/2 + 1/4 * 1/2 = 1/2."""
    one, other = np.array([1.0, 1.0, 1.0, -1.0]), np.array([1.0, 1.0, -1.0, -1.0])
    found = row("image", "caption", one, other, np.arange(4), 0)
    assert (found["value"], found["right"], found["independent"]) == (0.75, [0.75, 0.5], 0.5)


def test_a_caption_takes_the_place_of_the_image() -> None:
    blind = captioned(SEEN, "caption")
    assert (blind.prompt, blind.columns["media_features"]) == ("ant bee what ", [[0.0], [0.0]])
    said = replace(SEEN, prompt=[{"role": "user", "content": "what"}])
    assert captioned(said, "caption").prompt[0]["content"] == "ant bee what"
    with pytest.raises(DataError, match=r"no caption in the column 'said' \(known: media_features, caption\)"):
        captioned(SEEN, "said")
    assert Scene("stone", "blue", "tiny", 11, 25).caption == "the thing is a tiny blue stone."


def test_a_share_of_the_training_rows_is_captioned(tmp_path: Path) -> None:
    rows = {"format": "shapes", "folder": str(tmp_path), "prompts": 40, "test_prompts": 4}
    data = component("data_format", "with_images", rows=rows, captioned=0.5).load(Base("sandbox"), 0)
    blind = [group for group in data.train if not any(map(any, group.columns["media_features"]))]
    assert 10 < len(blind) < 30
    assert all(str(group.prompt).startswith(group.columns["caption"]) for group in blind)
    assert all(any(map(any, group.columns["media_features"])) for group in data.test)


def test_a_reward_is_asked_with_the_image_and_with_its_caption(tmp_path: Path) -> None:
    shown = [
        replace(SEEN, prompt="what\n", columns={**SEEN.columns, "media_features": [[float(i)], [1.0]]})
        for i in range(4)
    ]
    base, trainer = tiny_base(tmp_path / "base"), {"max_steps": 1, "disable_tqdm": True}
    run: Any = tiny_run(base, tmp_path / "run", shown)
    made = component("stage", "reward_model", head=LATE, train_layers=0, trainer=trainer).run(run)
    later: Any = tiny_run(base, tmp_path / "later", shown, [replace(made, name="reward_model")])
    held = replace(later, data=replace(later.data, test=tuple(shown)))
    found = component("stage", "consistency").run(held)
    assert [one["readings"] for one in found.sections[0].rows] == ["image and caption", "text and visual"]
    assert all(0 <= one["low"] <= one["value"] <= one["high"] <= 1 for one in found.metrics.values())
    with pytest.raises(DataError, match="has no media_features: take data of the format with_images"):
        component("stage", "consistency").run(later)
    with pytest.raises(RunError, match="no held-out pair is strictly ordered"):
        component("stage", "consistency").run(replace(later, data=replace(later.data, test=())))


def test_the_interval_of_few_images_is_students() -> None:
    """Four images with four pairs each, of which 3, 2, 2 and 3 agree: 10 of 16, deviations of 1/2 pair."""
    values = np.repeat([1.0, 0.0] * 4, [3, 1, 2, 2, 2, 2, 3, 1])
    wide = 3.182446 * (4 / 3 * 4 / 4) ** 0.5 / 16
    found = estimate(values, np.repeat(np.arange(4), 4), 0)
    assert found == pytest.approx((0.625, 0.625 - wide, 0.625 + wide), abs=1e-6)
