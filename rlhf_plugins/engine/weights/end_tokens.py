"""Tokens that end a policy's responses beside those of its base, kept as transformers keeps them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_plugins.data.file_names import ADAPTER
from rlhf_plugins.data.files import read_json
from rlhf_plugins.errors import RunError

ENDS = "generation_config.json"  # beside a saved adapter; a whole model has its own, which transformers reads
EOS = "eos_token_id"


def note_ends(folder: Path, ends: Sequence[int]) -> None:
    """Writes beside a saved adapter which tokens end its responses."""
    (folder / ENDS).write_text(json.dumps({EOS: list(ends)}, indent=2) + "\n")


def hand_on_ends(start: Path | None, folder: Path) -> None:
    """Gives a saved adapter without a note of its own that of the policy that it is made of, where there is one."""
    if start is not None and _has_note(start) and (folder / ADAPTER).exists() and not (folder / ENDS).exists():
        shutil.copyfile(start / ENDS, folder / ENDS)


def noted_ends(folder: Path | None) -> list[int]:
    """The tokens that are noted beside a saved adapter; none without a note. Raises RunError where it is damaged."""
    if folder is None or not _has_note(folder):
        return []
    try:
        return _listed(read_json(folder / ENDS)[EOS])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / ENDS}: cannot be read: {error}") from error


def with_ends(model: Any, folder: Path | None) -> Any:
    """The model, whose responses end also with the tokens that are noted beside the adapter in a folder."""
    if noted := noted_ends(folder):
        own = model.generation_config.eos_token_id
        model.generation_config.eos_token_id = sorted({*noted, *([] if own is None else _listed(own))})
    return model


def _has_note(folder: Path) -> bool:
    return (folder / ADAPTER).exists() and (folder / ENDS).exists()


def _listed(given: Any) -> list[int]:
    return [int(token) for token in given] if isinstance(given, list) else [int(given)]
