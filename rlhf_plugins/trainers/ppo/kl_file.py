"""The state of a KL at the end of a training, in a file: the coefficient, and what its component remembers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rlhf_plugins.contract.guards import named
from rlhf_plugins.data.digests import refuse_changed
from rlhf_plugins.data.file_names import KL
from rlhf_plugins.engine.packing import Tensors, pack, unpack
from rlhf_plugins.errors import RunError
from rlhf_plugins.reward_models.composed import has_state

STATE = "state"  # the key of the metadata


def save(term: Any, coef: float, stage: Path) -> None:
    """Writes the state of a component of kind `kl` and its coefficient into a stage's folder."""
    tensors: Tensors = {}
    own = term.state_dict() if has_state(term) else None
    state = {"of": named(term), "coef": coef, "own": pack(own, tensors)}
    save_file(tensors, stage / KL, {STATE: json.dumps(state)})


def load(term: Any, stage: Path) -> float:
    """Gives a KL what another remembered, and returns the coefficient.

    Raises:
        RunError: the stage left none, it cannot be read, or it is another component's.
    """
    file = stage / KL
    if not file.is_file():
        raise RunError(f"carry: kl: {stage} holds no {KL}, which an online stage with a `kl` leaves")
    refuse_changed(file)
    try:
        with safe_open(file, "pt") as stored:
            state = json.loads(stored.metadata()[STATE])
            tensors = {name: stored.get_tensor(name) for name in list(stored.keys())}
        maker, coef, own = state["of"], float(state["coef"]), unpack(state["own"], tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file}: cannot be read: {error}") from error
    if maker != named(term):
        raise RunError(f"{file}: is the state of {maker}, and not of {named(term)}")
    if has_state(term):
        term.load_state_dict(own)
    return coef
