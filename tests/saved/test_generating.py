"""A file of prompts is answered as the policy answers, and an interrupted file becomes the uninterrupted one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finished import finished_run

from rlhf_plugins import load_policy
from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.engine.policy import ModelPolicy
from rlhf_plugins.engine.prompt_form import note_prompts
from rlhf_plugins.engine.sampling import Decoding
from rlhf_plugins.errors import DataError, RunError
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.saved import generating
from rlhf_plugins.saved.generating import Responses, generate_file
from rlhf_plugins.saved.scoring import score_file

GREEDY, SAMPLED = Decoding(4, 0.0), Decoding(4, seed=3)
BOTH = ("dpo", "base")  # the base is asked as the run's policies are
ROWS = [{"id": i, "prompt": "how " * (i + 1), "chosen": "ant", "rejected": "gas"} for i in range(5)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return finished_run(tmp_path_factory.mktemp("generating") / "run", chat=True)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes rows into the working folder, where two make a chunk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generating, "CHUNK", 2)

    def write(rows: list[dict[str, Any]] | str, name: str = "rows.jsonl") -> str:
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        Path(name).write_text(text)
        return name

    return write


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_a_row_keeps_its_columns_and_gets_a_response(run: RunFolder, written: Callable[..., str]) -> None:
    done = generate_file(run.path, written(ROWS), None, 1, GREEDY)
    policy = load_policy(run.path / "02-dpo/model")
    expected = policy.sample([row["prompt"] for row in ROWS], temperature=0, max_new_tokens=4).responses
    found = rows_of(done.out)
    assert (done.out, done.rows, done.before) == (Path("rows.jsonl.responses.jsonl"), 5, 0)
    assert [list(row) for row in found] == [["id", "prompt", "response"]] * 5
    assert [row["response"] for row in found] == expected


def test_equal_responses_are_not_asked_for(run: RunFolder, written: Callable[..., str]) -> None:
    with pytest.raises(RunError, match="the 2 responses to a prompt are equal at temperature 0"):
        generate_file(run.path, written(ROWS), None, 2, GREEDY)


def test_what_is_written_can_be_scored(run: RunFolder, written: Callable[..., str]) -> None:
    messages = [{"prompt": [{"role": "user", "content": "how is"}]}]
    for n, prompts in ((1, ROWS), (2, messages)):
        out = generate_file(run.path, written(prompts), Path(f"{n}.jsonl"), n, SAMPLED).out
        scored = rows_of(score_file(run.path / "03-judge/model", str(out)).out)
        assert [len(row.get("rewards", [0])) for row in scored] == [n] * len(prompts)


def test_a_system_turn_beside_a_prompt_joins_it(run: RunFolder, written: Callable[..., str]) -> None:
    turns = [{"role": "system", "content": "why"}], [{"role": "user", "content": "how is"}]
    said = [{"role": "assistant", "content": "ant"}]
    beside = [{"prompt": "how is", "system": "why", "response": "ant"}, {"prompt": "how is", "response": "ant"}]
    inside = [{"prompt": [*turns[0], *turns[1]], "response": said}, {"prompt": turns[1], "response": said}]
    answers, rewards = list[Any](), list[Any]()
    for name, rows in (("beside", beside), ("inside", inside)):
        out = generate_file(run.path, written(rows, f"{name}.jsonl"), None, 1, Decoding(8, seed=3)).out
        answers.append([row["response"] for row in rows_of(out)])
        rewards.append([row["reward"] for row in rows_of(score_file(run.path / "03-judge/model", f"{name}.jsonl").out)])
    assert [[{"role": "assistant", "content": answer}] for answer in answers[0]] == answers[1]
    assert rewards[0] == rewards[1]
    assert rewards[0][0] != rewards[0][1]
    assert [row["prompt"] for row in rows_of(Path("beside.jsonl.responses.jsonl"))] == ["how is"] * 2


def test_any_format_and_plain_lines_give_prompts(run: RunFolder, written: Callable[..., str]) -> None:
    pairs = [{"chosen": f"why {a}", "rejected": f"why {b}"} for a, b in (("ant", "gas"), ("elk", "gas"))]
    of_pairs = rows_of(generate_file(run.path, written(pairs), None, 1, SAMPLED).out)
    of_lines = rows_of(generate_file(run.path, written("how \n\nwhy \n", "p.txt"), None, 1, SAMPLED).out)
    assert [row["prompt"] for row in of_pairs] == ["why"]
    assert [row["prompt"] for row in of_lines] == ["how ", "why "]


def test_a_line_ends_at_a_line_break_alone(run: RunFolder, written: Callable[..., str]) -> None:
    asked = rows_of(generate_file(run.path, written("\ufeffhow\u2028is\r\nwhy\x85is\n", "p.txt"), None, 1, SAMPLED).out)
    assert [row["prompt"] for row in asked] == ["how\u2028is", "why\x85is"]


def test_lines_are_literal_and_blank_ones_counted(run: RunFolder, written: Callable[..., str]) -> None:
    lines = written("\nhow\\nis\n \nwhy \nwhy\\n\n", "p.txt")
    done = generate_file(run.path, lines, None, 1, SAMPLED)
    assert [row["prompt"] for row in rows_of(done.out)] == ["how\\nis", "why ", "why\\n"]
    (note,) = done.notes
    assert note.startswith("p.txt:2 and 1 more: \\n is a backslash and an n there; ")
    assert (done.rows, done.blank) == (3, 2)


ASKED = [{"role": "user", "content": "how "}]


@pytest.mark.parametrize(
    ("trained", "prompt", "said"),
    [(ASKED, ASKED, "a message for the"), ("why\n", "how \n", r"ends with '\n' as in training")],
)
def test_lines_are_given_as_in_training(
    trained: Any, prompt: Any, said: str, run: RunFolder, written: Callable[..., str]
) -> None:
    note_prompts(run.path / "02-dpo/model", Data((Group(trained),)), run.path)
    try:
        done = [generate_file(f"{run.path}#{name}", written("how ", f"{name}.txt"), None, 1, SAMPLED) for name in BOTH]
        rows = generate_file(run.path, written([{"prompt": [*ASKED] if trained != ASKED else "how"}]), None, 1, SAMPLED)
    finally:
        (run.path / "02-dpo/model/prompts.json").unlink()
    assert [rows_of(one.out)[0]["prompt"] for one in done] == [prompt] * 2
    assert all(len(one.notes) == 1 and said in one.notes[0] for one in done)
    assert "and the policy was trained on" in rows.notes[0]


def test_an_interrupted_file_becomes_the_uninterrupted_one(
    run: RunFolder, written: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = generate_file(run.path, written(ROWS), Path("whole.jsonl"), 2, SAMPLED).out.read_bytes()
    sample, calls = ModelPolicy.sample, iter(range(9))

    def interrupted(*args: Any, **options: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return sample(*args, **options)

    monkeypatch.setattr(ModelPolicy, "sample", interrupted)
    with pytest.raises(KeyboardInterrupt, match="part.jsonl: 2 of 5 prompts are answered"):
        generate_file(run.path, "rows.jsonl", Path("part.jsonl"), 2, SAMPLED)
    done = generate_file(run.path, "rows.jsonl", Path("part.jsonl"), 2, SAMPLED)
    assert (done.before, done.out.read_bytes()) == (2, whole)


def test_a_file_of_another_sampling_is_left_alone(run: RunFolder, written: Callable[..., str]) -> None:
    out = generate_file(run.path, written(ROWS), None, 1, SAMPLED).out
    before = out.read_bytes()
    for model, decoding, what in (
        (run.path, GREEDY, "temperature and another seed"),
        (run.path, replace(SAMPLED, top_p=0.9), "top p"),
        (run.path, replace(SAMPLED, top_k=5, min_p=0.1), "top k and another min p"),
        (run.path, replace(SAMPLED, repetition_penalty=1.1), "repetition penalty"),
        (f"{run.path}#sft", SAMPLED, "model"),
    ):
        with pytest.raises(RunError, match=f"written of another {what}; name another file with --out, or delete it"):
            generate_file(model, "rows.jsonl", None, 1, decoding)
    assert out.read_bytes() == before
    assert generate_file(run.path, "rows.jsonl", None, 1, SAMPLED) == Responses(out, 5, 5, 0)


def test_all_prompts_that_are_too_long_are_named(run: RunFolder, written: Callable[..., str]) -> None:
    rows = written([{"prompt": "how " * count} for count in (300, 2, 254)])
    with pytest.raises(DataError, match=r"(?s)2 rows cannot be read.*jsonl:1: .* has 300 tokens.*jsonl:3: .* leaves 2"):
        generate_file(run.path, rows, None, 1, SAMPLED)


BAD = [
    ({"prompt": ""}, "rows.jsonl:2: the prompt has no token"),
    ({"prompt": "how " * 254}, "rows.jsonl:2: its prompt leaves 2 tokens: give --max-new-tokens 2 at most"),
    ({"prompt": "how " * 300}, "rows.jsonl:2: the prompt has 300 tokens, and the model takes 256"),
    ({"promt": "how "}, r"rows.jsonl:2: lacks the column 'prompt' \(did you mean promt\?"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_bad_prompt_is_named_before_anything_is_written(
    run: RunFolder, written: Callable[..., str], row: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        generate_file(run.path, written([ROWS[0], row]), None, 1, SAMPLED)
    assert [path.name for path in Path().iterdir()] == ["rows.jsonl"]
