"""A base that is a policy of another run: `runs/a`, `runs/a#dpo`, or the folder of an adapter. It loads no model."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rlhf_plugins.contract.run import Adapter, Base, Weights
from rlhf_plugins.data.file_names import ADAPTER, POLICY
from rlhf_plugins.data.other_run import bases_beside, saved_folder
from rlhf_plugins.data.saved_steps import FOLDER, is_run, not_whole
from rlhf_plugins.errors import RunError, nearest

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
CLOSE = 0.8  # how like a folder's name one is that is a slip rather than a name on the hub
NAME = "base"  # of these weights, as `from` and `reference` call them
STAGE_NUMBER = re.compile(r"^\d+-")  # of a stage's folder


def no_model(path: str, start: Path = Path()) -> str:  # noqa: B008 (the working directory)
    """Why a path or a name, relative to `start`, can be no model; empty where it is one, or may be one on the hub."""
    from rlhf_plugins.sandbox import POLICIES

    if path in POLICIES:
        return ""
    if os.path.isdir(path) and (reason := not_whole(Path(path))):
        return f"the folder {path!r}: {reason}"
    if os.path.isfile(os.path.join(path, "config.json")):
        return _two_parts(Path(path, "config.json"))
    if os.path.exists(path):
        return f"the folder {path!r} holds no config.json, so it is no model"
    folder, _, name = path.rpartition("/")
    if not HUB_NAME.fullmatch(path):
        return f"no folder {path!r}, and that is not a hub name such as `owner/model`"
    beside = [*([] if folder else POLICIES), *bases_beside(path, start)]
    if folder:
        has = f"there is a folder {folder!r}, and no model or run {name!r} in it {nearest(path, beside)}"
        return has if os.path.isdir(start / folder) else ""
    near = get_close_matches(path, beside, n=1, cutoff=CLOSE)
    if not near or _downloaded(path):
        return ""
    return f"there is no folder {path!r} (did you mean {near[0]}?); a model on the hub is written `owner/model`"


def positions(path: str) -> int | None:
    """The most tokens that a model in a folder takes; None where its configuration does not say, or is on the hub."""
    found = _configuration(Path(path, "config.json"))
    text = found.get("text_config", found)
    most = text.get("max_position_embeddings") if isinstance(text, dict) else None
    return most if isinstance(most, int) else None


def _configuration(config: Path) -> dict[str, Any]:
    """A model's configuration; empty for one that cannot be read, which is opened later, and says so."""
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _two_parts(config: Path) -> str:
    """Why a model is none of these here, by its configuration."""
    both = _configuration(config).get("is_encoder_decoder", False)
    return (
        f"{str(config.parent)!r} is an encoder-decoder, such as T5; a base is a decoder or an encoder" if both else ""
    )


def _downloaded(name: str) -> bool:
    """Whether the hub's cache on this machine has the model."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def is_policy(words: str) -> bool:
    """Whether a base is a run, a stage of one, or an adapter, rather than a whole model."""
    folder = Path(words)
    return "#" in words or is_run(folder) or os.path.isfile(folder / ADAPTER)


def weights(base: Base) -> Weights:
    """Where the weights of a base are that is written as a recipe writes it.

    An adapter is trained further, as it is: its rank and modules are its own, and so is the quantization of its base.

    Raises:
        RunError: it is not there, it is no saved model, or other options of the adapter are asked for.
    """
    if not is_policy(base.path):
        return Weights(NAME, base)
    folder = saved_folder(base.path)
    if not (folder / ADAPTER).is_file():
        return Weights(NAME, replace(base, path=str(folder)))
    from rlhf_plugins.engine.policy import saved_base

    saved = saved_base(folder, base.trust_remote_code)
    if absent := no_model(saved.path):
        raise RunError(f"{base.path}: the base of its adapter is not here: {absent}")
    saved = replace(saved, chat=base.chat or saved.chat, lengths=base.lengths)
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


def below(base: Weights) -> Weights | None:
    """The model that the base of a recipe was trained from, where that base is a policy, and the model is here.

    It is the base of an adapter, and of a whole model the one that is noted beside it.
    """
    if base.folder is not None:
        return Weights(NAME, base.base)
    folder = Path(base.base.path)
    if not (folder / POLICY).is_file():
        return None
    from rlhf_plugins.engine.policy import saved_base

    saved = saved_base(folder, base.base.trust_remote_code)
    if no_model(saved.path):
        return None
    return Weights(NAME, replace(base.base, path=saved.path, quantization=saved.quantization))


def called(base: Weights) -> str:
    """What a policy that is a recipe's base is called beside the model below it: `dpo`, `dpo@20`, or its folder."""
    folder = (base.folder or Path(base.base.path)).resolve()
    stage, step = STAGE_NUMBER.sub("", folder.parent.name), FOLDER.fullmatch(folder.name)
    return f"{stage}@{step[1]}" if step else stage if folder.name == "model" else folder.name
