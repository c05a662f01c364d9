"""Reads the YAML text of a recipe as plain values with the place of each, and writes a new one.

Scalars resolve as `yaml.safe_load` resolves them. What could hide a mistake is refused: duplicate keys, merge
keys, tags, several documents, aliases that recurse or explode, and numbers that YAML reads to base 8 or 60.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlhf_plugins.errors import Fault, RecipeError, RunError

MAX_BYTES = 1_000_000
MAX_NODES = 10_000  # counted after aliases are expanded
MAP_TAG, SEQ_TAG, TEXT_TAG, MERGE_TAG = (f"tag:yaml.org,2002:{tag}" for tag in ("map", "seq", "str", "merge"))
NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?)")  # 010 is 8, and 1:30 is 90

Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """Where a value was written: a file and a line, or an override of the command line and no line."""

    file: str
    line: int
    typed: bool = False  # on the command line, whose paths are relative to the working directory
    opened: bool = False  # made by an override that sets something within it


@dataclass(frozen=True)
class Source:
    """Plain values and the place of each; the value of an alias has the place of its first use."""

    values: dict[str, Any]
    places: Mapping[Keys, Place]

    def fault(self, keys: Keys, message: str) -> Fault:
        """A fault at `keys`, or at the nearest ancestor that is written in the file."""
        at = self.place(keys)
        return Fault(at.file, at.line, dotted(keys), message)

    def place(self, keys: Keys) -> Place:
        """Where the value at `keys`, or its nearest ancestor that is written somewhere, was written."""
        return next(place for n in range(len(keys), -1, -1) if (place := self.places.get(keys[:n])))


def dotted(keys: Keys) -> str:
    """Keys as an override writes them: `stages.0.loss`."""
    return ".".join(map(str, keys))


def read(path: str | Path) -> Source:
    """The values of a YAML file. Raises RecipeError naming file and line."""
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise _error(str(path), 1, f"cannot be read: {error.strerror}") from error
    return parse(content, str(path))


def write_new(file: Path, text: str) -> None:
    """Writes a recipe's text to a new file. Raises RunError where the file exists or cannot be written."""
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise RunError(f"{file}: exists; name another file") from None
    except OSError as error:
        raise RunError(f"{file}: cannot be written: {error.strerror}") from error


def parse(content: bytes, file: str) -> Source:
    """The values of YAML bytes. Raises RecipeError naming `file` and the line."""
    if len(content) > MAX_BYTES:
        raise _error(file, 1, "is over 1 MB; a recipe is a few lines of YAML")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _error(file, line, f"is not UTF-8 text: byte 0x{content[error.start]:02x}") from error
    try:
        return _Reader(text, file).document()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _error(file, line, f"holds the character {error.character!r}, which YAML does not allow") from error
    except yaml.MarkedYAMLError as error:
        raise _error(file, *_explained(error, text)) from error
    except RecursionError as error:
        raise _error(file, 1, "is nested too deeply") from error


class _Reader:
    """Turns one composed document into values and places."""

    def __init__(self, text: str, file: str) -> None:
        self.loader = yaml.SafeLoader(text)
        self.file = file
        self.places: dict[Keys, Place] = {}
        self.nodes = 0
        self.open: list[yaml.Node] = []  # the containers around the current node

    def document(self) -> Source:
        root = self.loader.get_single_node()
        if root is None:
            raise _error(self.file, 1, "is empty; a recipe needs base, data and stages")
        values = self.value(root, ())
        if not isinstance(values, dict):
            raise self.error(root, f"should be a mapping with base, data and stages, got {type(values).__name__}")
        return Source(values, self.places)

    def value(self, node: yaml.Node, keys: Keys) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            outer = [*self.open, node][1]  # the value at the recipe's top; an inner one may be anywhere
            raise self.error(outer, f"holds more than {MAX_NODES:,} values once aliases are expanded")
        if any(node is above for above in self.open):
            raise self.error(node, "an alias is inside the value that it names")
        self.places.setdefault(keys, Place(self.file, _line(node)))
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        self.open.append(node)
        value = self.mapping(node, keys) if isinstance(node, yaml.MappingNode) else self.sequence(node, keys)
        self.open.pop()
        return value

    def scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            if message := _other_base(self.loader, node):
                raise self.error(node, message)
            return self.loader.construct_object(node)
        except yaml.constructor.ConstructorError as error:
            raise self.error(node, f"unknown tag {node.tag!r}; a recipe holds plain values only") from error
        except (ValueError, OverflowError) as error:
            raise self.error(node, f"{node.value[:40]!r} cannot be read: {error}") from error
        except (LookupError, TypeError, AttributeError) as error:  # PyYAML trips over it
            raise self.error(node, f"{node.value[:40]!r} is no value of tag {node.tag!r}") from error

    def sequence(self, node: yaml.Node, keys: Keys) -> list[Any]:
        self.plain(node, SEQ_TAG)
        return [self.value(item, (*keys, index)) for index, item in enumerate(node.value)]

    def mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        self.plain(node, MAP_TAG)
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, item in node.value:
            key, line = self.key(key_node), _line(key_node)
            if key in lines:
                raise self.error(key_node, f"key {key!r} is written twice: on line {lines[key]} and on line {line}")
            lines[key] = line
            self.places[(*keys, key)] = Place(self.file, line)
            values[key] = self.value(item, (*keys, key))
        return values

    def key(self, node: yaml.Node) -> str:
        if node.tag == MERGE_TAG:
            raise self.error(node, "merge keys (<<) are not supported; write the options out")
        if node.tag != TEXT_TAG or not isinstance(node, yaml.ScalarNode):
            raise self.error(node, f"a key should be text, got {_shown(node)}; put it in quotes if it is a name")
        return str(node.value)

    def plain(self, node: yaml.Node, tag: str) -> None:
        if node.tag != tag:
            raise self.error(node, f"unknown tag {node.tag!r}; a recipe holds plain values only")

    def error(self, node: yaml.Node, message: str) -> RecipeError:
        return _error(self.file, _line(node), message)


def value_of(text: str) -> Any:
    """The YAML value of a line, such as an override's.

    Raises:
        ValueError: it is no YAML, or it holds a comment, a key twice, a merge key, or a number to base 8 or 60.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        rest = text if node is None else text[node.end_mark.index :]
        hidden = next(_hidden(loader, node, rest.strip()), "")  # a merge is no longer seen once it is constructed
        value = None if hidden or node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{text!r} is not a YAML value: {getattr(error, 'problem', error)}") from error
    if hidden:
        raise ValueError(hidden)
    return value


def _hidden(loader: yaml.SafeLoader, root: yaml.Node | None, rest: str) -> Iterator[str]:
    """What in a value, and in the rest of its line, could hide a mistake."""
    if rest:
        yield f"YAML reads {rest!r} as a comment: write the whole value in quotes"
    nodes, seen = [root] if root else [], set[int]()
    for node in nodes:
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            yield from (f"key {name!r} is written twice" for name in names if names.count(name) > 1)
            if any(key.tag == MERGE_TAG for key, _ in node.value):
                yield "merge keys (<<) are not supported; write the options out"
            nodes += [value for _, value in node.value]
        elif message := _other_base(loader, node):
            yield message


def _other_base(loader: yaml.SafeLoader, node: yaml.Node) -> str:
    """A message where a number is written so that YAML reads it to another base than 10; else empty."""
    if node.tag not in NUMBER_TAGS or not OTHER_BASE.fullmatch(node.value):
        return ""
    value = loader.construct_object(node)
    return f"YAML reads {node.value} as {value}: write that, or put it in quotes if it is no number"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _shown(node: yaml.Node) -> str:
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else "a list or mapping"


def _explained(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    written = (text.splitlines() or [""])[min(line, text.count("\n") + 1) - 1 :][:1]
    if written and "\t" in written[0][: len(written[0]) - len(written[0].lstrip())]:
        return line, "is indented with a tab; YAML wants spaces"
    if isinstance(error, yaml.composer.ComposerError) and "single document" in str(error.context):
        return line, "holds a second YAML document; write one recipe a file"
    return line, f"is not YAML: {', '.join(filter(None, (error.context, error.problem)))}"


def _error(file: str, line: int, message: str) -> RecipeError:
    return RecipeError([Fault(file, line, "", message)])
