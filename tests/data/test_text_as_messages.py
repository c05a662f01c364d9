"""Text rows as messages, which the chat template renders, and the warning where none goes through it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from templates import chat_base

from rlhf_plugins import run_recipe, session
from rlhf_plugins.components.data_format import Comparisons, Preference, Prompts, Ratings, Supervised
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.batches.rendered import unrendered
from rlhf_plugins.engine.weights.loading import load_tokenizer
from rlhf_plugins.errors import DataError
from rlhf_plugins.recipe.check import load_recipe
from rlhf_plugins.run.preflight import Preflight
from rlhf_plugins.sandbox import POLICY
from rlhf_plugins.testing import tiny_base

SAID = "\n\nHuman: Hi.\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant:"
STEPS = {"max_steps": 1, "per_device_train_batch_size": 2, "disable_tqdm": True, "report_to": "none"}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def written(folder: Path, *rows: dict[str, Any]) -> str:
    (file := folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def read(made: Any) -> list[Group]:
    return sorted(made.load(Base(""), 0).groups, key=lambda group: str(group.prompt))


PAIR = [[bot("x")], [bot("y")]]
FORMATS: dict[str, tuple[Any, dict[str, Any], list[Any]]] = {
    "pairs": (Preference, {"chosen": "x", "rejected": "y"}, PAIR),
    "lists": (Preference, {"chosen": ["x"], "rejected": ["y"]}, PAIR),
    "comparisons": (Comparisons, {"response_a": "x", "response_b": "y", "label": "a"}, PAIR),
    "ratings": (Ratings, {"responses": ["x", "y"], "score": [2, 1]}, PAIR),
    "answers": (Supervised, {"completion": "x"}, [[bot("x")]]),
    "prompts": (Prompts, {"answer": "x"}, []),
}


@pytest.mark.parametrize(("made", "row", "responses"), FORMATS.values(), ids=FORMATS)
def test_text_becomes_the_turns_of_both(tmp_path: Path, made: Any, row: dict[str, Any], responses: list[Any]) -> None:
    file = written(tmp_path, *({"prompt": asked, **row} for asked in "pqr"))
    found = read(made(source=file, as_messages=True))
    assert [(group.prompt, [*group.responses]) for group in found] == [([user(asked)], responses) for asked in "pqr"]
    plain = read(made(source=file))
    assert [group.prompt for group in plain] == ["p", "q", "r"]
    judged = [(group.comparisons, group.ratings, group.columns, group.origin) for group in found]
    assert judged == [(group.comparisons, group.ratings, group.columns, group.origin) for group in plain]


def test_an_instruction_with_its_input_is_the_users_turn(tmp_path: Path) -> None:
    rows = [{"instruction": f"Add {n}.", "input": "1", "output": "x"} for n in (1, 2)]
    first, _ = read(Supervised(source=written(tmp_path, *rows), as_messages=True))
    assert (first.prompt, first.responses) == ([user("Add 1.\n\n1")], ([bot("x")],))


def test_messages_stay_as_they_are(tmp_path: Path) -> None:
    rows = [{"messages": [user(asked), bot("x")]} for asked in "pq"]
    file = written(tmp_path, *rows)
    assert read(Supervised(source=file, as_messages=True)) == read(Supervised(source=file))


def test_text_and_messages_may_be_in_one_file(tmp_path: Path) -> None:
    file = written(tmp_path, {"prompt": "p", "completion": "x"}, {"messages": [user("q"), bot("x")]})
    assert [group.prompt for group in read(Supervised(source=file, as_messages=True))] == [[user("p")], [user("q")]]


def test_a_transcript_becomes_its_turns(tmp_path: Path) -> None:
    rows = [{"chosen": f"{SAID} It is {n}.\n\nHuman: Ok\n\nAssistant: Bye.", "rejected": f"{SAID} No."} for n in (1, 2)]
    (first, *_) = read(Preference(source=written(tmp_path, *rows), as_messages=True))
    assert first.prompt == [user("Hi."), bot("Yes?"), user("Why?")]
    assert first.responses == ([bot("It is 1."), user("Ok"), bot("Bye.")], [bot("No.")])


REFUSED = {
    "an implicit prompt": ({"chosen": "The sky is blue", "rejected": "The sky is red"}, "has no column of the prompt"),
    "within an answer": ({"prompt": f"{SAID} It", "chosen": "a", "rejected": "b"}, "ends within an answer"),
    "a user's end": ({"prompt": SAID, "chosen": "a\n\nHuman: b", "rejected": "c"}, "a turn of the role 'user'"),
}


@pytest.mark.parametrize(("row", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_turns_is_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    good = [{"prompt": asked, "chosen": "x", "rejected": "y"} for asked in "pq"]
    with pytest.raises(DataError, match=f"rows.jsonl:3: .*{message}"):
        read(Preference(source=written(tmp_path, *good, row), as_messages=True))


# ---- the warning -----------------------------------------------------------------------------------------
def warned(base: Base, *prompts: Any) -> str:
    return unrendered(map(Group, prompts), lambda: load_tokenizer(base), "B", "write `w`")


@pytest.mark.parametrize(
    ("style", "rendered"), [("qwen", "<turn>user who<end>\n<turn>assistant "), ("llama2", "[INST] who [/INST]")]
)
def test_a_base_with_a_template_warns_of_text_that_it_has_not_rendered(
    tmp_path: Path, style: str, rendered: str
) -> None:
    base = chat_base(tmp_path, style)
    assert warned(base, "who", "how").startswith("the rows are text, so that the chat template of B renders none")
    assert "; write `w` for prompts" in warned(base, "who")
    assert not warned(base, [user("who")], [user("how")])
    assert not warned(base, rendered, "how")
    assert not warned(base)


def test_a_base_whose_template_adds_nothing_or_is_not_there_does_not_warn(tmp_path: Path) -> None:
    assert not warned(Base(str(POLICY)), "who")
    assert not warned(Base("nowhere"), "who")
    assert not warned(tiny_base(tmp_path / "a"), "who")
    assert not warned(chat_base(tmp_path / "b", "", template="{{ bos_token }}{{ messages[0].content }}"), "who")
    assert warned(chat_base(tmp_path / "c", "", template="{{ bos_token }}Q: {{ messages[0].content }}"), "who")


def recipe(folder: Path, **stage_data: Any) -> dict[str, Any]:
    base = chat_base(folder, "qwen").path
    file = written(folder, *({"prompt": "who is" + " the" * n, "completion": "ant"} for n in range(6)))
    data = {"format": "supervised", "source": file}
    own = {"data": {**data, **stage_data}} if stage_data else {}
    return {
        "base": base,
        "data": data,
        "stages": [{"stage": "sft", "trainer": STEPS, **own}],
        "output_dir": f"{folder}/run",
    }


def test_a_check_and_a_run_say_what_to_write(tmp_path: Path) -> None:
    given, said = recipe(tmp_path), list[str]()
    load_recipe(given, preflight=(preflight := Preflight()))
    (warning,) = [sentence for sentence in preflight.sentences() if sentence.startswith("warning: the rows are text")]
    assert "write `data.as_messages=true` for" in warning
    run_recipe(given, say=said.append)
    assert warning in said


def test_with_the_option_nothing_is_said_and_the_template_renders(tmp_path: Path) -> None:
    given, said = recipe(tmp_path), list[str]()
    load_recipe(given, ["data.as_messages=true"], preflight=(preflight := Preflight()))
    assert not list(preflight.sentences())
    run_recipe(given, ["data.as_messages=true", "system=dog"], say=said.append)
    assert not any("warning" in line for line in said)


def test_rows_of_a_stages_own_are_named_by_their_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = recipe(tmp_path, split="train")
    load_recipe(given, ["data.as_messages=true"], preflight=(preflight := Preflight()))
    (checked,) = preflight.sentences()
    assert "`stages.0.data.as_messages=true`" in checked
    with caplog.at_level(logging.WARNING):
        run_recipe(given, ["data.as_messages=true"], say=lambda _: None)
    assert "sft: the rows are text" in caplog.text
    assert "`stages.sft.data.as_messages=true`" in caplog.text


def test_a_session_says_it_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = recipe(tmp_path)
    session(given["base"], {"use": "supervised", "source": given["data"]["source"]}, tmp_path / "session")
    assert 'give the spec of the data `"as_messages": True`' in caplog.text
