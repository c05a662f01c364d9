"""Which plugins a run and a saved model were made with, and whether these are here again.

A saved reward model has `plugins.json` beside it, one entry a component: what opening it elsewhere needs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins.data.files import read_json
from rlhf_plugins.errors import PluginError
from rlhf_plugins.recipe.options import parts
from rlhf_plugins.registry.discovery import OWN_FILE, Plugin
from rlhf_plugins.registry.registry import registry as installed

if TYPE_CHECKING:
    from rlhf_plugins.registry.registry import Registry

logger = logging.getLogger(__name__)
RECORD = "plugins.json"

Opener = Callable[[str, Mapping[str, Any]], Any]


def plugins(components: Iterable[object], registry: Registry) -> list[Plugin]:
    """The plugins of components and of those that they hold, in order of use."""
    made = (part for top in components for part in parts(top))
    return list(dict.fromkeys(registry.find(type(part)).plugin for part in made))


def record(folder: Path, stage: object, registry: Registry) -> None:
    """Writes beside a saved model where each component of the stage that made it came from."""
    found = [registry.find(type(part)) for part in parts(stage)]
    entries = {f"{made.kind} {made.name}": vars(made.plugin) for made in found}
    (folder / RECORD).write_text(json.dumps(entries, indent=2) + "\n")


def opener(folder: Path, registry: Registry | None = None) -> Opener:
    """`assemble.component` for what a saved model names; it also says which plugin is missing or has changed."""
    from rlhf_plugins.recipe.assemble import component

    known, recorded = registry or installed(), _recorded(folder)

    def opened(kind: str, spec: Mapping[str, Any]) -> Any:
        if plugin := recorded.get(f"{kind} {spec['use']}"):
            for warning in changes([plugin], known, str(folder)):
                logger.warning("%s", warning)
        return component(kind, spec, known)

    return opened


def changes(needed: Iterable[Plugin], registry: Registry, who: str) -> list[str]:
    """What has another version than it had, a sentence each.

    Args:
        needed: what `who` was made with.
        registry: what is here.
        who: the run or model, as messages call it.

    Raises:
        PluginError: one is not here, broken or disabled; the message says what would bring it back.
    """
    changed = {}
    for plugin in needed:
        here = _here(plugin, registry, who)
        if here.version != plugin.version:
            what = plugin.name if plugin.distribution == OWN_FILE else plugin.distribution
            changed[what] = f"{who} was made with {what} {plugin.version}; here it is {here.version}"
    return list(changed.values())


def _here(plugin: Plugin, registry: Registry, who: str) -> Plugin:
    """The installed plugin for a recorded one: the same, or where it moved within its distribution."""
    alike = [each for each in registry.plugins if each.distribution == plugin.distribution]
    if named := [each for each in alike if each.name == plugin.name]:
        return named[0]
    for left_out in registry.unloaded:
        if (left_out.plugin.name, left_out.plugin.distribution) == (plugin.name, plugin.distribution):
            raise PluginError(f"{who} needs plugin {plugin}; {left_out}")
    if plugin.distribution == OWN_FILE:
        raise PluginError(f"{who} needs the file {plugin}; name it under `plugins:` in a recipe, or make it a package")
    if not alike:
        pip = f"`pip install {plugin.distribution}=={plugin.version}`"
        raise PluginError(f"{who} needs plugin {plugin}, which is not installed: {pip}")
    return alike[0]


def _recorded(folder: Path) -> dict[str, Plugin]:
    """The recorded plugins by `kind name`; those of an ensemble's member are in the folder above."""
    for file in (folder / RECORD, folder.parent / RECORD):
        if file.exists():
            try:
                return {key: Plugin(**entry) for key, entry in read_json(file).items()}
            except (ValueError, TypeError, AttributeError) as error:
                raise PluginError(f"{file} cannot be read: {error}") from error
    return {}
