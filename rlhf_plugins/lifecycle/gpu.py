"""The memory of the GPU in `status.json` while a run goes on: of a process's GPU only the process itself knows.

It is no number of the training: it is in no result and no curve.
"""

from __future__ import annotations

import time
from pathlib import Path

from rlhf_plugins.contract.hookspecs import hookimpl

EVERY = 2.0  # seconds between two notes
_next: dict[Path, float] = {}  # folder -> when its next note is due


@hookimpl
def step_logged(folder: Path) -> None:
    """Notes it now and then."""
    if (now := time.monotonic()) < _next.get(folder, now):
        return
    from rlhf_plugins.run.files.folder import GPU, RunFolder
    from rlhf_plugins.run.memory import of_gpu

    _next[folder] = now + EVERY
    if found := of_gpu():
        RunFolder(folder).note(**{GPU: found})


@hookimpl
def run_finished(folder: Path) -> None:
    """Takes the note back: a process that ended holds no memory."""
    from rlhf_plugins.run.files.folder import GPU, RunFolder

    if _next.pop(folder, None) is not None and GPU in (run := RunFolder(folder)).status():
        run.note(**{GPU: None})
