"""The guides name what is there and show recipes that are sound; the pages made of the code are what it says now."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.fences import titled
from docs.write import DOCS, pages
from rlhf_plugins.recipe.check import check_recipe
from rlhf_plugins.registry.registry import DISTRIBUTION, KINDS, registry

GUIDES = {
    "reward_models": [
        "pooling",
        "reward_head",
        "reward_loss",
        "sampler",
        "aggregation",
        "metric",
        "data_format",
        "data_step",
    ],
    "online": [
        "reward",
        "shaping",
        "kl",
        "kl_estimator",
        "advantage",
        "policy_loss",
        "reduction",
        "monitor",
        "regularizer",
    ],
}
ROW = re.compile(r"^\| `(\w+)`[^|]*\| (.*) \|$", re.MULTILINE)
BLOCK = re.compile(r"^```(yaml|python)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ONLINE = {
    name: (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for name in ("online", "rewards", "online_options", "online_sampling", "curves", "token_rewards", "conversations")
}
ALGORITHMS = (DOCS / "algorithms.md").read_text(encoding="utf-8")
WHOLE, *OTHERS = [yaml.safe_load(block) for _, _, block in BLOCK.findall(ALGORITHMS)]
BLOCKS = [
    (name, yaml.safe_load(block))
    for name, text in ONLINE.items()
    for kind, _, block in BLOCK.findall(text)
    if kind == "yaml"
]
OPTIONS = [
    (name, yaml.safe_load(words)) for name, text in ONLINE.items() for words in re.findall(r"`(\w+: [\[{][^`]*)`", text)
]


@pytest.mark.parametrize(("guide", "kind"), [(guide, kind) for guide, kinds in GUIDES.items() for kind in kinds])
def test_the_guide_names_every_bundled_component(guide: str, kind: str) -> None:
    text = (DOCS / f"{guide}.md").read_text(encoding="utf-8").partition("## Components")[2].partition("##")[0]
    named = [name for of, names in ROW.findall(text) if of == kind for name in re.findall(r"`(\w+)`", names)]
    bundled = [c.name for c in registry().describe() if c.kind == kind and c.plugin.distribution == DISTRIBUTION]
    assert sorted(named) == sorted(bundled)


def test_the_pages_made_of_the_code_are_not_stale() -> None:
    made = pages()
    stale = [
        str(file.relative_to(DOCS)) for file, text in made.items() if not file.exists() or file.read_text() != text
    ]
    left = {file.name for file in (DOCS / "components").iterdir()} - {file.name for file in made}
    assert not stale, f"run `make docs`, which writes {', '.join(stale)} again"
    assert not left, f"no kind is called so: delete {', '.join(left)}"


def test_every_component_says_its_equation_or_work_and_where_it_is() -> None:
    for kind in KINDS:
        page = (DOCS / "components" / f"{kind}.md").read_text(encoding="utf-8")
        for part in page.split("\n## ")[1:]:
            name, blank, about, *_ = part.splitlines()
            assert not blank, name
            assert about, f"{kind} {name} has no docstring"
            assert re.search(r"^Source: `rlhf_plugins/.*\.py`, `\w+`\.$", part, re.MULTILINE), name


def with_stage(folder: Path, stage: dict[str, Any]) -> dict[str, Any]:
    """The stage as it is resolved, in the place of the guide's own."""
    reward, _, evaluate = WHOLE["stages"]
    file = folder / "recipe.yaml"
    judges = [{"stage": "reward_model", "name": name} for name in ("helpful", "safe")]
    file.write_text(yaml.safe_dump({**WHOLE, "stages": [*judges, reward, stage, evaluate]}))
    found: dict[str, Any] = check_recipe(file)["stages"][3]
    return found


def test_the_online_guides_recipe_is_what_it_says_of_defaults(tmp_path: Path) -> None:
    own, plain = with_stage(tmp_path, WHOLE["stages"][1]), with_stage(tmp_path, {"stage": "online"})
    unlike = [name for name in own if own[name] != plain[name]]
    assert unlike == ["kl", "trainer"]
    assert {**own["kl"], "coef": 0.05} == plain["kl"]


def test_the_online_guide_writes_each_algorithm_as_a_sound_recipe(tmp_path: Path) -> None:
    named = [stage["name"] for (stage,) in OTHERS]
    assert named == ["grpo", "dr_grpo", "gspo", "dapo", "rloo", "reinforce_plus_plus", "remax"]
    estimators = ["grpo" if name in ("gspo", "dapo") else name for name in named]
    assert [with_stage(tmp_path, stage)["advantage"]["use"] for (stage,) in OTHERS] == estimators


def write_code(page: str, folder: Path) -> None:
    """The Python files that a page shows."""
    for kind, file, code in BLOCK.findall(ONLINE[page]):
        if kind == "python" and file:
            (folder / file).write_text(code)


@pytest.mark.parametrize(("page", "option"), OPTIONS)
def test_an_option_that_an_online_page_shows_is_sound(page: str, option: dict[str, Any], tmp_path: Path) -> None:
    write_code(page, tmp_path)
    plain = {"stage": "online", "trainer": WHOLE["stages"][1]["trainer"]}
    assert option.keys() <= with_stage(tmp_path, {**plain, **option}).keys()


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_a_recipe_or_options_of_an_online_page_are_sound(page: str, block: dict[str, Any], tmp_path: Path) -> None:
    write_code(page, tmp_path)
    if "stages" not in block:
        test_an_option_that_an_online_page_shows_is_sound(page, block, tmp_path)
        return
    test_a_recipe_of_the_page_of_stages_is_sound(block, tmp_path)


CHAINS = [
    recipe
    for kind, _, block in BLOCK.findall((DOCS / "stages.md").read_text(encoding="utf-8"))
    if kind == "yaml" and "stages" in (recipe := yaml.safe_load(block))
]


@pytest.mark.parametrize("recipe", CHAINS)
def test_a_recipe_of_the_page_of_stages_is_sound(recipe: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(recipe))
    assert len(check_recipe(file)["stages"]) == len(recipe["stages"])


LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")


@cache
def _anchors(page: Path) -> frozenset[str]:
    text = page.read_text(encoding="utf-8")
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = (re.sub(r"[^\w\- ]", "", head.lower().strip()).replace(" ", "-") for head in heads)
    return frozenset(f"#{name}" for name in (*slugs, *re.findall(r'<a id="([^"]*)">', text)))


ROOT = DOCS.parent
PAGES = [*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("plugins/*/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    """Those of the documentation to its own pages, which are all that its site holds."""
    for name, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if name.startswith("http"):
            continue
        target = (page.parent / name if name else page).resolve()
        assert target.exists(), name
        assert target.is_file() or not page.is_relative_to(DOCS), f"{name} is a folder"
        assert target.is_relative_to(DOCS) or not page.is_relative_to(DOCS), f"{name} is no page of the site"
        assert not anchor or target.suffix != ".md" or anchor in _anchors(target), f"{name}{anchor}"


def test_a_fence_with_a_name_has_a_title_on_the_site() -> None:
    page = "```python my.py\npass\n```\n```console 2\n$ ls\n```\n"
    assert titled(page) == '```python title="my.py"\npass\n```\n```console\n$ ls\n```\n'


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_relative_to(DOCS)], ids=lambda page: page.stem)
def test_every_block_of_a_page_is_one_on_the_site(page: Path) -> None:
    fences = re.findall(r"^ *```.*$", titled(page.read_text(encoding="utf-8")), re.MULTILINE)
    assert [fence for fence in fences if not re.fullmatch(r' *```(\w+( title="[^"]+")?)?', fence)] == []
    assert len(fences) % 2 == 0


def test_the_menu_holds_every_page() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = [one for part in menu for group in part.values() for one in ([group] if isinstance(group, str) else group)]
    assert {page for page in listed if "/" not in page} == {page.name for page in DOCS.glob("*.md")}


SCANNED = [*ONLINE, "algorithms", "stages", "trainers", "trainer_options", "scaling", "reward_server", "gpu", "engine"]


@pytest.mark.parametrize("page", SCANNED)
def test_the_source_of_a_guide_fits_a_screen(page: str) -> None:
    lines = (DOCS / f"{page}.md").read_text(encoding="utf-8").splitlines()
    assert not [(number, line) for number, line in enumerate(lines, 1) if len(line) > 120]
