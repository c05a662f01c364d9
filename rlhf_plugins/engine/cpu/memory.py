"""Makes the C library keep the memory that a training step frees."""

from __future__ import annotations

import ctypes
import sys

import torch

from rlhf_plugins.engine import KEPT_MEMORY

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's parameters
KEPT, LARGEST = 2**30, 2**25  # bytes: kept in all, and the largest allocation that may be kept


def keep_freed_memory_of_process(device: torch.device) -> bool:
    """Makes glibc keep freed memory for the next tensor, in the whole process and for good; returns whether it does.

    Otherwise each step returns it to the system, and the system clears and maps every page that it gives back. The peak
    does not grow, since all that is kept was in use at one time. Nothing happens where the C library is not glibc, or
    where `KEPT_MEMORY` is not active on the device that trains.
    """
    if sys.platform != "linux" or not KEPT_MEMORY.active(torch.empty(0, device=device)):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    options = ((M_TRIM_THRESHOLD, KEPT), (M_MMAP_THRESHOLD, LARGEST))
    return set_option is not None and all(set_option(*option) for option in options)
