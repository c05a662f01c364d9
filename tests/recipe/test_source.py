"""YAML becomes plain values as safe_load makes them, and what could hide a mistake is refused with its line."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rlhf_plugins.errors import RecipeError
from rlhf_plugins.recipe.source import MAX_BYTES, parse, read

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcd", "bcde", strict=True)
)

REFUSED = {
    "empty": (b"", 1, "is empty"),
    "only a comment": (b"# nothing\n", 1, "is empty"),
    "a list": (b"\n- base\n", 2, "should be a mapping"),
    "text": (b"base", 1, "should be a mapping"),
    "not UTF-8": (b"base: x\ndata: \xff\n", 2, "not UTF-8 text: byte 0xff"),
    "UTF-16": ("base: x".encode("utf-16"), 1, "not UTF-8"),
    "a number that is none": (b'base: x\nseed: !!int ""\n', 2, "'' is no value of tag 'tag:yaml.org,2002:int'"),
    "a word where a date is": (b"base: !!timestamp x\n", 1, "'x' is no value of tag 'tag:yaml.org,2002:timestamp'"),
    "a control character": (b"base: x\ndata: \x07\n", 2, "which YAML does not allow"),
    "a key twice": (b"base: x\nseed: 1\nbase: y\n", 3, "'base' is written twice: on line 1 and on line 3"),
    "a nested key twice": (b"a:\n  b: 1\n  b: 1\n", 3, "'b' is written twice: on line 2 and on line 3"),
    "a tab": (b"a:\n\tb: 1\n", 2, "indented with a tab"),
    "two documents": (b"a: 1\n---\nb: 2\n", 2, "second YAML document"),
    "a python tag": (b"a: 1\nb: !!python/object/apply:os.system [ls]\n", 2, "unknown tag"),
    "a tag of its own": (b"a: !mine 3\n", 1, "unknown tag '!mine'"),
    "a set": (b"a: !!set {x, y}\n", 1, "unknown tag"),
    "a number as key": (b"a: 1\n2: b\n", 2, "a key should be text, got '2'"),
    "a list as key": (b"[a, b]: 1\n", 1, "a key should be text"),
    "a merge key": (b"a: &a {b: 1}\nc: {<<: *a}\n", 2, "merge keys (<<) are not supported"),
    "a bomb": (BOMB.encode(), 4, "more than 10,000 values"),
    "an alias inside itself": (b"a: 1\nb: &b [1, *b]\n", 2, "inside the value that it names"),
    "an unknown alias": (b"a: *b\n", 1, "undefined alias"),
    "a bracket left open": (b"a: [1, 2\nb: 3\n", 2, "is not YAML"),
    "deep nesting": (b"a: " + b"[" * 5000 + b"]" * 5000, 1, "nested too deeply"),
    "a date that is none": (b"a: 2024-99-99\n", 1, "'2024-99-99' cannot be read"),
    "a number to base 8": (b"a: 1\nseed: 010\n", 2, "YAML reads 010 as 8: write that, or put it in quotes"),
    "a number to base 60": (b"a: {max_steps: 1:30}\n", 1, "YAML reads 1:30 as 90"),
    "a number too long": (b"a: " + b"9" * 5000, 1, "cannot be read"),
    "a file too big": (b"#" * (MAX_BYTES + 1), 1, "over 1 MB"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_hide_a_mistake_is_refused(case: str) -> None:
    content, line, message = REFUSED[case]
    with pytest.raises(RecipeError) as caught:
        parse(content, "r.yaml")
    (fault,) = caught.value.faults
    assert (fault.file, fault.line) == ("r.yaml", line)
    assert message in fault.message


def test_values_are_those_of_safe_load_and_know_their_lines() -> None:
    text = "a: 1e-5\nb: [yes, 0x10, null,\n  {c: 1.5}]\nd: &x {e: 'f'}\ng: *x\n"
    source = parse(text.encode(), "r.yaml")
    assert source.values == yaml.safe_load(text)
    lines = {keys: place.line for keys, place in source.places.items()}
    assert lines[("b", 3, "c")] == 3
    assert lines[("g", "e")] == 3 + 1  # where the alias's value is written
    assert lines[("g",)] == 5


def test_a_byte_order_mark_is_no_fault() -> None:
    assert parse(b"\xef\xbb\xbfa: 1\n", "r.yaml").values == {"a": 1}


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), plain, min_size=1, max_size=4))
def test_whatever_yaml_dumps_is_read_back(values: dict[str, object]) -> None:
    assert parse(yaml.safe_dump(values).encode(), "r.yaml").values == values


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with suppress(RecipeError):
        assert isinstance(parse(content, "r.yaml").values, dict)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read(tmp_path / name)
