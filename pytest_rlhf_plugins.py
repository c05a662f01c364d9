"""Makes `pytest` run the conformance kit for the components of the package under test.

A `pyproject.toml` that registers plugins of ours is collected like a test file: one item for each component and
property. In every other run it reads nothing but the `pyproject.toml` files on pytest's way; it is outside the
package `rlhf_plugins`, so that nothing of ours is imported there.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rlhf_plugins.testing.conformance import Property
    from rlhf_plugins.testing.subject import Subject

PYPROJECT, GROUP = "pyproject.toml", "rlhf_plugins"


def pytest_configure(config: pytest.Config) -> None:
    """Adds the package's own pyproject.toml where its test folders alone would be collected."""
    config.addinivalue_line("markers", "slow: takes seconds to minutes, such as the kit's small trainings")
    own = config.rootpath / PYPROJECT
    if config.args_source is config.ArgsSource.TESTPATHS and _registers(own):
        config.args.append(str(own))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A pyproject.toml with entry points of the group `rlhf_plugins`."""
    if file_path.name == PYPROJECT and _registers(file_path):
        return Package.from_parent(parent, path=file_path)
    return None


def _registers(pyproject: Path) -> bool:
    return bool(_read(pyproject).get("project", {}).get("entry-points", {}).get(GROUP))


def _read(pyproject: Path) -> dict[str, Any]:
    try:
        text = pyproject.read_text(encoding="utf-8")
        return tomllib.loads(text) if GROUP in text else {}
    except (OSError, ValueError):
        return {}


class Package(pytest.File):
    """The components that one pyproject.toml registers; `[tool.rlhf_plugins.options]` says what to try them with."""

    def collect(self) -> Iterator[pytest.Item]:
        """An item for each component and property; one that fails where nothing is registered."""
        from rlhf_plugins.testing import conformance

        said = _read(self.path)
        name = said["project"].get("name", "")
        yield Loads.from_parent(self, name="loads", distribution=name)
        for subject in conformance.subjects(name, said.get("tool", {}).get(GROUP, {}).get("options", {})):
            for one in conformance.properties_of(subject.kind):
                label = f"{subject.kind}.{subject.name}.{one.name}"
                item = Holds.from_parent(self, name=label, subject=subject, property_=one)
                if one.trains:
                    item.add_marker("slow")
                yield item


class Loads(pytest.Item):
    """That the package is installed and its plugins load."""

    def __init__(self, *, distribution: str, **given: Any) -> None:
        super().__init__(**given)
        self.distribution = distribution

    def runtest(self) -> None:
        """Fails with the reason."""
        from rlhf_plugins.testing.conformance import why_empty

        if reason := why_empty(self.distribution):
            pytest.fail(reason, pytrace=False)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where, and what is reported."""
        return self.path, None, f"{self.distribution}: loads"


class Holds(pytest.Item):
    """That one property holds of one component."""

    def __init__(self, *, subject: Subject, property_: Property, **given: Any) -> None:
        super().__init__(**given)
        self.subject, self.property = subject, property_

    def runtest(self) -> None:
        """Fails with the finding; skipped where the component refuses the run that it is tried with."""
        from rlhf_plugins.testing.conformance import Finding, outcome

        found = outcome(self.subject, self.property)
        if isinstance(found, Finding):
            pytest.fail(str(found), pytrace=False)
        if found is not None:
            pytest.skip(f"not tried, since it refuses the run: {found}")

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where, and what is reported."""
        return self.path, None, self.name
