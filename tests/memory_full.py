"""Memory that runs out: a dispatch mode that raises as CUDA does, at one operation or at batches of too many tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Full(TorchDispatchMode):
    """Raises at one operation, counted from 0, or at embeddings of more numbers than a limit; and counts them."""

    def __init__(self, at: int = -1, most: int | None = None) -> None:
        super().__init__()
        self.at, self.most, self.count, self.failed = at, most, 0, False
        self.sums: list[int] = []  # operations that add up numbers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place, self.count = self.count, self.count + 1
        if place == self.at and func is not torch.ops.aten.add_.Tensor:  # which allocates nothing
            self.failed = True
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        if func is torch.ops.aten.stack.default and all(each.dim() == 0 for each in args[0]):
            self.sums += [place, place + 1]
        result = func(*args, **(kwargs or {}))
        embeds = func is torch.ops.aten.embedding.default
        if self.most is not None and embeds and result.numel() > self.most:
            self.failed = True
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")
        return result
