"""The JSON schema of a recipe knows every registered component and TRL's options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rlhf_plugins.recipe.schema import json_schema
from rlhf_plugins.registry.registry import Registry
from rlhf_plugins.registry.registry import registry as installed


@pytest.fixture(scope="module")
def schema(registry: Registry) -> dict[str, Any]:
    return json_schema(registry)


def test_the_top_is_closed_and_says_what_is_required(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["required"] == ["base", "data", "stages"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["quantization"]["enum"] == ["none", "nf4", "int8"]


def test_a_component_is_a_name_or_its_options(schema: dict[str, Any]) -> None:
    stages = schema["properties"]["stages"]
    assert stages["items"]["anyOf"][0] == {"enum": ["judge", "make", "talk"]}
    make = schema["$defs"]["stage.make.stage"]
    assert make["properties"]["stage"] == {"const": "make"}
    assert make["required"] == ["stage"]
    names, *blocks, silent = make["properties"]["loss"]["anyOf"]
    assert names == {"enum": ["plain", "scaled"]}
    assert blocks == [{"$ref": "#/$defs/reward_loss.plain"}, {"$ref": "#/$defs/reward_loss.scaled"}]
    assert silent["required"] == []
    assert schema["$defs"]["reward_loss.scaled"]["properties"]["scale"]["exclusiveMinimum"] == 0


def test_trainer_blocks_list_trls_options_but_not_what_the_stage_sets(schema: dict[str, Any]) -> None:
    trainer = schema["$defs"]["stage.make.stage"]["properties"]["trainer"]
    assert trainer["properties"]["learning_rate"] == {"type": "number"}
    assert trainer["additionalProperties"] is False
    assert not {"seed", "output_dir", "max_length"} & trainer["properties"].keys()


def test_only_a_list_without_a_default_needs_an_item() -> None:
    defs = json_schema(installed())["$defs"]
    online = defs["stage.online.stage"]
    assert online["properties"].get("shaping", {}).get("minItems") == 0, online
    assert defs["reward.weighted"]["properties"]["parts"]["minItems"] == 1


def test_every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    def references(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            yield from [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    found = set(references(schema))
    assert found
    assert {name.removeprefix("#/$defs/") for name in found} <= schema["$defs"].keys()
