"""What every test runs under: no network, telemetry, display or GPU, one thread; and `--about`, which selects tests.

It imports nothing heavy.
"""

from __future__ import annotations

import gc
import inspect
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
    "XDG_CONFIG_HOME": os.path.join(tempfile.gettempdir(), f"rlhf-tests-{os.getpid()}"),  # none of the user's settings
    "OMP_NUM_THREADS": "1",  # `make test` runs a worker on each core
}

if not os.environ.get("RLHF_TEST_GPU"):  # most tests expect the layouts and fast paths of a CPU, and its rounding
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

gc.set_threshold(0)  # none until everything is imported and collected, which would take a third longer

settings.register_profile("house", deadline=None, max_examples=30)  # a deadline fails on a machine that is busy
settings.load_profile("house")

ROOT = Path(__file__).parent
_file: Path | None = None  # whose tests run
KIT = ROOT / "tests/testing/test_no_false_alarm.py"  # the conformance kit on every component


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--about`, which `make test K=WORD` passes on."""
    text = "files of tests with this word in their path; if there is none, the tests that name it; and the kit on it"
    parser.addoption("--about", type=_plain, metavar="WORD", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Starts what the workers share, before they are."""
    if config.getoption("numprocesses", None) and hasattr(os, "fork") and not hasattr(config, "workerinput"):
        from warm import Shared

        config.add_cleanup(Shared().close)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves other files unread: to import all of them takes longer than to run the tests of a loss."""
    word = config.getoption("about")
    return True if word and collection_path.is_file() and collection_path not in _chosen(word) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps what has the word in its path or name; where no path has it, also what has it in its source."""
    if word := config.getoption("about"):
        by_source = not _by_path(word)
        items[:] = [i for i in items if word in _plain(i.nodeid) or (by_source and word in _plain(_source(i)))]


def _plain(text: str) -> str:
    """One spelling of `plackett_luce` and `PlackettLuce`."""
    return text.replace("_", "").lower()


def _source(item: pytest.Item) -> str:
    return inspect.getsource(item.function) if isinstance(item, pytest.Function) else ""


@cache
def _chosen(word: str) -> frozenset[Path]:
    return frozenset({KIT, *(_by_path(word) or (file for file in _files() if word in _plain(file.read_text("utf-8"))))})


@cache
def _by_path(word: str) -> frozenset[Path]:
    return frozenset(file for file in _files() if word in _plain(str(file.relative_to(ROOT))))


@cache
def _files() -> tuple[Path, ...]:
    return tuple(file for folder in ("tests", "plugins") for file in (ROOT / folder).rglob("test_*.py"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium; skips where there is none. Of a module: while it runs, its thread can run no other loop."""
    import browsing

    with browsing.chromium() as browser:
        yield browser


def pytest_collection_finish(session: pytest.Session) -> None:
    """Lets the kit import packages in forks of one process that has imported what comes before a package."""
    if imports := sys.modules.get("rlhf_plugins.testing.imports"):
        from warm import FEW, Warm

        warm = Warm(libraries=FEW)
        session.config.add_cleanup(warm.close)
        imports._printed = partial(_printed, warm)


def _printed(warm: Any, words: list[str], environment: dict[str, str]) -> str:
    done = warm(*words, env=environment)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Keeps what is there at a file's first test out of garbage collection: each training ends with one."""
    global _file
    if item.path != _file:
        _file = item.path
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000)
