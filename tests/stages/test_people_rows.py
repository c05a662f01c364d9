"""People's own rows, of every kind that is at hand, load through their format and train a reward model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.contract.rows import Data
from rlhf_plugins.contract.run import Base
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base, tiny_run

FOLDER = Path(__file__).parents[3] / "shared" / "data"
TRAINER = {"max_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 1, "disable_tqdm": True}
RATED = {"correctness": "reviews.correctness-rating", "overall": "reviews.overall-rating"}
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "arguments_pairs": ({"use": "preference", "group_prompts": True, "max_responses": 8, "hold_out": "topic"}, {}),
    "dialogues_harmless_pairs": ({"use": "preference"}, {"loss": "margin"}),
    "arguments_crowd": ({"use": "comparisons"}, {"loss": {"use": "weighted", "loss": "ties_davidson"}}),
    "instructions_three_annotators": ({"use": "comparisons"}, {"loss": "weighted"}),
    "instructions_preference_strength": ({"use": "comparisons"}, {"loss": {"use": "weighted", "by": "margin"}}),
    "answers_four_way": ({"use": "rankings"}, {"loss": {"use": "plackett_luce", "ties": "split"}}),
    "summaries_rated": (
        {"use": "ratings", "dimensions": RATED},
        {"loss": "regression", "head": {"use": "multi", "dimensions": list(RATED)}},
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return tiny_base(tmp_path_factory.mktemp("base"), max_position_embeddings=4096)


@pytest.mark.parametrize("name", ROWS)
def test_they_train(base: Base, tmp_path: Path, name: str) -> None:
    file = FOLDER / f"{name}.jsonl.gz"
    if not file.exists():
        pytest.skip(f"{file.name} is not here")
    options, stage = ROWS[name]
    data: Data = component("data_format", {**options, "source": str(file)}).load(base, 0)
    few = sorted(data.train, key=lambda g: sum(len(str(r)) for r in g.responses))[:8]
    run = replace(tiny_run(base, tmp_path), data=replace(data, train=tuple(few)))
    result = component("stage", {"use": "reward", "trainer": TRAINER, **stage}).run(run)
    assert len(result.curves["loss"].points) == 2
    ties, unknown = "nothing left to compare", "response equal to another once tokenized"
    assert set(result.report.left_out) <= {ties, unknown}  # the tiny vocabulary does not tell some responses apart
