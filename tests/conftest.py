"""What every test runs under: no network, telemetry or display, and two threads. It imports nothing heavy."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait by spinning slow a shared machine down several times
}

settings.register_profile("house", deadline=None, max_examples=30)  # a deadline fails on a machine that is busy
settings.load_profile("house")
