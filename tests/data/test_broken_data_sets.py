"""Broken data sets: each is refused in one line that names the file, the line where there is one, and what to do."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.data import splits
from rlhf_plugins.data.formats.preference import read_pairs
from rlhf_plugins.data.sources import Sources
from rlhf_plugins.errors import DataError

GOOD = {"prompt": "p", "chosen": "good", "rejected": "bad"}


def load(path: Path | str) -> None:
    splits.load(Sources(str(path)), read_pairs, seed=0)


def second(**changes: Any) -> str:
    """A good row, then one that is not."""
    return json.dumps(GOOD) + "\n" + json.dumps({**GOOD, **changes})


def lines(*rows: dict[str, Any]) -> str:
    return "\n".join(map(json.dumps, rows))


ASKED = [{"role": "user", "content": "x"}]
ANSWER = [{"role": "assistant", "content": "x"}]
HEADER = "prompt,chosen,rejected,margin\n"
SQUEEZED = gzip.compress(json.dumps(GOOD).encode() * 100)

BROKEN: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("a.jsonl", "", "a.jsonl: holds no rows"),
    "blank lines": ("a.jsonl", "\n \n", "a.jsonl: holds no rows"),
    "empty archive": ("a.jsonl.gz", gzip.compress(b""), "a.jsonl.gz: holds no rows"),
    "empty array": ("a.json", "[]", "a.json: holds no rows"),
    "header alone": ("a.csv", HEADER, "a.csv: holds no rows"),
    "unknown ending": ("a.jsnl", "", "a.jsnl: unknown file ending '.jsnl' (did you mean .jsonl? known:"),
    "unknown ending in an archive": ("a.txt.gz", b"", "a.txt.gz: unknown file ending '.txt'"),
    "not JSON": ("a.jsonl", lines(GOOD, GOOD) + "\n{'chosen'}", "a.jsonl:3: is not JSON: Expecting property name"),
    "cut short": ("a.jsonl", lines(GOOD) + '\n{"chosen": "x', "a.jsonl:2: is not JSON: Unterminated string"),
    "two objects on a line": ("a.jsonl", json.dumps(GOOD) * 2, "a.jsonl:1: is not JSON: Extra data at column"),
    "a list": ("a.jsonl", lines(GOOD) + '\n["x"]', "a.jsonl:2: expected an object with named fields, found list"),
    "array spoilt": ("a.json", '[{"chosen": "x"},\n\n{"chosen"}]', "a.json:3: is not JSON: Expecting ':' delimiter"),
    "array of text": ("a.json", '["x"]', "a.json[0]: expected an object with named fields, found str"),
    "nested without end": ("a.jsonl", '{"chosen": ' + "[" * 10**5, "a.jsonl:1: cannot be read as JSON: maximum rec"),
    "endless number": ("a.jsonl", '{"margin": ' + "9" * 5000 + "}", "a.jsonl:1: cannot be read as JSON: Exceeds"),
    "key twice": ("a.jsonl", '{"chosen": "a", "chosen": "b"}', "a.jsonl:1: cannot be read as JSON: two fields are"),
    "column twice": ("a.csv", "chosen,rejected,chosen\na,b,c", "a.csv:1: two columns are named 'chosen'"),
    "ragged, short": ("a.csv", HEADER + "p,a,b,1\np,a", "a.csv:3: has not the 4 fields of the header"),
    "ragged, long": ("a.csv", HEADER + "p,a,b,1,2", "a.csv:2: has not the 4 fields of the header"),
    "open quote": ("a.csv", HEADER + 'p,"a,b,1\n', "a.csv:2: is not CSV: unexpected end of data"),
    "bars": ("a.csv", "chosen|rejected\na|b", "a.csv:1: has one column, 'chosen|rejected': separate"),
    "semicolons in tabs": ("a.tsv", "chosen;rejected\na;b", "a.tsv:1: has one column, 'chosen;rejected': separate"),
    "ragged semicolons": ("a.csv", "prompt;chosen;rejected\na;b;c;d", "a.csv:2: has not the 3 fields of the header"),
    "misspelt": ("a.jsonl", lines({"chosn": "a", "rejected": "b"}), "a.jsonl:1: lacks the column 'chosen' (did you"),
    "column missing later": ("a.jsonl", lines(GOOD, {"chosen": "a"}), "a.jsonl:2: lacks the column 'rejected'"),
    "number for text": ("a.jsonl", second(chosen=3), "a.jsonl:2: chosen must be text or a list of messages, found int"),
    "null chosen": ("a.jsonl", second(chosen=None), "a.jsonl:2: chosen must be text or a list of messages, found null"),
    "null prompt": ("a.jsonl", second(prompt=None), "a.jsonl:2: prompt must be text or a list of messages, found null"),
    "object for text": (
        "a.jsonl",
        second(rejected={}),
        "a.jsonl:2: rejected must be text or a list of messages, found",
    ),
    "half a character": (
        "a.jsonl",
        second(chosen="a\ud83d"),
        "a.jsonl:2: chosen is not Unicode text: half a character",
    ),
    "half a character in a column that is kept": (
        "a.jsonl",
        second(meta={"notes": ["good", "\ud83d"]}),
        "a.jsonl:2: 'meta' is not Unicode text: half a character",
    ),
    "an implicit prompt's user at the end": (
        "a.jsonl",
        lines({"chosen": ASKED + ANSWER + ASKED, "rejected": [*ASKED, {**ANSWER[0], "content": "y"}]}),
        "a.jsonl:1: chosen begins or ends with a turn of the role 'user', not the assistant's",
    ),
    "not UTF-8": ("a.jsonl", lines(GOOD).encode() + b"\n{\xff}", "a.jsonl:2: is not UTF-8 (byte"),
    "UTF-16": ("a.csv", HEADER.encode("utf-16"), "a.csv:1: is not UTF-8 (byte 0)"),
    "archive cut short": ("a.jsonl.gz", SQUEEZED[:-12], "a.jsonl.gz: cannot be read: Compressed file ended"),
    "archive spoilt": ("a.jsonl.gz", SQUEEZED[:12] + b"?" * 9 + SQUEEZED[21:], "a.jsonl.gz: cannot be read: "),
    "not an archive": ("a.jsonl.gz", b"{}", "a.jsonl.gz: cannot be read: Not a gzipped file"),
    "not Parquet": ("a.parquet", "PAR1 but no", "a.parquet: cannot be read as Parquet: "),
    "margin NaN": ("a.jsonl", second(margin=float("nan")), "a.jsonl:2: margin must be a finite number, found 'nan'"),
    "margin infinite": ("a.jsonl", second(margin=10**400), "a.jsonl:2: margin must be a finite number, found '1000"),
    "margin in words": ("a.jsonl", second(margin="much"), "a.jsonl:2: margin must be a finite number, found 'much'"),
    "margin true": ("a.jsonl", second(margin=True), "a.jsonl:2: margin must be a finite number, found 'True'"),
    "no role": ("a.jsonl", second(prompt=[{"content": "x"}]), "a.jsonl:2: every message of prompt needs a text `role`"),
    "from and value": ("a.jsonl", second(chosen=[{"from": "gpt", "value": "x"}]), "a.jsonl:2: chosen is messages"),
    "text in a list": ("a.jsonl", second(chosen=["x"]), "a.jsonl:2: every message of chosen needs a text `role`"),
    "text and messages": ("a.jsonl", second(rejected=ANSWER), "a.jsonl:2: chosen is text, rejected is messages"),
    "prompt of another form": ("a.jsonl", second(prompt=ASKED), "a.jsonl:2: is messages, the rows before it are text"),
    "forms mixed": (
        "a.jsonl",
        lines(GOOD, {"prompt": ASKED, "chosen": ANSWER, "rejected": [*ANSWER, *ANSWER]}),
        "a.jsonl:2: is messages, the rows before it are text",
    ),
    "no common beginning": (
        "a.jsonl",
        lines({"chosen": "yes", "rejected": "no", "promt": "q"}),
        "a.jsonl:1: has no `prompt` (did you mean promt? known: chosen, promt, rejected), and chosen and",
    ),
    "all useless": (
        "a.jsonl",
        lines({**GOOD, "chosen": "bad"}, {**GOOD, "chosen": ""}),
        "a.jsonl: no row is useful (1 chosen equals rejected, 1 empty prompt or response)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_data_set_is_refused(name: str, tmp_path: Path) -> None:
    file, content, message = BROKEN[name]
    path = tmp_path / file
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for source in (tmp_path / "none.jsonl", "none.csv", "./none", "data/none.jsonl.gz"):
        with pytest.raises(DataError, match="none.*: no such file"):
            load(source)


def test_a_folder_is_named_with_the_endings_that_are_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no file of rows; name a file \(known: \.arrow, \.csv, \.json, "):
        load(tmp_path)


@pytest.mark.parametrize("source", ["no-such/data-set", "nonsense", "x" * 5000, "nul\0byte"])
def test_what_is_neither_a_file_nor_on_the_hub_is_said_to_be_so(source: str) -> None:
    with pytest.raises(DataError, match="is neither a file here nor a data set that the hub gave"):
        load(source)


def test_a_misspelt_ending_gets_the_file_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").touch()
    with pytest.raises(DataError, match=r"^pairs\.jsnl: is neither .* \(did you mean pairs\.jsonl\?\)$"):
        load("pairs.jsnl")


def test_columns_twice_in_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table([["a"], ["b"]], names=["chosen", "chosen"]), path)
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as Parquet: Multiple matches"):
        load(path)


@pytest.mark.parametrize("which", ["test_source", "out_of_distribution"])
@pytest.mark.parametrize("row", [{**GOOD, "prompt": ASKED, "chosen": ANSWER}, {**GOOD, "system": "Be kind."}])
def test_sources_of_two_forms(which: str, row: dict[str, Any], tmp_path: Path) -> None:
    rejected = [{"role": "assistant", "content": "y"}] if row["prompt"] == ASKED else row["rejected"]
    (tmp_path / "a.jsonl").write_text(lines({**row, "rejected": rejected}))
    (tmp_path / "b.jsonl").write_text(lines(GOOD))
    sources = Sources(str(tmp_path / "a.jsonl"), **{which: str(tmp_path / "b.jsonl")})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"b\.jsonl: its prompts are text, those to train on are messages"):
        splits.load(sources, read_pairs, seed=0)


def test_columns_twice_in_arrow(tmp_path: Path) -> None:
    import pyarrow

    table = pyarrow.table([["p"], ["a"], ["b"], ["c"]], names=["prompt", "chosen", "rejected", "chosen"])
    with pyarrow.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match=r"a\.arrow: two columns are named 'chosen'"):
        load(tmp_path / "a.arrow")
