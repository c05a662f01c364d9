"""A new package with one component, from the template of its kind: it installs, passes the kit and runs at once."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from itertools import permutations
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from rlhf_plugins.authoring import generic
from rlhf_plugins.errors import PluginError, nearest
from rlhf_plugins.registry.registry import registry as installed

if TYPE_CHECKING:
    from rlhf_plugins.registry.registry import Registry

TEMPLATES = Path(__file__).parent / "templates"
MODULE = ".py.txt"
FEW = "trainer: {max_steps: 2}"
SANDBOX = "{format: sandbox, prompts: 64, test_prompts: 64}"
STAGES = {  # where a recipe names a component of each kind
    "advantage": [f"stage: online, reward: gold, advantage: $component, {FEW}"],
    "aggregation": [f"stage: reward_ensemble, members: 2, aggregation: $component, {FEW}", "stage: evaluate_reward"],
    "data_format": [f"stage: reward_model, {FEW}"],
    "data_step": [f"stage: reward_model, data: {{format: prepared, rows: {SANDBOX}, steps: [$component]}}, {FEW}"],
    "environment": [f"stage: online, reward: gold, environment: $component, turns: 2, {FEW}"],
    "kl": [f"stage: online, reward: gold, kl: $component, {FEW}"],
    "kl_estimator": [f"stage: online, reward: gold, kl: {{use: in_loss, estimator: $component}}, {FEW}"],
    "metric": [f"stage: reward_model, {FEW}", "stage: evaluate_reward, metrics: [accuracy, $component]"],
    "monitor": [f"stage: reward_model, monitors: [$component], {FEW}"],
    "policy_loss": [f"stage: online, reward: gold, policy_loss: $component, {FEW}"],
    "pooling": [f"stage: reward_model, pooling: $component, {FEW}"],
    "preference_loss": [f"stage: preference, loss: $component, {FEW}"],
    "reduction": [f"stage: online, reward: gold, reduction: $component, {FEW}"],
    "regularizer": [f"stage: reward_model, regularizers: [$component], {FEW}"],
    "reward": [f"stage: online, reward: $component, {FEW}"],
    "reward_head": [f"stage: reward_model, head: $component, {FEW}"],
    "reward_loss": [f"stage: reward_model, loss: $component, {FEW}"],
    "sampler": [f"stage: reward_model, sampler: $component, {FEW}"],
    "selector": [f"stage: auto, selector: $component, {FEW}"],
    "shaping": [f"stage: online, reward: gold, shaping: [$component], {FEW}"],
    "stage": ["stage: $component"],
    "task": [f"stage: preference, {FEW}", "stage: evaluate, tasks: [$component], prompts: 16"],
}
RUN = "rlhf run recipe.yaml                  # a few steps in the sandbox"
ANIMALS = ("ant", "bee", "cat", "dog", "elk")  # words that the sandbox's tokenizer knows
ROWS = [f"who is the {a}?\tthe {a} is the {a}\tthe {a} is the {b}\n" for a, b in permutations(ANIMALS, 2)]


def kinds(registry: Registry) -> list[str]:
    """The kinds that a package can be started for: ours, and those that other packages define."""
    return sorted(registry.kinds)


def new(package: str, kind: str, where: Path = Path(), registry: Registry | None = None) -> list[Path]:
    """Writes the package into a folder of its name, and returns the files.

    Args:
        package: its name for pip; without a leading `rlhf-` it is the name of the component in recipes.
        kind: the kind of the component.
        where: the folder above.
        registry: the kinds and the names that are taken; None: every installed one.

    Raises:
        PluginError: the name or the kind is not possible or taken, or the folder exists.
    """
    registry = registry or installed()
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", package):
        raise PluginError(f"{package!r} is no name of a package: lower-case words and digits with '-' between them")
    if kind not in kinds(registry):
        raise PluginError(f"unknown component kind {kind!r} {nearest(kind, kinds(registry))}")
    text = _template(kind, registry)
    _refuse_clash(package, kind, text, registry.names(kind))
    folder = where / package
    if folder.exists():
        raise PluginError(f"{folder} exists; give another name, or remove it")
    files = {folder / name: content for name, content in _written(package, kind, text, registry)}
    for file, content in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    return list(files)


def _template(kind: str, registry: Registry) -> str:
    """The module of a kind: its own template, or one made of its base class."""
    file = TEMPLATES / f"{kind}{MODULE}"
    return file.read_text(encoding="utf-8") if file.exists() else generic.module(kind, registry)


def _refuse_clash(package: str, kind: str, template: str, taken: Collection[str]) -> None:
    """Raises PluginError where the package could not be imported, registered or compiled under its name."""
    module, component = _names(package)
    if find_spec(module) is not None:
        raise PluginError(f"{package!r}: a module {module!r} exists already; give another name")
    if component in taken:
        raise PluginError(f"{package!r}: a {kind} {component!r} exists already; give another name")
    if re.search(rf"\b{_class(component)}\b", template):
        raise PluginError(f"{package!r}: its class {_class(component)!r} would hide a name it needs; give another name")


def _names(package: str) -> tuple[str, str]:
    """The names of the module and of the component in it."""
    return package.replace("-", "_"), package.removeprefix("rlhf-").replace("-", "_")


def _class(component: str) -> str:
    return "".join(map(str.capitalize, component.split("_")))


def _written(package: str, kind: str, text: str, registry: Registry) -> Iterator[tuple[str, str]]:
    module, component = _names(package)
    reads_file, definer = kind == "data_format", registry.definer(kind)
    words = {
        "package": package,
        "kind": kind,
        "module": module,
        "component": component,
        "dependencies": "".join(f', "{name}"' for name in ([definer.distribution] if definer else [])),
        "options": ', {"source": "rows.txt"}' if reads_file else "",
        "data": f"{{format: {component}, source: rows.txt}}" if reads_file else SANDBOX,
    }
    stages = STAGES.get(kind) or generic.stages(kind, registry)
    words["stages"] = Template("\n".join(f"  - {{{stage}}}" for stage in stages)).substitute(words)
    words["run"] = f"\n{RUN}" if stages else ""
    yield "pyproject.toml", _filled("pyproject.toml", words)
    yield f"{module}.py", _component(text, component)
    yield f"tests/test_{module}.py", _filled("test.py", words)
    if stages:
        yield "recipe.yaml", _filled("recipe.yaml", words)
    yield "README.md", _filled("README.md", words)
    if reads_file:
        yield "rows.txt", "".join(ROWS)


def _component(text: str, component: str) -> str:
    """The template with its own names for `Example` and `example`."""
    text = re.sub(r"\bExample\b", _class(component), text)
    return re.sub(r"\bexample\b", component, text)


def _filled(name: str, words: dict[str, str]) -> str:
    return Template((TEMPLATES / f"{name}.txt").read_text(encoding="utf-8")).substitute(words)
