"""How the threads of a computation wait for each other; it must be set before torch is loaded."""

from __future__ import annotations

import os

# OpenMP's threads spin at the end of each parallel part, for milliseconds by default. A neighbour on the machine then
# loses its core to a thread that does nothing, and the thread that is waited for gets none: with ten busy processes on
# two cores, a training step took 4 to 7 times as long as with these. A thousand turns are microseconds.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}


def wait_asleep() -> None:
    """Has threads sleep while they wait, unless the environment says how they should."""
    if not WAITING.keys() & os.environ.keys():
        os.environ.update(WAITING)
