"""Counts what would be launched on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Launches(TorchDispatchMode):
    """Counts operations that compute anything, and the casts of floating-point numbers among them."""

    def __init__(self) -> None:
        super().__init__()
        self.all, self.casts = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.all += not func.is_view
        if func is torch.ops.aten._to_copy.default:
            self.casts += args[0].is_floating_point() and (kwargs or {}).get("dtype") not in (None, args[0].dtype)
        return func(*args, **(kwargs or {}))
