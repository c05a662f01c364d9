"""`report.json` and `report.html` of a run, however it ended, and the page while it goes on."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from rlhf_plugins.contract.hookspecs import hookimpl

EVERY = 10.0  # seconds between two pages of a run that goes on
SHARE = 50  # and this many times as long as a page took
_next: dict[Path, float] = {}  # folder -> when its next page is due


@hookimpl
def run_started(folder: Path) -> None:
    """The first page is made once the run has taken a while."""
    _next[folder] = time.monotonic() + EVERY


@hookimpl(trylast=True)
def step_logged(folder: Path) -> None:
    """Shows where the run is now and then; what cannot be written is reported when it ends."""
    if (began := time.monotonic()) < _next.get(folder, began + 1):
        return
    from rlhf_plugins.errors import RlhfError
    from rlhf_plugins.run.files import reporting
    from rlhf_plugins.run.files.folder import RunFolder

    with suppress(RlhfError):
        reporting.show(RunFolder(folder))
    now = time.monotonic()
    _next[folder] = now + max(EVERY, SHARE * (now - began))


@hookimpl(trylast=True)
def run_finished(folder: Path) -> None:
    """Runs late, so that it reports faults of other hooks; a later hook with `trylast` finds the report."""
    from rlhf_plugins.errors import ReportError
    from rlhf_plugins.run.files import reporting
    from rlhf_plugins.run.files.folder import RunFolder

    _next.pop(folder, None)
    run = RunFolder(folder)
    try:
        reporting.write(run, reporting.build(run))
    except ReportError:
        raise
    except Exception as error:  # whatever it is, the run has no report
        raise ReportError(f"{folder}: {type(error).__name__}: {error}") from error
