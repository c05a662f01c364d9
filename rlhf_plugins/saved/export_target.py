"""Where an exported model is written, and in which precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_plugins.errors import RunError, nearest

if TYPE_CHECKING:
    import torch

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def dtype_of(name: str | None) -> torch.dtype | None:
    """`bf16`, `fp16` or `fp32` as torch has it. Raises RunError for another."""
    import torch

    if name is None:
        return None
    if name not in DTYPES:
        raise RunError(f"--dtype: unknown precision {name!r} {nearest(name, DTYPES)}")
    found: torch.dtype = getattr(torch, DTYPES[name])
    return found


def empty_folder(out: Path) -> None:
    """Raises RunError unless the folder is new or empty."""
    try:
        blocked = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error}") from error
    if blocked:
        raise RunError(f"{out}: exists and is not an empty folder; name another")
