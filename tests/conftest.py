"""Fixtures of several folders: processes, a registry of stubs, and recipes that are written."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stubs
from warm import Warm

from rlhf_plugins.registry.discovery import found
from rlhf_plugins.registry.registry import Plugin, Registry

Write = Callable[..., Path]
RECIPE = "base: sandbox\ndata: rows\nstages:\n  - {stage: make, name: first}\n  - {stage: make, name: second}\n"


@pytest.fixture(scope="session")
def python() -> Iterator[Warm]:
    """`python -m ...` and `python -c ...`, in forks of one process that has imported the libraries."""
    warm = Warm()
    yield warm
    warm.close()


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Restores the signals that a process which was started in the background inherits as ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def registry() -> Registry:
    """A registry that holds the stubs, and our own plugins that watch a run."""
    made = Registry().admit(found(("rlhf_plugins.lifecycle",), "nobody's"))
    made.register(stubs, Plugin("stubs", "stub-package", "1.0"))
    return made


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a recipe into the scratch folder, which becomes the working directory."""
    monkeypatch.chdir(tmp_path)

    def put(content: str | bytes = RECIPE, name: str = "recipe.yaml") -> Path:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return Path(name)

    return put


@pytest.fixture
def checked(write: Write, registry: Registry) -> Callable[..., dict[str, Any]]:
    """Resolves the text of a recipe against the stubs."""
    from rlhf_plugins.recipe.check import check_recipe

    return lambda content=RECIPE, *overrides: check_recipe(write(content), overrides, registry)
