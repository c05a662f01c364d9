"""How a recipe has conversations rendered: the same for every stage, and in whatever opens what they saved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from templates import chat_base

from rlhf_plugins import check_recipe, load_policy, load_reward_model, run_recipe
from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.contract.run import Base, Chat
from rlhf_plugins.data.batches.chat import refuse_text, whole_template
from rlhf_plugins.data.batches.tokens import encode, encode_prompt, template_to_end
from rlhf_plugins.engine.weights.loading import load_tokenizer
from rlhf_plugins.errors import DataError, RecipeError, RunError
from rlhf_plugins.testing import tiny_encoder

ASKED, ANSWERED = [{"role": "user", "content": "who"}], [{"role": "assistant", "content": "ant"}]
CHAT = Chat(system="be \"dog\"\n{{ x }} 'é'", options={"enable_thinking": False})
TRAINER = {"max_steps": 1, "per_device_train_batch_size": 2, "disable_tqdm": True, "report_to": "none"}


def rendered(base: Base, template: str, messages: list[dict[str, Any]] = ASKED, **options: Any) -> str:
    tokenizer = load_tokenizer(base)
    options |= {"chat_template": template, "tokenize": False, "add_generation_prompt": True}
    return str(tokenizer.apply_chat_template(messages, **options))


def test_the_system_turn_and_the_options_are_in_the_template(tmp_path: Path) -> None:
    base = chat_base(tmp_path, "qwen")
    own = str(load_tokenizer(base).chat_template)
    spoken = [{"role": "system", "content": CHAT.system}, *ASKED]
    expected = rendered(base, own, spoken, enable_thinking=False)
    assert "<think> </think>" in expected
    once = whole_template(own, CHAT)
    assert rendered(base, once) == rendered(base, once, spoken) == expected
    assert rendered(base, whole_template(once, CHAT)) == expected


def test_a_line_break_that_begins_a_template_is_kept(tmp_path: Path) -> None:
    base = chat_base(tmp_path, "qwen")
    assert rendered(base, whole_template("\n{{ messages[0].content }}", CHAT)) == f"\n{CHAT.system}"


def test_training_and_the_end_of_an_export_follow_it(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(replace(chat_base(tmp_path, "qwen"), chat=Chat(system="dog")))
    prompt, response = encode(tokenizer, ASKED, ANSWERED)
    assert tokenizer.convert_ids_to_tokens(prompt)[:3] == ["<turn>", "<unk>", "dog"]
    asked = encode_prompt(tokenizer, ASKED)
    tokenizer.chat_template = template_to_end(tokenizer)
    assert tokenizer.apply_chat_template([*ASKED, *ANSWERED], return_dict=True)["input_ids"] == prompt + response
    assert encode_prompt(tokenizer, ASKED) == asked


@pytest.mark.parametrize("options", [{"a-b": 1}, {"a": {1, 2}}])
def test_what_a_template_cannot_hold_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="chat_template_kwargs: "):
        whole_template("{{ x }}", Chat(options=options))


def test_models_without_a_template_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no chat template, which `system` and `chat_template_kwargs` need"):
        whole_template(None, Chat(system="s"))
    with pytest.raises(RunError, match="is an encoder, which reads conversations without a chat template"):
        load_tokenizer(replace(tiny_encoder(tmp_path), chat=Chat(system="s")))


def test_rows_of_text_are_refused() -> None:
    refuse_text(Data((Group("p"),)), None)
    with pytest.raises(DataError, match="the recipe gives system and chat_template_kwargs, which only conversations"):
        refuse_text(Data((Group("p"),)), CHAT)


def recipe(folder: Path, **more: Any) -> dict[str, Any]:
    base = chat_base(folder / "base", "qwen")
    said = [[{"role": "assistant", "content": word}] for word in ("ant", "bee")]
    rows = [
        {"prompt": [{"role": "user", "content": f"who {n}", "name": "elk"}], "chosen": said[0], "rejected": said[1]}
        for n in range(8)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stages = [{"stage": name, "trainer": TRAINER} for name in ("reward_model", "sft", "preference")]
    return {
        "base": base.path,
        "data": {"format": "preference", "source": str(folder / "rows.jsonl")},
        "stages": stages,
        "output_dir": str(folder / "run"),
        **more,
    }


def test_a_template_is_read_from_its_file_into_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ messages }}")
    given = recipe(tmp_path, chat_template=str(tmp_path / "t.jinja"))
    resolved = check_recipe(given)
    assert (resolved["chat_template"], check_recipe(resolved)) == ("{{ messages }}", resolved)
    with pytest.raises(RecipeError, match="chat_template: there is no file 't.jnja'"):
        check_recipe({**given, "chat_template": "t.jnja"})


def test_what_stages_save_is_opened_as_it_was_trained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_recipe(recipe(tmp_path, system="dog", chat_template_kwargs={"enable_thinking": False}))
    expected = load_tokenizer(Base(str(tmp_path / "base"), chat=Chat(system="dog", options={"enable_thinking": False})))
    ids = encode_prompt(expected, ASKED)
    for place in ("02-sft", "03-preference"):
        assert load_policy(tmp_path / "run" / place / "model").encoder.encode_start(ASKED) == ids
    assert load_reward_model(tmp_path / "run/01-reward_model/model").encoder.encode_start(ASKED) == ids
    lost = "name that the chat template does not write"
    dropped = json.loads((tmp_path / "run" / "report.json").read_text())["data"]["dropped"]
    assert [dropped[f"{stage}: {lost}"] for stage in ("reward_model", "sft", "preference")] == [6] * 3
    assert f"sft: 6 of 6 rows have a {lost}" in caplog.text
    assert load_tokenizer(Base(str(tmp_path / "run/02-sft/model"))).chat_template == expected.chat_template
