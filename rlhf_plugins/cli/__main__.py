"""`python -m rlhf_plugins.cli` is `rlhf`."""

from __future__ import annotations

from rlhf_plugins.cli.app import main

main()
