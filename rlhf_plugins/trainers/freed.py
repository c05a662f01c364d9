"""What the C library does with memory that a training has freed: it keeps it. It knows no tensors."""

from __future__ import annotations

import ctypes
import sys

TRIM, MAP = -1, -3  # glibc's names are M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
MOST, LARGEST = 2**30, 2**25  # bytes that it keeps, and the largest piece that it may keep


def keep_freed() -> bool:
    """Has glibc keep freed memory for the next tensor, where each step would give it back and ask for it again.

    A page that comes back from the system is cleared and mapped anew. What is kept was in use at one time already, so
    that the peak is what it was. Returns whether this is such a system; on others nothing happens.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return set_option is not None and all(set_option(*option) for option in ((TRIM, MOST), (MAP, LARGEST)))
