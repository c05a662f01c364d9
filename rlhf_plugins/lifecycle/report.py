"""`report.json` and `report.html` of a run, however it ended. It knows when they are written, not their content."""

from __future__ import annotations

from pathlib import Path

from rlhf_plugins.contract.hookspecs import hookimpl


@hookimpl(trylast=True)
def run_finished(folder: Path) -> None:
    """Runs late, so that it reports faults of other hooks; a later hook with `trylast` finds the report."""
    from rlhf_plugins.errors import ReportError
    from rlhf_plugins.run import reporting
    from rlhf_plugins.run.folder import RunFolder

    run = RunFolder(folder)
    try:
        reporting.write(run, reporting.build(run))
    except ReportError:
        raise
    except Exception as error:  # whatever it is, the run has no report
        raise ReportError(f"{folder}: {type(error).__name__}: {error}") from error
