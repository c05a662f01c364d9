"""Rewards for JSON that fits a schema, code that passes tests, and the language of a response."""

from __future__ import annotations

import os
import time
from textwrap import indent
from typing import Any

import pytest

from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.errors import PluginError, RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.handle import rewards


def scores(words: Any, responses: list[str], **columns: list[Any]) -> list[float | None]:
    ids = [[1]] * len(responses)
    samples = Samples(["p"] * len(ids), responses, ids, ids, columns)
    return rewards(component("reward", words).build(None)(samples))


NAMES = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0}}, "required": ["n"]}
SCHEMAS = [
    (NAMES, '{"n": 3, "m": 1}', '{"n": -1}'),
    (NAMES, '```json\n{"n": 3.0}\n```', '{"n": true}'),
    ({**NAMES, "additionalProperties": False}, '{"n": 3}', '{"n": 3, "m": 1}'),
    ({"type": "array", "items": {"enum": ["a", 1]}, "uniqueItems": True}, '["a", 1]', '["a", "a"]'),
    ({"type": ["string", "null"], "minLength": 2, "pattern": "^a"}, '"ab"', '"b"'),
    ({"anyOf": [{"const": 1}, {"type": "string"}], "not": {"const": "x"}}, "1.0", '"x"'),
    ({"oneOf": [{"maximum": 5}, {"exclusiveMinimum": 3}]}, "6", "4"),
    ({}, "[]", "[NaN]"),
    ({"const": {"a": [1]}}, '{"a": [1.0]}', '{"a": [true]}'),
    ({"uniqueItems": True}, "[[1], [true]]", "[[1], [1.0]]"),
]


@pytest.mark.parametrize(("schema", "right", "wrong"), SCHEMAS)
def test_json_that_fits_a_schema(schema: Any, right: str, wrong: str) -> None:
    assert scores({"use": "json_schema", "schema": schema}, [right, wrong, "no JSON"]) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"propertys": {}}, "schema: unknown keyword 'propertys' .did you mean properties"),
        ({"properties": {"a": {"type": "int"}}}, "schema.properties.a.type: unknown type 'int' .did you mean integer"),
        ({"items": 3}, "schema.items: should be a schema, got int"),
        ({"minimum": "3"}, "schema.minimum: should be a number, got '3'"),
        ({"required": "ab"}, "schema.required: should be a list of names, got 'ab'"),
        ({"items": {"minLength": -1}}, "schema.items.minLength: should be a whole number, 0 or more, got -1"),
        ({"type": [["string"]]}, "schema.type: should be a type or a list of types"),
        ({"properties": []}, "schema.properties: should be schemas by name"),
        ({"anyOf": {"type": "null"}}, "schema.anyOf: should be a list of schemas"),
    ],
)
def test_a_schema_that_is_not_read_is_refused(schema: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        component("reward", {"use": "json_schema", "schema": schema})


ADD = "def add(a, b):\n    return a + b\n"


def test_code_must_pass_the_tests_of_its_prompt() -> None:
    responses = [f"So:\n```python\n{ADD}```\nDone.", ADD.replace("+", "-"), "import sys; sys.exit(0)", "(", ADD]
    tests = [["assert add(1, 2) == 3", "assert add(0, 0) == 0"], *["assert add(1, 2) == 3"] * 3, None]
    assert scores("code", responses, tests=tests) == [1.0, 0.0, 0.0, 0.0, None]


EARLY = [
    "import os; os._exit(0)",
    "import __main__, os; os.write(__main__.out, __main__.given['word'].encode()); os._exit(0)",
    """
import gc, os, re
held = [v for one in gc.get_objects() if isinstance(one, dict) for v in one.values() if isinstance(v, str)]
for word in {text for text in held if re.fullmatch("[0-9a-f]{32}", text)}:
    os.write(3, word.encode())
os._exit(0)
""",
]


@pytest.mark.parametrize("code", EARLY)
def test_code_that_ends_early_has_not_passed(code: str) -> None:
    assert scores("code", [code], tests=["assert False"]) == [0.0]


def test_code_runs_where_processes_have_no_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "killpg")  # as on Windows
    assert scores("code", ["x = 1"], tests=["assert x == 1"]) == [1.0]
    assert scores({"use": "code", "seconds": 0.5}, ["while 1: pass"], tests=["assert x == 1"]) == [0.0]


BLOCKS = [
    f"```json\n{{}}\n```\nand\n```python\n{ADD}```\nprints\n```\n3\n```",
    f"```Python title=a\n{ADD}```\n```bash\npython a.py\n```",
    f"1. so\n   ```python3\n{indent(ADD, '   ')}   ```",
    f"```\n{ADD}```",
]


@pytest.mark.parametrize("response", BLOCKS)
def test_the_last_python_block_is_the_code(response: str) -> None:
    assert scores("code", [response], tests=["assert add(1, 2) == 3"]) == [1.0]


def test_code_is_a_module_that_can_be_found() -> None:
    code = "from __future__ import annotations\nimport dataclasses, pickle\n"
    code += "@dataclasses.dataclass\nclass A:\n    n: int = 1\n"
    assert scores("code", [code], tests=["assert pickle.loads(pickle.dumps(A())) == A()"]) == [1.0]


def test_code_has_limits() -> None:
    began = time.monotonic()
    endless = ["while True: pass", "x = bytearray(10**9)", "import os\nos.fork()\nimport time; time.sleep(60)"]
    found = scores({"use": "code", "seconds": 1.0, "megabytes": 128}, [*endless, "x = 1"], tests=["assert True"] * 4)
    assert found == [0.0, 0.0, 0.0, 1.0]
    assert time.monotonic() - began < 30


def test_code_without_its_column_is_refused() -> None:
    with pytest.raises(RunError, match="the prompts have no column 'tests' .did you mean test"):
        scores("code", ["x"], test=["y"])
    with pytest.raises(RunError, match="tests should be text or a list of texts, found int"):
        scores("code", ["x"], tests=[3])


SAID = {
    "en": "The cat is on the roof and it is not coming down.",
    "de": "Die Katze ist auf dem Dach und kommt nicht herunter.",
    "fr": "Le chat est sur le toit et il ne descend pas.",
    "es": "El gato está en el tejado y no baja por la escalera.",
    "ru": "Кошка сидит на крыше.",
    "zh": "猫在屋顶上。",
    "ja": "猫は屋根の上にいます。",
}


@pytest.mark.parametrize("language", SAID)
def test_the_language_of_a_response(language: str) -> None:
    expected = [float(name == language) for name in SAID]
    assert scores({"use": "language", "language": language}, list(SAID.values())) == expected
    assert scores({"use": "language", "language": language}, ["", "12 + 3", "xyzzy"]) == [0.0] * 3


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(PluginError, match="language: unknown 'english'"):
        component("reward", {"use": "language", "language": "english"})
