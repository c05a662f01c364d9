"""The guide to reward models names what is there, and the pages that are made of the code are what it says now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.write import DOCS, pages
from rlhf_plugins.registry import DISTRIBUTION, KINDS, registry

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


def test_the_pages_made_of_the_code_are_not_stale() -> None:
    made = pages()
    stale = [
        str(file.relative_to(DOCS)) for file, text in made.items() if not file.exists() or file.read_text() != text
    ]
    left = {file.name for file in (DOCS / "components").iterdir()} - {file.name for file in made}
    assert not stale, f"run `make docs`, which writes {', '.join(stale)} anew"
    assert not left, f"no kind is called so: delete {', '.join(left)}"


def test_every_component_says_its_equation_or_work_and_where_it_is() -> None:
    for kind in KINDS:
        page = (DOCS / "components" / f"{kind}.md").read_text(encoding="utf-8")
        for part in page.split("\n## ")[1:]:
            name, blank, about, *_ = part.splitlines()
            assert not blank, name
            assert about, f"{kind} {name} has no docstring"
            assert re.search(r"^Source: `rlhf_plugins/.*\.py`, `\w+`\.$", part, re.MULTILINE), name
