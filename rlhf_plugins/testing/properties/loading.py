"""Properties of importing a component's module: it is quick and changes nothing for the others in the process."""

from __future__ import annotations

from typing import Any

from rlhf_plugins.testing.conformance import holds_of
from rlhf_plugins.testing.imports import SECONDS, imported
from rlhf_plugins.testing.subject import Subject, expect


def _report(subject: Subject) -> dict[str, Any]:
    """The report on its module, imported together with the others of its distribution."""
    own = subject.registry.find(subject.cls).plugin.distribution
    siblings = {each.cls.__module__ for each in subject.registry.describe() if each.plugin.distribution == own}
    return imported(tuple(sorted(siblings)))[subject.cls.__module__]


@holds_of()
def import_changes_nothing(subject: Subject) -> None:
    """Every run loads every plugin that is installed, used or not: what one changes on import, all have to bear."""
    report, words = _report(subject), f"import {subject.cls.__module__}, in a process of its own"
    expect(report["fault"] is None, words, "a module", str(report["fault"]))
    expect(not report["changed"], words, "no change of anything global", f"a change of {', '.join(report['changed'])}")


@holds_of()
def import_is_quick(subject: Subject) -> None:
    """Each plugin that is slow to import slows down every command; import inside a function what few need."""
    seconds, words = _report(subject)["seconds"], f"import {subject.cls.__module__}, after torch, scipy and ours"
    expect(seconds <= SECONDS, words, f"at most {SECONDS} s of processor time", f"{seconds:.2f} s")
