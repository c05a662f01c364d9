"""Makes transformers' Auto classes know ours once they are imported, in any order; it imports none of them itself."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_AUTO = "transformers.models.auto."
_REGISTRATIONS = {  # a module of transformers -> ours that registers with it
    f"{_AUTO}configuration_auto": "rlhf_plugins.recipe.auto_config",
    f"{_AUTO}modeling_auto": "rlhf_plugins.recipe.auto_model",
}


class _AfterImport:
    """Registers our classes with transformers' Auto classes once those are imported, which costs nothing before."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """What the other finders find, with a loader that registers afterwards; None for every other module."""
        if name not in _REGISTRATIONS:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                _register(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _register(module: ModuleType) -> None:
    import_module(_REGISTRATIONS[module.__name__]).register(module)


def install() -> None:
    """From now on, and for what is imported already."""
    sys.meta_path.insert(0, _AfterImport())
    for name in _REGISTRATIONS:
        if name in sys.modules:
            _register(sys.modules[name])
