"""`report.json` and `report.html` of a run, however it ended. It knows when they are written, not their content."""

from __future__ import annotations

from pathlib import Path

from rlhf_plugins.contract.hookspecs import hookimpl


@hookimpl(trylast=True)
def run_finished(folder: Path) -> None:
    """Runs late, so that it reports faults of other hooks; a later hook with `trylast` finds the report."""
    from rlhf_plugins.run import reporting
    from rlhf_plugins.run.folder import RunFolder

    run = RunFolder(folder)
    reporting.write(run, reporting.build(run))
