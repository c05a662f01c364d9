"""The guide to reward models names every component of its kinds, and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlhf_plugins.registry import DISTRIBUTION, registry

GUIDE = Path(__file__).parents[1] / "docs" / "reward_models.md"
ROW = re.compile(r"^\| `(\w+)`[^|]*\| (.*) \|$", re.MULTILINE)


@pytest.mark.parametrize(
    "kind", ["pooling", "reward_head", "reward_loss", "sampler", "aggregation", "metric", "data_format"]
)
def test_the_guide_names_every_bundled_component(kind: str) -> None:
    text = GUIDE.read_text(encoding="utf-8").partition("## Components")[2].partition("##")[0]
    named = [name for of, names in ROW.findall(text) if of == kind for name in re.findall(r"`(\w+)`", names)]
    bundled = [c.name for c in registry().describe() if c.kind == kind and c.plugin.distribution == DISTRIBUTION]
    assert sorted(named) == sorted(bundled)
