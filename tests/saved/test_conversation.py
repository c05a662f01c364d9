"""A conversation is answered as its policies sample, and a better answer becomes a row that trains."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finished import finished_run

from rlhf_plugins import Data, Group
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.formats.preference import read_pairs
from rlhf_plugins.data.rows import read_rows
from rlhf_plugins.engine.prompt_form import note_prompts
from rlhf_plugins.engine.sampling import Decoding, drawn
from rlhf_plugins.engine.streaming import stream
from rlhf_plugins.errors import DataError, RunError
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.saved.conversation import Answer, Conversation, judge_of, reader_of, text_ending
from rlhf_plugins.saved.run_reference import made

GREEDY = Decoding(6, 0.0)
IDS = torch.zeros(1, 0, dtype=torch.long)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "chat"])
def run(request: Any, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return finished_run(tmp_path_factory.mktemp("talk") / "run", chat=request.param)


def talk_of(run: RunFolder, folder: Path, *stages: str, decoding: Decoding = GREEDY) -> Conversation:
    found = [made(f"{run.path}#{stage}", "policies") for stage in stages]
    judge = judge_of(found[0], None)
    return Conversation([(one.stage, one.policy()) for one in found], decoding, judge, folder / "better.jsonl")


def said(talk: Conversation, line: str) -> list[str]:
    talk.ask(line)
    return ["".join(talk.answer(*one)) for one in talk.policies]


@pytest.mark.parametrize("stage", ["sft", "dpo", "base"])
def test_a_greedy_stream_is_the_greedy_sample(run: RunFolder, stage: str) -> None:
    policy = made(f"{run.path}#{stage}").policy()
    for prompt in ("how is the ", "why who "):
        for penalty in (1.0, 1.5):
            streamed = "".join(stream(policy, prompt, replace(GREEDY, repetition_penalty=penalty)))
            asked = {"temperature": 0, "max_new_tokens": 6, "repetition_penalty": penalty}
            assert [streamed] == policy.sample([prompt], **asked).responses


def test_top_p_leaves_the_fewest_likely_tokens_that_reach_it() -> None:
    logits, generator = torch.tensor([[0.2, 0.5, 0.3]]).log(), torch.Generator().manual_seed(0)
    for top_p, left in ((0.4, {1}), (0.6, {1, 2}), (1.0, {0, 1, 2})):
        assert {int(drawn(IDS, logits, Decoding(top_p=top_p), generator)) for _ in range(200)} == left
    assert int(drawn(IDS, logits, Decoding(temperature=0.0), generator)) == 1


def test_a_conversation_goes_on_from_the_better_answer(run: RunFolder, tmp_path: Path) -> None:
    talk = talk_of(run, tmp_path, "dpo", "base")
    first, second = said(talk, "how is")
    row = talk.prefer(2)
    assert (row["chosen_by"], row["rejected_by"]) == ("base", "dpo")
    said(talk, "why")
    roles = [("user", "how is"), ("assistant", second), ("user", "why")] if talk.remembers else []
    assert [(m["role"], m["content"]) for m in talk.messages] == roles
    assert first != second


def test_a_better_answer_is_a_row_of_trl(run: RunFolder, tmp_path: Path) -> None:
    talk = talk_of(run, tmp_path, "dpo", "base")
    answers = said(talk, "how is")
    talk.prefer(1)
    ((_, group),) = read_pairs(read_rows(str(talk.file)), Dropped())
    written = [r if isinstance(r, str) else r[0]["content"] for r in group.responses]
    assert (written, group.ranks, group.columns["chosen_by"]) == (answers, (0, 1), "dpo")


def test_one_policy_answers_again(run: RunFolder, tmp_path: Path) -> None:
    talk = talk_of(run, tmp_path, "dpo", decoding=Decoding(6, 3.0, seed=1))
    said(talk, "how is")
    with pytest.raises(RunError, match="ask for one more with /again"):
        talk.prefer(1)
    talk.again()
    list(talk.answer(*talk.policies[0]))
    talk.prefer(2)
    assert len(talk.answers) == len({answer.text for answer in talk.answers}) == 2


def test_rewards_are_the_reward_models(run: RunFolder, tmp_path: Path) -> None:
    talk = talk_of(run, tmp_path, "dpo", "base")
    answers = said(talk, "how is")
    judge = made(str(run.path), "rewards").reward()
    prompt: Any = [{"role": "user", "content": "how is"}] if talk.remembers else "how is"
    written: Any = [[{"role": "assistant", "content": a}] if talk.remembers else a for a in answers]
    expected = judge.predict(judge.encode([prompt] * 2, written)).reward.tolist()
    assert talk.rewards() == pytest.approx(expected, abs=1e-6)


def test_what_cannot_be_done_is_said(run: RunFolder, tmp_path: Path) -> None:
    talk = talk_of(run, tmp_path, "dpo", "dpo")
    with pytest.raises(RunError, match="no answer to score yet"):
        talk.rewards()
    with pytest.raises(DataError, match="the prompt has 30[02] tokens, and the model takes 256"):
        said(talk, "how " * 300)
    said(talk, "how is")
    assert len(talk.messages) == talk.remembers
    with pytest.raises(RunError, match="the two answers are equal"):
        talk.prefer(1)
    assert not talk.file.exists()


@pytest.mark.parametrize(
    ("trained", "ending", "note"),
    [
        (["how\n", "why is\n"], "\n", r"a new line in it, and '\n' is added as in training"),
        (["how\n", "why is"], "", "dpo was trained on text: each line is a prompt of its own"),
        ([[{"role": "user", "content": "how"}]], None, ""),
        ([], None, "dpo has no note whether it was trained on text or messages: lines are messages"),
    ],
    ids=["line break", "text", "messages", "older"],
)
def test_a_line_is_rendered_as_in_training(
    run: RunFolder, tmp_path: Path, trained: list[Any], ending: str | None, note: str
) -> None:
    folder = shutil.copytree(run.path, tmp_path / "run")
    if trained:
        note_prompts(folder / "02-dpo/model", Data(tuple(map(Group, trained))), folder)
    found = [made(f"{folder}#{stage}", "policies") for stage in ("dpo", "base")]
    given, notes = text_ending(found, template=True)
    assert (given, len(notes)) == (ending, bool(note))
    assert note in "".join(notes)
    _, (plain,) = text_ending(found, template=False)
    assert plain.startswith("the base has no chat template")


def test_a_policy_of_text_is_asked_in_text(run: RunFolder, tmp_path: Path) -> None:
    policy = made(f"{run.path}#dpo").policy()
    talk = Conversation([("dpo", policy)], GREEDY, made(str(run.path), "rewards"), tmp_path / "x", ending=" ")
    for line in ("how is", "why who "):
        assert said(talk, line) == list(policy.sample([line.rstrip() + " "], temperature=0, max_new_tokens=6).responses)
    judge = made(str(run.path), "rewards").reward()
    expected = judge.predict(judge.encode([line], [talk.answers[0].text])).reward.tolist()
    assert talk.rewards() == pytest.approx(expected, abs=1e-6)


def test_answers_leave_the_reward_model_room_to_read(run: RunFolder, tmp_path: Path) -> None:
    """The base takes 256 tokens; the template writes a space behind each of the 248 words."""
    policies, judge = [("dpo", made(f"{run.path}#dpo").policy())], made(str(run.path), "rewards")
    talk = Conversation(policies, Decoding(50, 0.0), judge, tmp_path / "x", reader=reader_of(judge))
    said(talk, "how " * 248)
    assert len(talk.rewards()) == 1
    talk.reader = None
    talk.answers = [Answer("dpo", "how " * 20)]
    with pytest.raises(RunError, match=r"the conversation has 2\d\d tokens .* takes 256: /reset begins a new one"):
        talk.rewards()
