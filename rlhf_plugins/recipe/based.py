"""A base that is a policy of another run: `runs/a`, `runs/a#dpo`, or the folder of an adapter. It loads no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf_plugins.contract.run import MARK, Adapter, Base, Weights
from rlhf_plugins.data.digests import RESULT
from rlhf_plugins.errors import RunError, known

RUN = ("recipe.yaml", "status.json")  # a folder with both is a run's
NAME = "base"  # of these weights, as `from` and `reference` call them


def is_policy(words: str) -> bool:
    """Whether a base is a run, a stage of one, or an adapter, rather than a whole model."""
    folder = Path(words)
    return "#" in words or _is_run(folder) or (folder / "adapter_config.json").is_file()


def weights(base: Base) -> Weights:
    """Where the weights of a base are that is written as a recipe writes it.

    An adapter is trained further, as it is: its rank and modules are its own, and so is the quantization of its base.

    Raises:
        RunError: it is not there, it is no saved model, or other options of the adapter are asked for.
    """
    if not is_policy(base.path):
        return Weights(NAME, base)
    folder = _folder(base.path)
    if not (folder / "adapter_config.json").is_file():
        return Weights(NAME, replace(base, path=str(folder)))
    from rlhf_plugins.engine.policy import saved_base

    saved = saved_base(folder, base.trust_remote_code)
    if base.quantization not in (None, saved.quantization):
        how = saved.quantization or "unquantized"
        raise RunError(f"{base.path}: its adapter was trained on a base that is {how}, so leave `quantization` out")
    if base.adapter is None:
        if saved.quantization:
            raise RunError(f"{base.path}: its base is {saved.quantization}, so that all weights cannot be trained")
        return Weights(NAME, replace(saved, adapter=None), folder)
    if base.adapter not in (Adapter(), saved.adapter):
        raise RunError(f"{base.path}: its adapter is trained further as it is, so leave `adapter` out, or write none")
    return Weights(NAME, saved, folder)


def _folder(words: str) -> Path:
    """The folder of a policy. Raises RunError where there is none."""
    path, _, name = (words, "", "") if Path(words).exists() else words.rpartition("#")
    root = Path(path)
    if not root.is_dir():
        near = [str(each) for each in root.parent.glob("*") if _is_run(each)]
        raise RunError(f"there is no folder {path!r} {known(path, near)}")
    if not _is_run(root):
        if name:
            raise RunError(f"{path!r} is no run, so it has no stage {name!r}")
        return root
    policies = _policies(root)
    if not policies:
        raise RunError(f"no finished stage of {path!r} made a policy")
    fits = [one for one in policies if not name or name in one]
    if not fits:
        names = {stage: None for _, stage, _ in policies}
        raise RunError(f"no finished stage of {path!r} made a policy {name!r} {known(name, names)}")
    spec = policies[fits[-1]]
    if "path" not in spec:
        raise RunError(f"{words}: is a {spec.get('use')}, and only a saved policy can be trained")
    if spec["path"] is None:
        raise RunError(f"{words}: is the base of that run, so write that one")
    return root / str(spec["path"]).removeprefix(MARK)


def _policies(root: Path) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    """The policies of a run by their name, their stage's, and both, in order; the recipe's own stages come last."""
    found: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    files = sorted(root.rglob(RESULT), key=lambda file: (file.parent.parent == root, file.parts))
    for file in files:
        try:
            result = json.loads(file.read_bytes())
            stage, made = result["name"], result["policies"].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{file} is not the result of a stage: {error}") from error
        found |= {(name, stage, f"{stage}/{name}"): spec for name, spec in made}
    return found


def _is_run(folder: Path) -> bool:
    return all((folder / name).is_file() for name in RUN)
