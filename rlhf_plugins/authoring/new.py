"""A new package with one component, from the template of its kind: it installs, passes the kit and runs at once."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from string import Template

from rlhf_plugins.errors import PluginError, known

TEMPLATES = Path(__file__).parent / "templates"
MODULE = ".py.txt"
FEW = "trainer: {max_steps: 2}"
SANDBOX = "{format: sandbox, prompts: 64, test_prompts: 64}"
STAGES = {  # where a recipe names a component of each kind
    "advantage": [f"stage: online, reward: gold, advantage: $component, {FEW}"],
    "aggregation": [f"stage: reward_ensemble, members: 2, aggregation: $component, {FEW}", "stage: evaluate_reward"],
    "data_format": [f"stage: reward, {FEW}"],
    "kl": [f"stage: online, reward: gold, kl: $component, {FEW}"],
    "kl_estimator": [f"stage: online, reward: gold, kl: {{use: in_loss, estimator: $component}}, {FEW}"],
    "metric": [f"stage: reward, {FEW}", "stage: evaluate_reward, metrics: [accuracy, $component]"],
    "policy_loss": [f"stage: online, reward: gold, policy_loss: $component, {FEW}"],
    "pooling": [f"stage: reward, pooling: $component, {FEW}"],
    "preference_loss": [f"stage: preference, loss: $component, {FEW}"],
    "reduction": [f"stage: online, reward: gold, reduction: $component, {FEW}"],
    "reward": [f"stage: online, reward: $component, {FEW}"],
    "reward_head": [f"stage: reward, head: $component, {FEW}"],
    "reward_loss": [f"stage: reward, loss: $component, {FEW}"],
    "sampler": [f"stage: reward, sampler: $component, {FEW}"],
    "shaping": [f"stage: online, reward: gold, shaping: [$component], {FEW}"],
    "stage": ["stage: $component"],
}
ROWS = [f"what is {n} and {n}?\t{n + n}\t{n + n + 1}\n" for n in range(20)]


def kinds() -> list[str]:
    """What a package can be started for."""
    return sorted(file.name.removesuffix(MODULE) for file in TEMPLATES.glob(f"*{MODULE}") if file.name != "test.py.txt")


def new(package: str, kind: str, where: Path = Path(), taken: Collection[str] = ()) -> list[Path]:
    """Writes the package into a folder of its name, and returns the files.

    Args:
        package: as pip will call it; without a leading `rlhf-` it is what recipes call the component.
        kind: of the component.
        where: the folder above.
        taken: what other components of the kind are called.

    Raises:
        PluginError: the name or the kind will not do or is taken, or the folder is there already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", package):
        raise PluginError(f"{package!r} is no name of a package: lower-case words and digits with '-' between them")
    if kind not in kinds():
        raise PluginError(f"unknown component kind {kind!r} {known(kind, kinds())}")
    _refuse_clash(package, kind, taken)
    folder = where / package
    if folder.exists():
        raise PluginError(f"{folder} is there already; give another name, or remove it")
    files = {folder / name: text for name, text in _written(package, kind)}
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return list(files)


def _refuse_clash(package: str, kind: str, taken: Collection[str]) -> None:
    """Raises PluginError where the package could not be imported, registered or compiled under its name."""
    module, component = _names(package)
    if find_spec(module) is not None:
        raise PluginError(f"{package!r}: there is a module {module!r} already; give another name")
    if component in taken:
        raise PluginError(f"{package!r}: there is a {kind} {component!r} already; give another name")
    template = (TEMPLATES / f"{kind}{MODULE}").read_text(encoding="utf-8")
    if re.search(rf"\b{_class(component)}\b", template):
        raise PluginError(f"{package!r}: its class {_class(component)!r} would hide what it needs; give another name")


def _names(package: str) -> tuple[str, str]:
    """Of the module and of the component."""
    return package.replace("-", "_"), package.removeprefix("rlhf-").replace("-", "_")


def _class(component: str) -> str:
    return "".join(map(str.capitalize, component.split("_")))


def _written(package: str, kind: str) -> Iterator[tuple[str, str]]:
    module, component = _names(package)
    reads_file = kind == "data_format"
    words = {
        "package": package,
        "kind": kind,
        "module": module,
        "component": component,
        "options": ', {"source": "rows.txt"}' if reads_file else "",
        "data": f"{{format: {component}, source: rows.txt}}" if reads_file else SANDBOX,
    }
    words["stages"] = Template("\n".join(f"  - {{{stage}}}" for stage in STAGES[kind])).substitute(words)
    yield "pyproject.toml", _filled("pyproject.toml", words)
    yield f"{module}.py", _component(kind, component)
    yield f"tests/test_{module}.py", _filled("test.py", words)
    yield "recipe.yaml", _filled("recipe.yaml", words)
    yield "README.md", _filled("README.md", words)
    if reads_file:
        yield "rows.txt", "".join(ROWS)


def _component(kind: str, component: str) -> str:
    """The template with its own names for `Example` and `example`."""
    text = (TEMPLATES / f"{kind}{MODULE}").read_text(encoding="utf-8")
    text = re.sub(r"\bExample\b", _class(component), text)
    return re.sub(r"\bexample\b", component, text)


def _filled(name: str, words: dict[str, str]) -> str:
    return Template((TEMPLATES / f"{name}.txt").read_text(encoding="utf-8")).substitute(words)
