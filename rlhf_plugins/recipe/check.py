"""Every fault of a recipe at once, each with its place; and how a recipe's file becomes an assembled run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.contract.run_kinds import Stage
from rlhf_plugins.errors import Fault, PluginError, RecipeError, nearest
from rlhf_plugins.recipe import cross_checks, members, settings, template
from rlhf_plugins.recipe import overrides as command_line
from rlhf_plugins.recipe.assemble import Assembled, Refused, assemble, named, refused_blocks
from rlhf_plugins.recipe.cross_checks import clashes
from rlhf_plugins.recipe.mapping import of_mapping
from rlhf_plugins.recipe.members import Member, is_several, taken_out
from rlhf_plugins.recipe.naming import STAGE_NAME, UNNAMEABLE, nameable
from rlhf_plugins.recipe.options import options
from rlhf_plugins.recipe.order import faulty
from rlhf_plugins.recipe.resolve import Resolver
from rlhf_plugins.recipe.schema import Recipe
from rlhf_plugins.recipe.source import Keys, Source, read
from rlhf_plugins.registry.registry import Registry
from rlhf_plugins.registry.registry import registry as installed

FindsFaults = Callable[[Assembled], Sequence[tuple[Keys, str]]]  # faults of a recipe that is sound as it is written
AnyRecipe = str | Path | Mapping[str, Any]
TWICE = "changes nothing, since a path of `sweep` sets the same: leave one of them out, or sweep the longer path last"

AGAIN = "changes nothing, since a later one sets the same: leave one of them out"


@dataclass(frozen=True)
class _Checked:
    """A recipe without a fault: its resolved values, and what was constructed of them."""

    values: dict[str, Any]
    registry: Registry
    made: Mapping[Keys, Any]


def check_recipe(recipe: AnyRecipe, overrides: Sequence[str] = (), registry: Registry | None = None) -> dict[str, Any]:
    """The resolved recipe, with every default spelled out.

    Args:
        recipe: a YAML file, whose paths are relative to its folder, or the name of a bundled recipe, or a recipe as a
            mapping; their paths, and those of overrides, are relative to the working directory.
        overrides: `a.b=value`, as on the command line.
        registry: the components by name; None: every installed one.

    Raises:
        RecipeError: it holds every fault, with its line in a file and its path in a mapping.
    """
    return _checked(recipe, overrides, registry or installed()).values


def with_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A package's own options, such as a suite of runs, with other values, which are written as those of a recipe.

    A path leads into a mapping by a key, which is made where it is missing; into a list by a number, and into one of
    stages also by the name or the kind of a stage. A component that is a bare name gets room for options.

    Args:
        values: plain values, as YAML has them; they stay as they are.
        overrides: `a.b=value`, as on the command line.

    Raises:
        RecipeError: each override that is no `a.b=value`, leads nowhere, or sets what a later one sets again.
    """
    source = of_mapping(values)
    changed = command_line.apply(source, overrides, lambda stage: _quiet_name(stage, installed()))
    if useless := command_line.replaced(source, overrides, changed):
        raise RecipeError(Fault(name, 0, name.partition("=")[0], AGAIN) for name in useless)
    return changed.values


def load_recipe(
    recipe: AnyRecipe,
    overrides: Sequence[str] = (),
    registry: Registry | None = None,
    preflight: FindsFaults | None = None,
) -> Assembled:
    """The recipe as objects, ready to run. Takes and raises what `check_recipe` does.

    Args:
        recipe: see `check_recipe`.
        overrides: see `check_recipe`.
        registry: see `check_recipe`.
        preflight: finds further faults of a recipe without any, of each member where there are several.
    """
    checked = _checked(recipe, overrides, registry or installed(), preflight)
    return assemble(checked.values, checked.registry, checked.made)


def several(recipe: AnyRecipe, overrides: Sequence[str] = ()) -> list[Member]:
    """The members of a recipe with `seeds` or `sweep`, which `check_recipe` takes; none of a plain one."""
    own = [word for word in overrides if word.partition("=")[0].partition(".")[0] in (members.SEEDS, members.SWEEP)]
    source = command_line.apply(_source(recipe)[0], own, lambda stage: None)
    if not is_several(source):
        return []
    if wrong := members.faults(source):
        raise RecipeError(source.fault(*fault) for fault in wrong)
    return members.members(source)


def named_files(recipe: AnyRecipe, overrides: Sequence[str] = ()) -> list[Path]:
    """The files with plugins that a recipe names; nothing is run, and what is wrong is left to `check_recipe`."""
    try:
        source, folder = _source(recipe)
        own = [word for word in overrides if word.partition("=")[0].partition(".")[0] == "plugins"]
        changed = command_line.apply(source, own, lambda stage: None)
    except RecipeError:
        return []
    paths = changed.values.get("plugins")
    if not isinstance(paths, list) or not all(isinstance(path, str) and nameable(path) for path in paths):
        return []
    return _plugin_files(changed, folder)


def bundled() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    package = Path(__file__).parents[1]  # an installed package holds them; a checkout has them beside it
    folders = (package / "recipes_data", package.parent / "recipes")
    folder = next((at for at in folders if at.is_dir()), package)
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find(path: str | Path) -> Path:
    """The file of a recipe, given as a path or as the name of a bundled one."""
    recipes = bundled()
    if not os.path.isfile(path) and str(path) in recipes:
        return recipes[str(path)]
    if not os.path.exists(path):  # unlike Path's, it is False for a name too long
        message = f"no such file, nor a bundled recipe of that name {nearest(Path(path).stem, recipes)}"
        raise RecipeError([Fault(str(path), 1, "", message)])
    return Path(path)


def _source(recipe: AnyRecipe) -> tuple[Source, Path]:
    """The values of a recipe, and the folder that its paths are relative to."""
    if isinstance(recipe, Mapping):
        source, name, folder = of_mapping(recipe), "recipe", Path()
    else:
        file = find(recipe)
        source, name, folder = read(file), file.stem, Path() if file != Path(recipe) else file.parent
    source.values.setdefault("output_dir", f"runs/{name}")
    return source, folder


def _checked(
    recipe: AnyRecipe, overrides: Sequence[str], registry: Registry, preflight: FindsFaults | None = None
) -> _Checked:
    """The recipe resolved and constructed, with the registry that knows the files that it names."""
    source, folder = _source(recipe)

    @cache
    def with_own() -> tuple[Registry, list[tuple[Keys, str]]]:  # which the command line may have taken out
        return _with_files(source, folder, registry)

    try:
        changed = command_line.apply(source, overrides, lambda stage: _quiet_name(stage, with_own()[0]))
    except RecipeError as error:  # a stage may be missed because its plugin is broken
        own = with_own()[1] if with_own.cache_info().currsize else []
        raise RecipeError([*(source.fault(*fault) for fault in own), *error.faults]) from error
    found, faults = _with_files(changed, folder, registry)
    if not is_several(changed):
        whole, missing = template.with_text(taken_out(changed), folder)
        return _preflighted(whole, _resolved(whole, found, folder, [*faults, *missing]), preflight)
    return _of_several(changed, lambda one: _preflighted(*_member(changed, one, found, faults, folder), preflight))


def _of_several(source: Source, checked: Callable[[Member], _Checked]) -> _Checked:
    """The first member, with `seeds` and `sweep`, once all have been checked. Raises RecipeError with every fault."""
    if wrong := members.faults(source):
        raise RecipeError(source.fault(*fault) for fault in wrong)
    sound, faults = list[_Checked](), dict[str, Fault]()
    for member in members.members(source):
        try:
            sound.append(checked(member))
        except RecipeError as error:
            found = (_in_sweep(fault, member, source) for fault in error.faults)
            faults |= {str(fault): fault for fault in found}
    if faults:
        raise RecipeError(faults.values())
    asked = {name: source.values[name] for name in (members.SEEDS, members.SWEEP) if source.values.get(name)}
    return _Checked({**sound[0].values, **asked}, sound[0].registry, sound[0].made)


def _in_sweep(fault: Fault, one: Member, source: Source) -> Fault:
    """A fault of an option that the sweep sets, at its place in the sweep."""
    for path, text in zip(one.setting, one.overrides, strict=False):
        if fault.file == command_line.file_of(text):
            return source.fault((members.SWEEP, path), f"{fault.message} (at {text})")
    return fault


def _member(
    source: Source, one: Member, registry: Registry, faults: Sequence[tuple[Keys, str]], folder: Path
) -> tuple[Source, _Checked]:
    """One member of a recipe with `seeds` or `sweep`: as it is written, and resolved."""
    changed = command_line.apply(taken_out(source), one.overrides, lambda stage: _quiet_name(stage, registry))
    if useless := command_line.replaced(source, one.overrides, changed):
        raise RecipeError(Fault(name, 0, name.partition("=")[0], TWICE) for name in useless)
    whole, missing = template.with_text(changed, folder)
    return whole, _resolved(whole, registry, folder, [*faults, *missing])


def _preflighted(source: Source, checked: _Checked, preflight: FindsFaults | None) -> _Checked:
    """The recipe as it is. Raises RecipeError with what it finds besides."""
    if preflight and (found := preflight(assemble(checked.values, checked.registry, checked.made))):
        raise RecipeError(source.fault(keys, message) for keys, message in found)
    return checked


def _with_files(source: Source, folder: Path, registry: Registry) -> tuple[Registry, list[tuple[Keys, str]]]:
    """The registry with the recipe's own plugins, whose paths become whole ones in the source; and what is wrong."""
    paths = source.values.get("plugins")
    faults: list[tuple[Keys, str]] = []
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        return registry, []  # absent, or refused with its place later
    if unnameable := [index for index, path in enumerate(paths) if not nameable(path)]:
        return registry, [(("plugins", index), UNNAMEABLE) for index in unnameable]
    source.values["plugins"] = list(map(str, _plugin_files(source, folder)))
    for index, path in enumerate(source.values["plugins"]):
        try:
            registry = registry.with_files([Path(path)])
        except PluginError as error:
            faults.append((("plugins", index), str(error)))
    return registry, faults


def _plugin_files(source: Source, folder: Path) -> list[Path]:
    """The files of plugins, relative to the folder, or where the command line names them to the working directory."""
    paths = enumerate(source.values["plugins"])
    starts = ((Path() if source.place(("plugins", index)).typed else folder, path) for index, path in paths)
    return [(start / os.path.expanduser(path)).resolve() for start, path in starts]


def _resolved(source: Source, registry: Registry, folder: Path, faults: Sequence[tuple[Keys, str]]) -> _Checked:
    """A source that is sound. Raises RecipeError holding every fault, those that are known already first."""
    resolver = Resolver(registry, source, folder)
    values = resolver.block(Recipe, source.values, ())
    start = Path() if source.place(("base",)).typed else folder
    problems = [*faults, *resolver.problems, *settings.faults(values, start)]
    bad = {keys[0] for keys, _ in problems}
    problems += [*refused_blocks(values, bad, registry), *settings.unmatched_modules(values, bad)]
    made, refused = _constructed(source, values, [keys for keys, _ in problems], registry)
    if problems or refused:
        raise RecipeError(source.fault(keys, message) for keys, message in (*problems, *refused))
    return _Checked(values, registry, made)


def _constructed(
    source: Source, values: dict[str, Any], bad: list[Keys], registry: Registry
) -> tuple[dict[Keys, Any], list[tuple[Keys, str]]]:
    """Data and stages as objects, and their faults: refused options, equal names, a wrong order, missing columns."""
    sound = [keys for keys in _components(values) if not any(at[: len(keys)] == keys for at in bad)]
    problems, names = [], []
    made_of: dict[Keys, Any] = {}
    for keys in sound:
        option = options(Recipe)[str(keys[0])]
        spec = values[str(keys[0])] if len(keys) == 1 else values["stages"][keys[1]]
        try:
            made_of[keys] = made = named(option, spec, keys, registry)
            if option.kind == "stage":
                _fits(made, keys, values, bad)
                unread = made.unread(_written(source, keys, type(made)))
                problems += [((*keys, name), message) for name, message in unread.items()]
                names.append((_name(made, keys), keys))
        except Refused as refused:
            problems.append((refused.keys, str(refused)))
    unmade = {keys: faulty(keys, values, source, registry) for keys in _components(values) if keys not in made_of}
    return made_of, [*problems, *clashes(names), *cross_checks.faults(made_of, unmade, registry)]


def _written(source: Source, keys: Keys, cls: type) -> set[str]:
    """The options that a recipe writes for a stage; a block with every option may be a run's, which keeps defaults."""
    written, known = source.values["stages"][keys[1]], options(cls)
    if not isinstance(written, Mapping):
        return set()

    def is_whole(name: str, value: Any) -> bool:
        block = known[name].block if name in known else None
        return block is not None and isinstance(value, Mapping) and value.keys() >= options(block).keys()

    return {name for name, value in written.items() if value != {} and not is_whole(name, value)}


def _fits(stage: Stage, keys: Keys, values: dict[str, Any], bad: list[Keys]) -> None:
    """Raises Refused with what a stage has against the recipe's adapter, where it says."""
    if any(at[:1] == ("adapter",) for at in bad):
        return
    options = values.get("adapter")
    try:
        stage.fits(Adapter(**options) if options else None)
    except ValueError as error:
        raise Refused(keys, error) from error


def _components(values: dict[str, Any]) -> list[Keys]:
    stages = values.get("stages") or []
    return [*([("data",)] if values.get("data") else []), *(("stages", index) for index in range(len(stages)))]


def _name(stage: Stage, keys: Keys) -> str:
    """The name of a stage. Raises Refused where it cannot name a folder."""
    name = stage.name
    if STAGE_NAME.fullmatch(name):
        return name
    message = f"the name {name!r} cannot name a folder; write letters, digits, '-', '_' and '.'"
    raise Refused(keys, ValueError(message))


def _quiet_name(stage: Any, registry: Registry) -> str | None:
    resolver, option = Resolver(registry), options(Recipe)["stages"]
    values = resolver.component(option, stage, ())
    if resolver.problems:  # the check that follows says what is wrong with the stage of this name
        written = stage.get("name") if isinstance(stage, dict) else None
        return written if isinstance(written, str) else None
    try:
        return _name(named(option, values, (), registry), ())
    except Refused:
        return None
