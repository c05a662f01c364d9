"""The rules of the house as functions of a source file.

A rule takes a `Source` and yields what breaks it, each as `file:line: what`.
"""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

PACKAGE = "rlhf_plugins"
LEVELS = {
    name: level
    for level, names in enumerate(
        (
            "errors",
            "contract arithmetic registry report",
            "data",
            "engine",
            "reward_models sandbox",
            "components trainers evaluate recipe",
            "forecast stages",
            "authoring run saved testing",
            "auto lifecycle cli",
        )
    )
    for name in names.split()
}
WITHOUT_REGISTRY = {"components", "data", "engine", "reward_models", "trainers"}
LOADED_BY_NAME = {"components", "lifecycle", "stages"}
USERS_OF_TRL = {"trainers", "stages"}
LIGHT = {"__init__", "cli", "errors", "registry"}
LIGHT_MODULES = {
    f"contract.{name}"
    for name in (
        *("component", "hookspecs", "interfaces", "on_disk", "records"),
        *("rollout", "rows", "run", "run_kinds", "workload"),
    )
}
HEAVY = {
    "accelerate",
    "bitsandbytes",
    "datasets",
    "matplotlib",
    "pandas",
    "peft",
    "scipy",
    "sklearn",
    "torch",
    "transformers",
    "trl",
}
PRINTERS = {"click.echo", "print", "typer.echo", "Console().print"}
PICKLES = {"cloudpickle", "dill", "joblib", "pickle", "shelve"}
DOTTED = re.compile(r"`(\w+\.\w+\.\w+(?:\.\w+)*)`")
SHIPPED = re.compile(rf"(?:{PACKAGE}|plugins/[^/]+/rlhf_[^/]+)/")
NOUNLESS = re.compile(r"(?:As|Of|That|Those) .*")
GUESS = re.compile(  # some of what `Stage` and `Monitor` declare
    r"""attr\(\w+, ["'](trainer|setting|makes_rollouts|keep_optimizer|early_stopping_patience|reads_rollouts)["']"""
)
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS = 400, 80, 7

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """One imported dotted name; `from a import b` is `a.b`."""

    line: int
    name: str
    at_import: bool  # runs when the module is imported: neither in a function nor under TYPE_CHECKING

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]

    @property
    def package(self) -> str | None:
        """The part of this package it names: `engine` for `rlhf_plugins.engine.head`; None for others."""
        parts = self.name.split(".")
        return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


@dataclass(frozen=True)
class Source:
    """One Python file; `path` is relative to the repository, with forward slashes."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def package(self) -> str | None:
        """The part of the package it is in: `models`, `errors`, `__init__`; None outside the package."""
        parts = self.path.removesuffix(".py").split("/")
        return parts[1] if parts[0] == PACKAGE else None

    @cached_property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @cached_property
    def statements(self) -> list[tuple[ast.stmt, bool]]:
        """Every statement, and whether it runs when the module is imported."""
        return list(_statements(self.tree, at_import=True))

    @cached_property
    def imports(self) -> list[Import]:
        return [found for node, at_import in self.statements for found in self._imports(node, at_import)]

    def _imports(self, node: ast.stmt, at_import: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = self._absolute(node)
            yield from (Import(node.lineno, f"{base}.{alias.name}", at_import) for alias in node.names)

    def _absolute(self, node: ast.ImportFrom) -> str:
        folders = self.path.split("/")[:-1]
        above = folders[: len(folders) - node.level + 1] if node.level else []
        return ".".join([*above, *([node.module] if node.module else [])])

    @cached_property
    def functions(self) -> list[Function]:
        return [node for node, _ in self.statements if isinstance(node, Function)]

    def at(self, line: int, what: str) -> str:
        return f"{self.path}:{line}: {what}"


def _statements(node: ast.AST, at_import: bool) -> Iterator[tuple[ast.stmt, bool]]:
    """The statements below a node; expressions, most of a tree, hold none and are not gone through."""
    typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    for name in ("body", "handlers", "orelse", "finalbody", "cases"):
        inside = at_import and not isinstance(node, Function) and not (typing and name == "body")
        for child in getattr(node, name, ()):
            if isinstance(child, ast.stmt):
                yield child, inside
            yield from _statements(child, inside)


def lines(source: Source) -> int:
    return source.text.count("\n")


def length(function: Function) -> int:
    """Lines from `def` to the last statement; docstring included, decorators not."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def file_too_long(source: Source) -> Iterator[str]:
    if lines(source) > MAX_FILE:
        yield source.at(1, f"{lines(source)} lines, at most {MAX_FILE}")


def function_too_long(source: Source) -> Iterator[str]:
    for function in source.functions:
        if length(function) > MAX_FUNCTION:
            yield source.at(function.lineno, f"{function.name} has {length(function)} lines, at most {MAX_FUNCTION}")


def _parameters(function: Function) -> list[ast.arg]:
    """Every parameter but self and cls."""
    a = function.args
    stars = [arg for arg in (a.vararg, a.kwarg) if arg]
    named = [*a.posonlyargs, *a.args]
    bound = named[:1] if named and named[0].arg in {"self", "cls"} else []
    return [*named[len(bound) :], *a.kwonlyargs, *stars]


def too_many_parameters(source: Source) -> Iterator[str]:
    for function in source.functions:
        count = len(_parameters(function))
        if count > MAX_PARAMETERS:
            yield source.at(function.lineno, f"{function.name} takes {count} parameters, at most {MAX_PARAMETERS}")


def unannotated(source: Source) -> Iterator[str]:
    for function in source.functions:
        bare = [arg.arg for arg in _parameters(function) if arg.annotation is None]
        if function.returns is None:
            bare.append("return")
        if bare:
            yield source.at(function.lineno, f"{function.name} lacks the annotation of {', '.join(bare)}")


def wrong_direction(source: Source) -> Iterator[str]:
    here = source.package
    if here is None or here == "__init__":
        return
    if here not in LEVELS:
        yield source.at(1, f"{here} is on no level: add it to LEVELS in tests/house.py")
        return
    for found in source.imports:
        if found.package and found.package not in LEVELS:
            yield source.at(found.line, f"{found.name} goes through the package's front; import the module itself")
        elif found.package and LEVELS[found.package] > LEVELS[here]:
            there = f"{found.package} (level {LEVELS[found.package]})"
            yield source.at(found.line, f"{here} (level {LEVELS[here]}) imports {there}")


def forbidden_import(source: Source) -> Iterator[str]:
    here = source.package
    for found in source.imports:
        if here in WITHOUT_REGISTRY and found.package == "registry":
            yield source.at(found.line, f"{here} imports the registry; it is given built objects")
        if here and found.package in LOADED_BY_NAME and found.package != here:
            yield source.at(found.line, f"{here} imports {found.package} by name; the registry loads them")
        if here and found.top == "trl" and here not in USERS_OF_TRL:
            yield source.at(found.line, f"{here} imports trl; only {' and '.join(sorted(USERS_OF_TRL))} may")


def private_import(source: Source) -> Iterator[str]:
    """A plugin sees what its users' plugins see: the package's front, and the kit that tests plugins."""
    for found in source.imports:
        if source.path.startswith("plugins/") and found.package in LEVELS.keys() - {"testing"}:
            yield source.at(found.line, f"a plugin imports {found.name}; import from {PACKAGE} itself")


def _is_light(source: Source) -> bool:
    return source.package in LIGHT or source.module.removeprefix(f"{PACKAGE}.") in LIGHT_MODULES


def heavy_import(source: Source) -> Iterator[str]:
    for found in source.imports:
        if _is_light(source) and found.at_import and found.top in HEAVY:
            yield source.at(
                found.line, f"{source.package} imports {found.top} when it is imported; import it where used"
            )


def pickling(source: Source) -> Iterator[str]:
    for found in source.imports:
        if found.top in PICKLES or found.name in {"torch.load", "torch.save"}:
            yield source.at(found.line, f"imports {found.name}; weights go through safetensors")
    for node in ast.walk(source.tree) if "torch" in source.text else ():
        if isinstance(node, ast.Attribute) and node.attr in {"load", "save"} and ast.unparse(node.value) == "torch":
            yield source.at(node.lineno, f"uses {ast.unparse(node)}; weights go through safetensors")


def printing(source: Source) -> Iterator[str]:
    """Commands print through `cli.echo`, which writes out what text hides."""
    if source.package == "cli" and not source.path.endswith("/echo.py"):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in PRINTERS:
                yield source.at(node.lineno, f"calls {ast.unparse(node.func)}; print with rlhf_plugins.cli.echo")


def guessing(source: Source) -> Iterator[str]:
    """What the base class of a kind declares is read as it is."""
    for place, line in enumerate(source.text.splitlines() if source.package else (), 1):
        yield from (source.at(place, f"guesses {name}, which a base class declares") for name in GUESS.findall(line))


def nounless(source: Source) -> Iterator[str]:
    """A docstring says what it is about, since help and pages show it without its function."""
    for node, _ in [(source.tree, True), *source.statements] if SHIPPED.match(source.path) else ():
        documented = isinstance(node, ast.Module | ast.ClassDef | Function)
        if documented and (found := NOUNLESS.match(ast.get_docstring(node) or "")):
            yield source.at(node.body[0].lineno, f"a docstring leaves out its noun: {found[0]}")


RULES = (
    file_too_long,
    function_too_long,
    too_many_parameters,
    unannotated,
    wrong_direction,
    forbidden_import,
    private_import,
    heavy_import,
    pickling,
    printing,
    guessing,
    nounless,
)


def package_cycle(sources: Iterable[Source]) -> list[str]:
    """A circle of packages, as `[a, b, a]`; empty when there is none. Imports inside functions count."""
    graph: dict[str, set[str]] = {name: set() for name in LEVELS}
    for source in sources:
        if source.package in LEVELS:
            graph[source.package] |= {found.package for found in source.imports if found.package in LEVELS}
    for name, imported in graph.items():
        imported.discard(name)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def stale_names(sources: Iterable[Source]) -> Iterator[str]:
    """The names in docstrings, as `contract.run.Run`, that their module does not define; imports do not count."""
    modules = {source.module.removeprefix(f"{PACKAGE}."): source for source in sources}
    for source in modules.values():
        for node, _ in [(source.tree, True), *source.statements]:
            documented = isinstance(node, ast.Module | ast.ClassDef | Function)
            for name in DOTTED.findall(ast.get_docstring(node) or "") if documented else ():
                module, own = ".".join(name.split(".")[:2]), name.split(".")[2]
                if module in modules and own not in _defined(modules[module]):
                    yield source.at(getattr(node, "lineno", 1), f"{name} is not there")


def _defined(source: Source) -> set[str]:
    """What a module defines or assigns on its own level."""
    named = {node.name for node in source.tree.body if isinstance(node, ast.ClassDef | Function)}
    stored = (found for node in source.tree.body for found in ast.walk(node) if isinstance(found, ast.Name))
    return named | {found.id for found in stored if isinstance(found.ctx, ast.Store)}


def deepest_chain(sources: Iterable[Source]) -> list[str]:
    """The longest chain of modules that import the next, the importer first; `__init__` files are left out.

    Raises:
        graphlib.CycleError: the modules import one another in a circle.
    """
    modules = {source.module: source for source in sources if not source.path.endswith("__init__.py")}
    graph = {name: _imported_modules(source, modules) for name, source in modules.items()}
    chains: dict[str, list[str]] = {}
    for name in graphlib.TopologicalSorter(graph).static_order():
        chains[name] = [name, *max((chains[below] for below in graph[name]), key=len, default=[])]
    return max(chains.values(), key=len, default=[])


def _imported_modules(source: Source, modules: dict[str, Source]) -> set[str]:
    names = {found.name for found in source.imports if found.at_import}
    names |= {name.rpartition(".")[0] for name in names}
    return (names & modules.keys()) - {source.module}
