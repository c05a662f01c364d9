"""Rows of a file or of the hub, each with the place to name when it is wrong."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.partial_reads import first_rows, refuse_download
from rlhf_plugins.data.values import CELL, MESSAGES, spelled
from rlhf_plugins.errors import DataError, nearest, nearest_path

Row = tuple[str, dict[str, Any]]  # its place, such as `file:12`, and its fields
MOST = 8 * 2**30  # bytes of a file, which is read whole
SMALL, TIMES = 2**24, 200  # bytes that any file may unpack to, and how much larger than itself a larger one may be
LONGEST_NAME = 200  # characters of a source in a message
AT_ONCE = 1_000  # rows of a Parquet file that become Python's
ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
PACKED = (".gz", ".zst")  # of text, after its own ending
NO_ROWS = ("dataset_info.json", "dataset_dict.json", "state.json")  # that `datasets` writes beside its files
SPLITS = ("train", "test", "valid", "dev", "eval")  # how the names of files of one split begin
WRAPPERS = ("data", "examples", "instances", "items", "rows", "train")  # fields of an object around a list of rows


def no_such_file(source: str | None) -> str:
    """A message where a source is surely a local file and is not there; else empty."""
    if source is None or os.path.exists(source):
        return ""
    if not _bare(source).endswith(ENDINGS) and not source.startswith((".", "/", "~")):
        return ""  # it may be a data set on the hub
    return f"there is no file {source!r}{nearest_path(source, lambda path: path.suffix in ENDINGS)}"


def no_such_split(source: str, split: str) -> str:
    """A message where a source is here and lacks a split that is not the default one; else empty."""
    path = Path(source)
    if split == "train" or not os.path.exists(source):
        return ""
    if not path.is_dir():
        return f"{source}: is a file, which has no split {split!r}: name a file that holds the rows of that split"
    held = (one for one in path.iterdir() if one.is_dir() or _bare(one.name).endswith(ENDINGS))
    names = sorted(one.name for one in held if one.name not in NO_ROWS)
    if (path / split).is_dir() or any(name.startswith(split) for name in names):
        return ""
    neither = f"neither a folder of split {split!r} nor files whose names begin with it"
    return f"{source}: holds {neither} {nearest(split, names)}"


def read_rows(source: str, split: str = "train", dropped: Dropped | None = None) -> Iterator[Row]:
    """Rows of a local file (JSON lines, CSV, Parquet, Arrow; text may be packed), of a folder of them, or of the hub.

    Of a folder with a folder of the split's name, or with files whose names begin with it, those alone are read.

    Args:
        source: a path, or a hub name such as `trl-lib/ultrafeedback_binarized`.
        split: the split of the hub's data set, or of a folder; a file has none.
        dropped: gathers the lines that cannot be read; None: the first one raises.

    Raises:
        DataError: the source is missing, is not readable as its format, or is empty; names the file and line.
    """
    path = Path(source)
    if not os.path.exists(source):  # False, where Path.exists raises, for a name that no file can have
        yield from _hub(source, split)
        return
    if path.is_dir():
        for file in _files(path, split):
            yield from read_rows(str(file), split, dropped)
        return
    if not path.is_file():
        raise DataError(f"{source}: is a pipe or a device; name a file {nearest('', ENDINGS)}")
    if path.stat().st_size > MOST:
        raise DataError(f"{source}: is over {MOST // 2**30} GiB; split it, or give it as a data set of the hub's")
    suffix = Path(_bare(path.name)).suffix
    if suffix not in ENDINGS:
        raise DataError(f"{source}: unknown file ending {suffix!r} {nearest(suffix, ENDINGS)}")
    reader = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".arrow": _arrow}.get(suffix, _json_lines)
    if path.suffix in PACKED and reader in (_parquet, _arrow):
        raise DataError(f"{source}: unpack it first: only text is read packed")
    dropped, empty = Dropped() if dropped is None else dropped, True
    for row in first_rows(path, reader(path, dropped)):
        empty = False
        yield row
    if empty and not dropped.faults:
        raise DataError(f"{source}: holds no rows")


def _bare(name: str) -> str:
    """A name without the ending of what packs it."""
    return name.removesuffix(".gz").removesuffix(".zst")


def _files(folder: Path, split: str) -> list[Path]:
    """The files of a folder that hold rows of a split, all of one kind.

    Raises:
        DataError: there are none, or no file's name begins with the split's and some with another split's.
    """
    if (folder / split).is_dir():
        return _files(folder / split, split)
    files = [one for one in sorted(folder.iterdir()) if one.is_file() and one.name not in NO_ROWS]
    files = [one for one in files if _bare(one.name).endswith(ENDINGS) and not one.name.startswith((".", "_"))]
    found = [one for one in files if one.name.startswith(split)]
    apart = SPLITS[:1] if split == "test" else SPLITS  # files of any held-out split are rows to test on
    others = [one.name for one in files if one.name.lower().startswith(apart)]
    if others and not found and folder.name != split:
        has = f"no file begins with {split!r}, and {', '.join(others[:5])} with another split"
        raise DataError(f"{folder}: {has}; name that in `split`, or name a file")
    found = found or files
    kinds = {Path(_bare(one.name)).suffix for one in found}
    if len(kinds) != 1:
        has = f"has files of several kinds ({', '.join(sorted(kinds))})" if kinds else "holds no file of rows"
        raise DataError(f"{folder}: {has}; name a file {nearest('', ENDINGS)}")
    return found


def _text(path: Path) -> str:
    try:
        return (_unpacked(path) if path.suffix in PACKED else path.read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: is not UTF-8 (byte {error.start})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _unpacked(path: Path) -> bytes:
    """The content of a packed file. Raises DataError where it is far larger than the file, as rows are not."""
    most, parts, size = max(SMALL, TIMES * path.stat().st_size), list[bytes](), 0
    with _opened(path) as stream:
        while part := stream.read(SMALL):
            size += len(part)
            if size > most:
                raise DataError(f"{path}: unpacks to over {TIMES} times its size; unpack it first if that is right")
            parts.append(part)
    return b"".join(parts)


def _opened(path: Path) -> Any:
    """A stream of what a packed file holds."""
    if path.suffix == ".gz":
        return gzip.open(path)
    import pyarrow

    return pyarrow.input_stream(str(path), compression="zstd")


def _json_lines(path: Path, dropped: Dropped) -> Iterator[Row]:
    text = _text(path)
    if _bare(path.name).endswith(".json"):
        if text.lstrip().startswith("["):
            yield from _json_array(path, text, dropped)
            return
        if text.strip() and not _is_json(text.lstrip().partition("\n")[0]):  # an object over several lines
            yield f"{path}:1", _unwrapped(f"{path}:1", _record(f"{path}:1", _parsed(str(path), path, 1, text)))
            return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            with dropped.row(where):
                yield where, _unwrapped(where, _record(where, _parsed(where, path, number, line)))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_array(path: Path, text: str, dropped: Dropped) -> Iterator[Row]:
    for number, value in enumerate(_parsed(str(path), path, 1, text)):
        where = f"{path}[{number}]"
        with dropped.row(where):
            yield where, _record(where, value)


def _parsed(where: str, path: Path, first_line: int, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_fields)
    except json.JSONDecodeError as error:
        line, why = first_line + error.lineno - 1, error.msg.removesuffix(" at")
        raise DataError(f"{path}:{line}: is not JSON: {why} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: cannot be read as JSON: {error}") from error


def _fields(members: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(members)
    if len(fields) < len(members):
        raise ValueError(f"two fields are named {_repeated(name for name, _ in members)!r}")
    return fields


def _repeated(names: Iterable[str]) -> str:
    return Counter(names).most_common(1)[0][0]


def _refuse_twice(where: object, names: Sequence[str]) -> None:
    """Raises DataError where two columns have one name."""
    if len(set(names)) < len(names):
        raise DataError(f"{where}: two columns are named {_repeated(names)!r}")


def _record(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object with named fields, found {type(value).__name__}")
    return value


def _unwrapped(where: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a row. Raises DataError where they are those of an object around a list of rows."""
    for name in WRAPPERS:
        rows = fields.get(name)
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
            raise DataError(f"{where}: is an object whose {name!r} is a list of rows: write that list alone")
    return fields


def _csv(path: Path, dropped: Dropped) -> Iterator[Row]:
    text = _text(path)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # which is no fault of the file
    tabs = _bare(path.name).endswith(".tsv")
    try:
        reader = _table(text, "\t" if tabs else ",")
        if not tabs and (names := reader.fieldnames) and len(names) == 1 and ";" in names[0]:
            reader = _table(text, ";")  # where a comma is the decimal point
        names = reader.fieldnames or []
        wanted, other = ("tabs", ",") if tabs else ("commas", "\t")
        if len(names) == 1 and any(mark in names[0] for mark in (other, ";", "|")):
            raise DataError(f"{path}:1: has one column, {names[0]!r}: separate its parts with {wanted}")
        _refuse_twice(f"{path}:1", names)
        rows = []
        for fields in reader:
            where = f"{path}:{reader.line_num}"
            with dropped.row(where):
                rows.append((where, _whole(where, fields, len(names))))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.reader.line_num}: is not CSV: {error}") from error
    for name in names:
        _parse_cells(rows, name, dropped)
    yield from rows


def _table(text: str, mark: str) -> csv.DictReader[str]:
    """The rows of a text whose cells a mark separates."""
    return csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=mark)


def _whole(where: str, fields: dict[str, Any], count: int) -> dict[str, Any]:
    if None in fields or None in fields.values():
        raise DataError(f"{where}: has not the {count} fields of the header")
    return fields


def _parse_cells(rows: list[Row], name: str, dropped: Dropped) -> None:
    """Reads the cells of a column that all hold a list of texts or objects, or a message, as JSON or Python writes it.

    Raises:
        DataError: some cells hold messages that cannot be read.
    """
    cells = [(where, fields, fields[name]) for where, fields in rows if fields[name]]
    if not cells or not all(CELL.match(cell) for _, _, cell in cells):
        return
    found = [spelled(cell) for _, _, cell in cells]
    if unread := [where for (where, _, _), value in zip(cells, found, strict=True) if value is None]:
        for where in unread if any(MESSAGES.match(cell) for _, _, cell in cells) else ():
            with dropped.row(where):
                raise DataError(f"{where}: {name} looks like messages, and is neither JSON nor a Python list of them")
        return
    for (_, fields, _), value in zip(cells, found, strict=True):
        fields[name] = value


def _parquet(path: Path, _: Dropped) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        first = str(error).partition("\n")[0]
        raise DataError(f"{path}: cannot be read as Parquet: {first}") from error
    batches = table.to_batches(max_chunksize=AT_ONCE)
    for number, fields in enumerate(fields for batch in batches for fields in batch.to_pylist()):
        yield f"{path}[{number}]", fields


def _arrow(path: Path, _: Dropped) -> Iterator[Row]:
    """The rows of a file in Arrow's format for files or for streams, which `datasets` writes."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as file:
            try:
                table = pyarrow.ipc.open_file(file).read_all()
            except pyarrow.ArrowInvalid:
                file.seek(0)
                table = pyarrow.ipc.open_stream(file).read_all()
            _refuse_twice(path, table.column_names)
            rows = table.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        first = str(error).partition("\n")[0]
        raise DataError(f"{path}: cannot be read as Arrow: {first}") from error
    for number, fields in enumerate(rows):
        yield f"{path}[{number}]", fields


def _hub(source: str, split: str) -> Iterator[Row]:
    if source.startswith((".", "/", "~")) or _has_rows(Path(source)) or source.count("/") > 1:
        raise DataError(f"{source}: no such file{nearest_path(source, _has_rows)}")
    refuse_download(source, "data set")
    from datasets import load_dataset

    try:
        dataset = load_dataset(source, split=split)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        named = source if len(source) <= LONGEST_NAME else f"{source[:LONGEST_NAME]}..."
        near = nearest_path(source, _has_rows)
        raise DataError(f"{named}: is neither a file here nor a data set that the hub gave: {first}{near}") from error
    for number, fields in enumerate(dataset):
        yield f"{source}[{number}]", fields


def _has_rows(path: Path) -> bool:
    return path.suffix in {*ENDINGS, *PACKED}
