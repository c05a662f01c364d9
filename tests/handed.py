"""What a stage handed on, as the tests of several folders look at it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_plugins.contract.run import Base
from rlhf_plugins.engine.weights.loading import load_causal, with_saved_adapter


def folder_of(specs: Mapping[str, Mapping[str, Any]]) -> Path:
    """The folder of the only policy or reward model that a stage handed on."""
    (spec,) = specs.values()
    return Path(spec["path"])


def saved_policy(base: Base, folder: Path) -> Any:
    """The model of a policy that a stage saved: an adapter on the base, or a whole model."""
    if (folder / "adapter_config.json").exists():
        return with_saved_adapter(load_causal(base), folder).eval()
    return load_causal(Base(str(folder))).eval()
