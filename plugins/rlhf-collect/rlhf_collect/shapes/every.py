"""The shapes by the name of the kind."""

from __future__ import annotations

from types import ModuleType

from rlhf_collect.shapes import pair, ranking, rating

SHAPES: dict[str, ModuleType] = {"pair": pair, "ranking": ranking, "rating": rating}
