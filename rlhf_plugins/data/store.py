"""A `Data` as a file of JSON lines and back, with everything but the gold reward, which is a function.

A line is a group (`"in"` names its split), a prompt (`"prompt of"` names its split), or the counts of what was left out
(`"dropped"`). A field with its default is not written.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rlhf_plugins.contract.rows import Comparison, Data, Group, Origin
from rlhf_plugins.data.digests import refuse_changed
from rlhf_plugins.data.file_names import STAGE_ROWS
from rlhf_plugins.data.files import put
from rlhf_plugins.data.rows import read_rows
from rlhf_plugins.data.values import plain
from rlhf_plugins.errors import DataError, nearest

SPLITS = ("train", "test", "out_of_distribution")
SPLIT, PROMPT, DROPPED = "in", "prompt of", "dropped"


def save_data(data: Data, path: Path) -> None:
    """Writes a file that is never half written, also when the machine stops. Raises DataError where it cannot be."""
    try:
        put(path, (line.encode() for line in lines(data)))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error


def lines(data: Data) -> Iterator[str]:
    """The lines of its file; equal data has equal lines."""
    return (json.dumps(row, ensure_ascii=False, default=_plain) + "\n" for row in _rows(data))


def digest(data: Data) -> str:
    """A digest of its lines, with the names of files without their folders; the gold reward is not in it."""
    found = blake2b(digest_size=16)
    for row in _rows(data):
        found.update(f"{json.dumps(row, ensure_ascii=False, default=_anywhere)}\n".encode())
    return found.hexdigest()


def load_data(path: str | Path) -> Data:
    """The rows that a stage handed on.

    Args:
        path: the stage's folder, such as `runs/mine/02-critique`, or a file that `save_data` wrote.

    Raises:
        DataError: there are none, or a line cannot be read; names the file and line.
        RunError: they are not as the stage left them.
    """
    file = Path(path) / STAGE_ROWS if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise DataError(f"{path}: holds no data of a stage ({STAGE_ROWS})")
    refuse_changed(file)
    groups: dict[str, list[Group]] = {split: [] for split in SPLITS}
    prompts: dict[str, list[Group]] = defaultdict(list)
    dropped: dict[str, int] = {}
    for where, row in read_rows(str(file)):
        if DROPPED in row:
            dropped |= row[DROPPED]
        elif PROMPT in row:
            prompts[row.pop(PROMPT)].append(_group(where, row))
        else:
            groups[_split(where, row)].append(_group(where, row))
    parts: dict[str, Any] = {split: tuple(found) for split, found in groups.items()}
    return Data(**parts, prompts={split: tuple(found) for split, found in prompts.items()}, dropped=dropped)


def stage_folder(run: str | Path, stage: str) -> Path:
    """The folder of a stage that left data. Raises DataError naming the stages that did."""
    found = {file.parent.name.partition("-")[2]: file.parent for file in sorted(Path(run).glob(f"*-*/{STAGE_ROWS}"))}
    found |= {
        f"{outer.name.partition('-')[2]}/{file.parent.name}": file.parent
        for outer in sorted(Path(run).glob("*-*"))
        for file in sorted(outer.glob(f"*/{STAGE_ROWS}"))
    }
    if stage not in found:
        raise DataError(f"{run}: no stage {stage!r} of this run left data {nearest(stage, found)}")
    return found[stage]


def _rows(data: Data) -> Iterator[dict[str, Any]]:
    yield {DROPPED: dict(data.dropped)}
    for split in SPLITS:
        yield from ({SPLIT: split, **_fields(group)} for group in getattr(data, split))
    for split, groups in data.prompts.items():
        yield from ({PROMPT: split, **_fields(group)} for group in groups)


def _fields(record: Group | Comparison | Origin) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    cls: Any = type(record)
    values = {name: getattr(record, name) for name in _defaults(cls)}
    return {name: value for name, value in values.items() if value != _defaults(cls)[name]}


@cache
def _defaults(cls: type) -> dict[str, Any]:
    def default(field: dataclasses.Field[Any]) -> Any:
        return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()

    return {field.name: default(field) for field in dataclasses.fields(cls)}


def _plain(value: Any) -> Any:
    """What JSON has no form for: a record of ours, or a value of a column."""
    return _fields(value) if isinstance(value, Comparison | Origin) else plain(value)


def _anywhere(value: Any) -> Any:
    """`_plain`, without the folders of files."""
    fields = _plain(value)
    if isinstance(value, Origin):
        fields["source"] = os.path.basename(value.source)
        fields |= {"parents": [os.path.basename(name) for name in value.parents]} if value.parents else {}
    return fields


def _split(where: str, row: dict[str, Any]) -> str:
    split = row.pop(SPLIT, None)
    if split not in SPLITS:
        raise DataError(f"{where}: {SPLIT!r} is {split!r} {nearest(str(split), SPLITS)}")
    return str(split)


def _group(where: str, row: dict[str, Any]) -> Group:
    for name in row.keys() - _defaults(Group).keys():
        raise DataError(f"{where}: a group has no field {name!r} {nearest(name, _defaults(Group))}")
    try:
        return _reader().validate_python(row)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


@cache
def _reader() -> TypeAdapter[Group]:
    return TypeAdapter(Group)
