"""Peak memory of a block of work: of the GPU if there is one, else of this process."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

INTERVAL = 0.05  # seconds between two samples
_OPEN: list[PeakMemory] = []  # CUDA counts one peak, so nested contexts share it


def resident(process: int) -> int | None:
    """Bytes of main memory that a process has now; None where it has ended."""
    try:
        return int(psutil.Process(process).memory_info().rss)
    except psutil.Error:
        return None


def of_gpu() -> dict[str, int] | None:
    """Bytes of this process's GPU: what torch has reserved now, and the peak of what it allocated; None without a GPU.

    The peak is that of the outermost `PeakMemory`, which is the stage's.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    _note_peak()
    peak = _OPEN[0].bytes if _OPEN else int(torch.cuda.max_memory_allocated())
    return {"reserved": int(torch.cuda.memory_reserved()), "peak": peak}


class PeakMemory:
    """A context in which memory is watched; `bytes` is the peak, final once the context is left.

    On CUDA it is the peak that torch allocated, else the process's peak resident set, sampled at 20 Hz.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        import torch

        self._cuda = torch.cuda.is_available()
        if self._cuda:
            _note_peak()  # the reset below would lose it for the outer contexts
            torch.cuda.reset_peak_memory_stats()
            _OPEN.append(self)
        else:
            self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cuda:
            _note_peak()
            _OPEN.remove(self)
        else:
            self._done.set()
            self._watcher.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.bytes = max(self.bytes, process.memory_info().rss)
            if self._done.wait(INTERVAL):
                return


def _note_peak() -> None:
    """Notes the peak since the last reset in every open context."""
    import torch

    peak = int(torch.cuda.max_memory_allocated())
    for each in _OPEN:
        each.bytes = max(each.bytes, peak)
