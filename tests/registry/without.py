"""A script: this package without one file of `components/`, each in a process of its own, and what then still works.

It prints a line of JSON a file: the components that are there, what did not load, and which bundled recipes check.
The libraries are imported once, before the processes part.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import trl  # noqa: F401  # what takes seconds to import
from trl import DPOConfig, GRPOConfig, RewardConfig, SFTConfig  # noqa: F401

ROOT = Path(__file__).parents[2]


def main(scratch: Path) -> None:
    """One process a file, one after the other."""
    for file in sorted((ROOT / "rlhf_plugins/components").glob("[a-z]*.py")):
        sys.stdout.flush()
        if child := os.fork():
            os.waitpid(child, 0)
        else:
            told(file.name, scratch / file.stem)
            sys.stdout.flush()
            os._exit(0)


def told(name: str, copy: Path) -> None:
    """Prints what a copy without the file can do."""
    shutil.copytree(ROOT / "rlhf_plugins", copy / "rlhf_plugins", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "recipes", copy / "recipes")
    (copy / "rlhf_plugins/components" / name).unlink()
    sys.path.insert(0, str(copy))
    from rlhf_plugins import RlhfError, load_recipe, registry
    from rlhf_plugins.recipe.check import bundled

    recipes: dict[str, str] = {}
    for recipe in bundled():
        try:
            load_recipe(recipe)
            recipes[recipe] = ""
        except RlhfError as error:
            recipes[recipe] = str(error)
    found = [[each.kind, each.name, each.plugin.name] for each in registry().describe()]
    unloaded = list(map(str, registry().unloaded))
    print(json.dumps({"file": name, "components": found, "unloaded": unloaded, "recipes": recipes}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
