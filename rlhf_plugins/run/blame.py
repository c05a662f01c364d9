"""Finds the plugin that caused a failure, its version and the line, and saves the failed call."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rlhf_plugins.errors import ComponentError, PluginError

if TYPE_CHECKING:
    from rlhf_plugins.recipe.assemble import Assembled
    from rlhf_plugins.registry.discovery import Plugin
    from rlhf_plugins.registry.registry import Registry


def of_component(error: ComponentError, folder: Path, assembled: Assembled) -> str:
    """The message for a failed component; its call is saved in the folder if it can be repeated."""
    from rlhf_plugins.contract.guards import maker
    from rlhf_plugins.run.replay import repeatable, save

    registry, culprit = assembled.registry, maker(error.call.component)
    try:
        found = registry.find(type(culprit))
    except PluginError:  # a class that no plugin registered, such as a script's own
        return str(error)
    message = f"{found.kind} {found.name} of plugin {found.plugin}: {error}"
    within = innermost(error.__cause__, registry)
    if within and within[0] != found.plugin:
        message += f"; it happened in plugin {within[0]} ({within[1]})"
    try:
        file = save(error, folder, message, list(assembled.resolved.get("plugins", ())), registry)
        return f"{message}; do it again with: rlhf plugins replay {file}" if repeatable(file) else message
    except Exception as failure:  # whatever it is, it must not hide the first one
        return f"{message}; the call could not be saved: {type(failure).__name__}: {failure}"


def of_plugin(error: BaseException, registry: Registry) -> str:
    """` in plugin NAME (...), file:line` where an error came through a plugin's code, or nothing."""
    within = innermost(error, registry)
    return f" in plugin {within[0]}, {within[1]}" if within else ""


def innermost(error: BaseException | None, registry: Registry) -> tuple[Plugin, str] | None:
    """The plugin in whose code an error was raised or passed last on its way up from there, and the line."""
    found, trace = None, error.__traceback__ if error else None
    while isinstance(trace, TracebackType):
        frame, line, trace = trace.tb_frame, trace.tb_lineno, trace.tb_next
        if plugin := registry.owner(frame.f_globals.get("__name__", "")):
            found = plugin, f"{frame.f_code.co_filename}:{line}"
    return found
