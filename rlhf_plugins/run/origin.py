"""What a run was started with, as its status records it, and whether it is still the same."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins import report
from rlhf_plugins.contract.rows import Data
from rlhf_plugins.data import digests
from rlhf_plugins.data.saved_steps import is_run
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe import provenance
from rlhf_plugins.registry.discovery import Plugin
from rlhf_plugins.run.files import reporting
from rlhf_plugins.run.files.difference import difference
from rlhf_plugins.run.files.folder import WENT_ON, RunFolder

if TYPE_CHECKING:
    from rlhf_plugins.recipe.assemble import Assembled
    from rlhf_plugins.registry.registry import Registry

BASE, READ, CODE = "base", "read", "code"  # entries of the status: digests of the base, of data files, of code
OTHER = "or give another output_dir"


def noted(assembled: Assembled, used: list[Plugin]) -> dict[str, Any]:
    """The digests of what the recipe names; None for a base that is not on this machine yet."""
    return {
        BASE: digests.of_base(assembled.base.path),
        READ: {name: digests.of_path(name) for name in _files(assembled.resolved)},
        CODE: _code(used, assembled.registry, assembled.resolved),
    }


def facts(assembled: Assembled, data: Data, used: list[Plugin]) -> dict[str, Any]:
    """What processes that train together must have alike: what a run notes when it starts, and its recipe."""
    recipe = {name: value for name, value in assembled.resolved.items() if name != "output_dir"}
    rows = {"rows": reporting.counted(data), "versions": report.versions()}
    return {"recipe": recipe, **rows, **noted(assembled, used)}


def note_base(folder: RunFolder, path: str) -> None:
    """Notes the base where it was downloaded since the run was started."""
    if BASE in (status := folder.status()) and status[BASE] is None:
        folder.note(**{BASE: digests.of_base(path)})


def digested(folder: RunFolder, base: Any, path: str) -> set[str]:
    """The paths of the recipe that the run was started with whose digests it noted.

    Those of a base that is what an earlier run made, which `path` does not name, are of the base of that run.
    """
    status = folder.status()
    whole = base == path and isinstance(status.get(BASE), dict)
    return {*_dict(status.get(READ)), *([str(folder.recipe().get("base"))] if whole else ())}


def refuse_other_base(folder: RunFolder, path: str) -> None:
    """Raises RunError where the files of the base are not those that the run was started with."""
    old, new = folder.status().get(BASE), digests.of_base(path)
    if isinstance(old, dict) and new is not None and (what := digests.changed(old, new)):
        raise RunError(f"{folder.path} was started with another base: {Path(path) / what}; give it back, {OTHER}")


def refuse_other_rows(folder: RunFolder, assembled: Assembled, data: Data) -> None:
    """Raises RunError where the rows or the files of a stage's data changed."""
    status = folder.status()
    old, files = _dict(status.get("data")), _changed_files(_dict(status.get(READ)), assembled.resolved)
    if old and (what := difference(old, reporting.counted(data))):
        words = [f"{name} has changed" for name in files] + [what] * (not what.startswith(reporting.DIGEST))
        message = ", ".join(words) or "they are not the same"
        raise RunError(f"{folder.path} was started with other rows: {message}; give the old rows back, {OTHER}")
    own = set(_files({"data": assembled.resolved.get("data")}))
    _refuse_any(folder, [name for name in files if name not in own])


def refuse_other_files(folder: RunFolder, recipe: Mapping[str, Any]) -> None:
    """Raises RunError where a file that the recipe's data name is not what the run was started with."""
    _refuse_any(folder, _changed_files(_dict(folder.status().get(READ)), recipe))


def _refuse_any(folder: RunFolder, changed: Sequence[str]) -> None:
    if changed:
        raise RunError(f"{folder.path} was started with another {changed[0]}; give the old file back, {OTHER}")


def recorded(folder: RunFolder) -> list[Plugin]:
    """The plugins that a run was started with."""
    try:
        return [Plugin(**each) for each in folder.status().get("plugins", ())]
    except TypeError as error:
        raise RunError(f"{folder.path}: the plugins in its status cannot be read: {error}") from error


def other_versions(folder: RunFolder, registry: Registry) -> list[str]:
    """The sentences of `otherwise`, noted for the report. Raises PluginError as it does."""
    if found := otherwise(folder, registry):
        message = [f"Went on at {reporting.now()}: {sentence}." for sentence in found]
        folder.note(**{WENT_ON: [*folder.status().get(WENT_ON, ()), *message]})
    return found


def otherwise(folder: RunFolder, registry: Registry) -> list[str]:
    """What has another version or other code than at the start, a sentence each.

    Raises:
        PluginError: a plugin is missing.
    """
    status, used = folder.status(), recorded(folder)
    found = provenance.changes(used, registry, "the run")
    old, new = _dict(status.get("versions")), report.versions()
    for name in sorted({*old, *new}) if old else ():
        if old.get(name) != new.get(name):
            found.append(f"the run was started with {name} {old.get(name, '-')}; here it is {new.get(name, '-')}")
    code = _dict(status.get(CODE))
    for name, now in _code(used, registry, folder.recipe()).items():
        if code.get(name, now) != now:
            what = name if name.startswith(os.sep) else f"plugin {name}"
            found.append(f"the code of {what} is not what the run was started with")
    return found


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _code(used: list[Plugin], registry: Registry, recipe: Mapping[str, Any]) -> dict[str, str]:
    """The digest of the file of each plugin that is not ours, and of the files whose functions a recipe names."""
    named = (text.rpartition(":")[0] for text in _texts(recipe.get("stages")))
    own = {name: Path(name) for name in named if os.path.isabs(name) and name.endswith(".py")}
    return {name: digests.digest(file) for name, file in {**registry.files(used), **own}.items() if file.is_file()}


def _changed_files(read: Mapping[str, str], recipe: Mapping[str, Any]) -> list[str]:
    """The files with another digest than recorded, by their place in the recipe."""
    here, found = list(_files(recipe)), list[str]()
    for name, was in read.items():
        moved = [place for place in here if os.path.basename(place) == os.path.basename(name)]
        places = [name] if name in here else moved or [name]
        if not any(digests.of_path(place) == was for place in places):
            found.append(places[0])
    return found


def _files(recipe: Mapping[str, Any]) -> Iterator[str]:
    """The files and folders that a recipe's `data` blocks name, but for those of runs, which hold weights."""
    for name, value in _blocks(recipe):
        if name == "data":
            yield from (text for text in _texts(value) if _is_file(text))


def _blocks(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    yield name, value
    if isinstance(value, Mapping) and name != "data":
        for key, inner in value.items():
            yield from _blocks(inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _blocks(inner)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _is_file(text: str) -> bool:
    """Whether it is the path of a file or of a folder with rows, not a word that happens to name one."""
    if os.sep in text and os.path.isdir(text):
        return not is_run(Path(text))
    return bool(Path(text).suffix or os.sep in text) and os.path.isfile(text)
