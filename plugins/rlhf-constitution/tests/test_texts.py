"""Conversations as the plain text that principles read, and back."""

from __future__ import annotations

from pathlib import Path

from rlhf_constitution.texts import plain

from rlhf_plugins import Data, Group, component
from rlhf_plugins.testing import tiny_base, tiny_run

TALK = [{"role": "user", "content": "why"}, {"role": "assistant", "content": "so"}, {"role": "user", "content": "how"}]


def test_a_conversation_is_one_text() -> None:
    assert plain("why") == "why"
    assert plain(TALK) == "user: why\nassistant: so\nuser: how"
    assert plain([{"role": "assistant", "content": [{"type": "text", "text": "so"}, {"type": "image"}]}]) == "so\n"
    called = {"role": "assistant", "content": None, "tool_calls": [{"name": "sum", "arguments": {"of": [1, 2]}}]}
    assert plain([called]) == '[{"name": "sum", "arguments": {"of": [1, 2]}}]'


TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


def test_conversations_stay_conversations_in_what_the_stages_write(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    (tmp_path / "base/chat_template.jinja").write_text(TEMPLATE)
    (tmp_path / "c.yaml").write_text("principles: [{use: length_band, low: 9, high: 20}]")
    run = tiny_run(base, tmp_path / "run")
    talks = tuple(Group([{"role": "user", "content": f"why is the {word}"}]) for word in ("cat", "dog", "elk", "fox"))
    prompts = {"train": talks, "test": talks}
    stage = component(
        "stage", "ai_feedback", constitution=str(tmp_path / "c.yaml"), gap=0.0, sampling={"max_new_tokens": 12}
    )
    result = run.train(stage, name="feedback", data=Data((), (), prompts))
    (group, *_) = result.data.train
    assert group.prompt == talks[0].prompt
    assert all(turns[0]["role"] == "assistant" for turns in group.responses)
