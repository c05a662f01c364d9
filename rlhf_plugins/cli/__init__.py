"""The command line, `rlhf`: it parses and prints, and leaves the work to `recipe`, `registry` and `report`."""

from __future__ import annotations

from rlhf_plugins.cli.app import main

__all__ = ["main"]
