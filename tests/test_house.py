"""Holds the code to the budgets and the import directions; house.py lists them."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from statistics import median

import house
import pytest
from house import LEVELS, LIGHT, LIGHT_MODULES, PACKAGE, Source

ROOT = Path(__file__).parents[1]
FOLDERS = (PACKAGE, "plugins", "benchmarks", "docs", "tests")
BUILT = {"build", "dist", "__pycache__"}

Rule = Callable[[Source], Iterator[str]]


@cache
def sources(*folders: str) -> list[Source]:
    """Every Python file under the folders; a folder that is not there has none."""
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py")) if not BUILT & {*file.parts}]
    return [Source(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")) for file in files]


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """Their trees are millions of objects, which each garbage collection, here and of a later training, would visit."""
    gc.disable()
    yield
    sources.cache_clear()
    gc.enable()


@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps_the_rule(rule: Rule) -> None:
    broken = [fault for source in sources(*FOLDERS) for fault in rule(source)]
    assert not broken, "\n" + "\n".join(broken)


def test_half_of_the_files_have_at_most_150_lines() -> None:
    counts = [house.lines(source) for source in sources(PACKAGE)]
    assert median(count for count in counts if count > 5) <= 150


def test_half_of_the_functions_have_at_most_12_lines() -> None:
    assert median(house.length(function) for source in sources(PACKAGE) for function in source.functions) <= 12


def test_half_of_the_tests_have_at_most_15_lines() -> None:
    functions = [function for source in sources("tests") for function in source.functions]
    assert median(house.length(function) for function in functions if function.name.startswith("test_")) <= 15


def test_no_two_test_files_are_one_module() -> None:
    """A file in a folder that is no package is imported by its name alone, of two only the first."""
    files = [file for folder in ("tests", "plugins") for file in (ROOT / folder).rglob("test_*.py")]
    names = Counter(file.name for file in files if not (file.parent / "__init__.py").exists())
    assert [name for name, count in names.items() if count > 1] == []


def test_every_page_of_benchmarks_is_written_by_the_target_that_its_index_names_or_says_why_not() -> None:
    folder, makefile = ROOT / "docs" / "benchmarks", (ROOT / "Makefile").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+)\.md\]\(\1\.md\) \| (.+?) \| (.+?) \|$", (folder / "README.md").read_text(), re.M)
    (suites,) = re.findall(r"^SUITES := (.*)$", makefile, re.M)
    pages = [*(page for page, _, _ in rows), *(f"suite_{name}" for name in suites.split()), "README"]
    assert sorted(pages) == sorted(file.stem for file in folder.glob("*.md"))
    for page, by, command in rows:
        words = re.findall(r"`(.+?)(?: \S*[A-Z]{4,})?`", command)[0]
        target = re.findall(r"`make ([a-z-]+)", by)
        assert (target and f"python {words}" in _recipe(makefile, target[0])) or by == "by hand", page


def _recipe(makefile: str, target: str) -> str:
    """The lines that a target of the Makefile runs."""
    found = re.search(rf"^{target}:.*\n((?:[\t].*\n)+)", makefile, re.M)
    assert found, f"no target {target}"
    return found[1]


def test_names_in_docstrings_are_where_they_say() -> None:
    assert list(house.stale_names(sources(PACKAGE))) == []


def test_a_stale_name_is_found() -> None:
    text = '"""`data.b.f`, `data.b.A.x`, `data.c.x` and `torch.nn.Module`."""\nclass B:\n """`data.b.g`"""'
    found = [Source(f"{PACKAGE}/data/a.py", text), Source(f"{PACKAGE}/data/b.py", "from c import g\nA = f = 1")]
    assert list(house.stale_names(found)) == [f"{PACKAGE}/data/a.py:2: data.b.g is not there"]


def test_contributing_shows_the_levels() -> None:
    (chart,) = re.findall(r"^    errors\n(?:      .*\n)+", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
    shown = [sorted(re.findall(r"\w+", names)) for names in chart.split("<-")]
    assert shown == [sorted(n for n, at in LEVELS.items() if at == level) for level in range(max(LEVELS.values()) + 1)]


def test_packages_import_one_another_in_no_circle() -> None:
    assert house.package_cycle(sources(PACKAGE)) == []


def test_a_chain_of_imports_has_at_most_6_modules() -> None:
    chain = house.deepest_chain(sources(PACKAGE))
    assert len(chain) <= 6, " -> ".join(chain)


IMPORTS = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    print(*({*HEAVY} & sys.modules.keys()), name)
"""


def test_a_light_module_brings_nothing_heavy_along() -> None:
    names = [f"{PACKAGE}.{name}" for name in sorted(LIGHT_MODULES | LIGHT - {"__init__"})]
    code = IMPORTS.replace("HEAVY", repr(house.HEAVY))
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == names  # what is heavy would come before the module that imports it


BAD = [
    (house.file_too_long, "masked.py", "x = 1\n" * 401, "1: 401 lines, at most 400"),
    (house.function_too_long, "masked.py", "def f():\n" + " x = 1\n" * 80, "1: f has 81 lines, at most 80"),
    (
        house.too_many_parameters,
        "masked.py",
        "def f(a, b, c, d, /, e, *f, g, **h): ...",
        "1: f takes 8 parameters, at most 7",
    ),
    (house.unannotated, "masked.py", "def f(a: int): ...", "1: f lacks the annotation of return"),
    (
        house.unannotated,
        "masked.py",
        "class A:\n def f(self, a, *b) -> None: ...",
        "2: f lacks the annotation of a, b",
    ),
    (
        house.unannotated,
        "masked.py",
        "def f() -> None:\n async def g(**a) -> None: ...",
        "2: g lacks the annotation of a",
    ),
    (
        house.wrong_direction,
        "novel/a.py",
        "",
        "1: novel is on no level: add it to LEVELS in tests/house.py",
    ),
    (
        house.wrong_direction,
        "data/a.py",
        "from ..recipe import x",
        "1: data (level 2) imports recipe (level 5)",
    ),
    (
        house.wrong_direction,
        "data/__init__.py",
        "from .. import cli",
        "1: data (level 2) imports cli (level 8)",
    ),
    (
        house.wrong_direction,
        "errors.py",
        "def f():\n import rlhf_plugins.data",
        "2: errors (level 0) imports data (level 2)",
    ),
    (
        house.wrong_direction,
        "data/a.py",
        "from rlhf_plugins import run_recipe",
        "1: rlhf_plugins.run_recipe goes through the package's front; import the module itself",
    ),
    (
        house.forbidden_import,
        "engine/a.py",
        "from rlhf_plugins.registry.registry import x",
        "1: engine imports the registry; it is given built objects",
    ),
    (
        house.forbidden_import,
        "recipe/a.py",
        "from rlhf_plugins import stages",
        "1: recipe imports stages by name; the registry loads them",
    ),
    (
        house.forbidden_import,
        "stages/a.py",
        "from ..components.a import x",
        "1: stages imports components by name; the registry loads them",
    ),
    (
        house.forbidden_import,
        "evaluate/a.py",
        "def f():\n from trl.models import x",
        "2: evaluate imports trl; only stages and trainers may",
    ),
    (
        house.heavy_import,
        "cli/a.py",
        "try:\n import torch.nn\nfinally: ...",
        "2: cli imports torch when it is imported; import it where used",
    ),
    (
        house.heavy_import,
        "__init__.py",
        "class A:\n from trl import x",
        "2: __init__ imports trl when it is imported; import it where used",
    ),
    (
        house.pickling,
        "data/a.py",
        "from pickle import loads",
        "1: imports pickle.loads; weights go through safetensors",
    ),
    (
        house.pickling,
        "data/a.py",
        "import torch\nf = torch.load",
        "2: uses torch.load; weights go through safetensors",
    ),
    (
        house.pickling,
        "data/a.py",
        "from torch import save",
        "1: imports torch.save; weights go through safetensors",
    ),
    (
        house.printing,
        "cli/a.py",
        "import typer\ntyper.echo(name)",
        "2: calls typer.echo; print with rlhf_plugins.cli.echo",
    ),
    (
        house.guessing,
        "run/a.py",
        "x = y\nhasattr(stage, 'trainer')",
        "2: guesses trainer, which a base class declares",
    ),
    *(
        (house.nounless, "data/a.py", text, f"{line}: a docstring leaves out its noun: {words}")
        for text, line, words in (
            ('"""Of each\nitem."""', 1, "Of each"),
            ('class A:\n """Those of it."""', 2, "Those of it."),
            ('class A:\n def f() -> str:\n  """As JSON."""', 3, "As JSON."),
            ('async def f() -> str:\n """That of a key."""', 2, "That of a key."),
        )
    ),
]


@pytest.mark.parametrize(("rule", "file", "text", "fault"), BAD)
def test_a_planted_fault_is_found(rule: Rule, file: str, text: str, fault: str) -> None:
    assert list(rule(Source(f"{PACKAGE}/{file}", text))) == [f"{PACKAGE}/{file}:{fault}"]


GOOD = [
    ("errors.py", "x = 1\n" * 400),
    ("errors.py", "def f() -> None:\n" + " x = 1\n" * 79),
    (
        "engine/a.py",
        "class A:\n def f(self, a: int, b: int, c: int, d: int, e: int, *f: int, **g: int) -> None: ...",
    ),
    (
        "engine/a.py",
        "import torch\nfrom ..errors import x\nfrom .b import y\nfrom rlhf_plugins import errors",
    ),
    ("trainers/a.py", "from trl import x\nfrom rlhf_plugins.engine import y"),
    ("stages/a.py", "from . import b\nfrom rlhf_plugins.registry.registry import x"),
    ("cli/a.py", "if TYPE_CHECKING:\n import torch\ndef f() -> None:\n import torch"),
    ("data/a.py", "from safetensors.torch import save, load\nload(x)"),
    ("data/a.py", 'def f() -> None:\n """Offers what is there. Of each, one."""'),
]


@pytest.mark.parametrize(("file", "text"), GOOD)
def test_good_source_breaks_no_rule(file: str, text: str) -> None:
    assert [fault for rule in house.RULES for fault in rule(Source(f"{PACKAGE}/{file}", text))] == []


def test_a_plugin_imports_the_front_alone() -> None:
    front = "from rlhf_plugins import hookimpl\nfrom rlhf_plugins.testing import x\n"
    fault = "plugins/a/b.py:3: a plugin imports rlhf_plugins.engine.y; import from rlhf_plugins itself"
    source = Source("plugins/a/b.py", front + "from rlhf_plugins.engine import y")
    assert list(house.private_import(source)) == [fault]


def test_docstrings_of_plugins_have_a_noun_and_those_of_tests_may_go_without() -> None:
    text = '"""Of each item."""'
    fault = "plugins/a/rlhf_a/b.py:1: a docstring leaves out its noun: Of each item."
    assert list(house.nounless(Source("plugins/a/rlhf_a/b.py", text))) == [fault]
    assert list(house.nounless(Source("plugins/a/tests/test_b.py", text))) == []


def test_a_circle_of_packages_is_found() -> None:
    one = Source(f"{PACKAGE}/data/a.py", "def f():\n from rlhf_plugins.engine import x")
    other = Source(f"{PACKAGE}/engine/b.py", "from ..data.c import y")
    assert set(house.package_cycle([one, other])) == {"data", "engine"}
    assert house.package_cycle([one]) == []


def test_the_deepest_chain_follows_what_runs_at_import() -> None:
    top = Source(
        f"{PACKAGE}/stages/a.py",
        "from rlhf_plugins.engine.b import x\ndef f():\n import rlhf_plugins.arithmetic.masked",
    )
    middle = Source(f"{PACKAGE}/engine/b.py", "from .. import errors")
    bottom = [Source(f"{PACKAGE}/{name}.py", "") for name in ("errors", "masked")]
    assert house.deepest_chain([top, middle, *bottom]) == [
        f"{PACKAGE}.{name}" for name in ("stages.a", "engine.b", "errors")
    ]
