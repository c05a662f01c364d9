"""A tiny base whose tokenizer knows the same words as any other's and numbers two of them the other way round."""

from __future__ import annotations

import json
from pathlib import Path

from rlhf_plugins.contract.run import Base
from rlhf_plugins.testing import tiny_base


def renumbered(folder: Path) -> Base:
    """Of other weights too."""
    base, file = tiny_base(folder, seed=1), folder / "tokenizer.json"
    content = json.loads(file.read_text())
    words = content["model"]["vocab"]
    words["ant"], words["gas"] = words["gas"], words["ant"]
    file.unlink()
    file.write_text(json.dumps(content))
    return base
