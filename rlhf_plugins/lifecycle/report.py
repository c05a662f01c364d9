"""`report.json` and `report.html` of a run, however it ended. It knows when they are written, not what is in them."""

from __future__ import annotations

from pathlib import Path

from rlhf_plugins.contract.hookspecs import hookimpl


@hookimpl(trylast=True)
def run_finished(folder: Path) -> None:
    """Late, so that what others leave is told too; one that is registered later and says `trylast` finds the report."""
    from rlhf_plugins.run import reporting
    from rlhf_plugins.run.folder import RunFolder

    run = RunFolder(folder)
    reporting.write(run, reporting.build(run))
