"""A script: what this package, without one file of `components/`, can still do.

It prints a line of JSON: the components that are there, what did not load, and which bundled recipes check.
"""

from __future__ import annotations

import json

from rlhf_plugins import RlhfError, registry
from rlhf_plugins.recipe.check import bundled, load_recipe

recipes: dict[str, str] = {}
for recipe in bundled():
    try:
        load_recipe(recipe)
        recipes[recipe] = ""
    except RlhfError as error:
        recipes[recipe] = str(error)
found = [[each.kind, each.name, each.plugin.name] for each in registry().describe()]
print(json.dumps({"components": found, "unloaded": list(map(str, registry().unloaded)), "recipes": recipes}))
