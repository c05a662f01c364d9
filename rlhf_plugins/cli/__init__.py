"""The command line, `rlhf`: it parses arguments and prints; the work is done in the other packages."""

from __future__ import annotations

import gc

gc.disable()  # modules leave nothing to collect, and looking for it is a tenth of the time of `rlhf --help`
from rlhf_plugins.cli.app import main  # noqa: E402

gc.enable()

__all__ = ["main"]
