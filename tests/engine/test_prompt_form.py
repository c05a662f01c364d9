"""A saved model is noted with the form of its prompts: its training's, or that of its start where it had no rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_plugins import Data, Group, RunError
from rlhf_plugins.engine.prompt_form import PROMPTS, Prompted, note_prompts, noted_prompts

TEXT, MESSAGES = Group("how is "), Group([{"role": "user", "content": "how is"}])


def test_the_last_training_with_rows_decides(tmp_path: Path) -> None:
    found, start = [], tmp_path / "base"
    for name, data in (
        ("a", Data((MESSAGES,))),
        ("b", Data((), prompts={"train": (TEXT,), "test": (MESSAGES,)})),
        ("c", Data(())),
        ("d", Data((TEXT, MESSAGES))),
    ):
        (tmp_path / name).mkdir()
        note_prompts(tmp_path / name, data, start)
        start = tmp_path / name
        found.append((noted_prompts(start).start, noted_prompts(start).forms, noted_prompts(start).as_text))
    assert found == [
        ((), ("messages",), False),
        (("messages",), ("text",), True),
        (("text",), ("text",), True),
        (("text",), ("messages", "text"), False),
    ]


def test_an_older_model_has_no_note_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert noted_prompts(tmp_path) == Prompted()
    (tmp_path / PROMPTS).write_text('{"tained": []}')
    with pytest.raises(RunError, match=r"prompts\.json: cannot be read: 'trained'"):
        noted_prompts(tmp_path)
