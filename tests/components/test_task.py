"""Tasks measure policies on rows with answers or choices, and count what must not happen, with intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from templates import chat_base
from torch import Tensor
from voting import share_that_prefers, voting

from rlhf_plugins import Run, RunError, Samples
from rlhf_plugins.data.fields import content
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_run

ROWS = [
    {"prompt": "how is ", "choices": ["ant", "bee"], "answer": "bee", "right": "ant"},
    {"prompt": "who is ", "choices": ["ant", "bee", "cat"], "answer": 2, "right": "cat"},
]


class Says:
    """A policy that answers `ant`, and finds the log-probability of an answer in a table, the same for each token."""

    known = {"ant": -1.0, "bee": -2.0, "cat": -3.0}

    def sample(self, prompts: Any, **_: Any) -> Samples:
        columns = {name: [group.columns[name] for group in prompts] for name in ("right", "answer")}
        texts = [group.prompt for group in prompts]
        return Samples(texts, ["ant"] * len(texts), [[1]] * len(texts), [[2]] * len(texts), columns)

    def encode(self, prompts: Any, responses: Any) -> Samples:
        assert {type(prompt) for prompt in prompts} == {type(response) for response in responses}
        texts = [content(response) for response in responses]
        lengths = [4 if text == "ant" else 1 for text in texts]
        return Samples(list(prompts), texts, [[1]] * len(prompts), [[2] * n for n in lengths])

    def log_probs(self, samples: Samples) -> Tensor:
        rows = [
            [self.known[text]] * len(ids) for text, ids in zip(samples.responses, samples.response_ids, strict=True)
        ]
        return torch.tensor([row + [0.0] * (4 - len(row)) for row in rows])


class SaysFour(Says):
    """Four answers, whatever is asked."""

    def sample(self, prompts: Any, **_: Any) -> Samples:
        return Samples(["p"] * 4, ["ant"] * 4, [[1]] * 4, [[2]] * 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("task")
    return tiny_run(chat_base(folder / "base", "chatml"), folder / "run")


def measured(run: Run, tmp_path: Path, use: str, rows: Any = ROWS, **options: Any) -> list[float]:
    (file := tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"format": "prompts", "source": str(file)}
    found: list[float] = component("task", {"use": use, "data": data, **options}).build(run)(Says())
    return found[: len(rows)]


def test_answers_are_scored_by_a_rule(run: Run, tmp_path: Path) -> None:
    right = {"use": "exact_match", "column": "right"}
    assert measured(run, tmp_path, "answers", reward=right) == [1.0, 0.0]


def test_the_most_likely_choice_by_token_or_in_all(run: Run, tmp_path: Path) -> None:
    # by token ant (-1) is the likeliest; in all it has 4 * -1, so that bee (-2) is
    assert measured(run, tmp_path, "choices") == [0.0, 0.0]
    assert measured(run, tmp_path, "choices", by_length=False) == [1.0, 0.0]
    in_messages = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    assert measured(run, tmp_path, "choices", in_messages, by_length=False) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": "ant"}, "has no list of two or more texts in the column 'choices'"),
        ({"answer": "dog"}, "the column 'answer' should be one of its choices or the number of one"),
        ({"answer": 3}, "should be one of its choices or the number of one"),
    ],
)
def test_a_row_without_a_right_choice_is_named(run: Run, tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=f"task choices: the row 'who is '.*{message}"):
        measured(run, tmp_path, "choices", [ROWS[0], {**ROWS[1], **row}])


def test_violations_are_scores_above_a_limit(run: Run, tmp_path: Path) -> None:
    own = "def score(completions):\n    return [0.1 * i for i, _ in enumerate(completions)]\n"
    (file := tmp_path / "own.py").write_text(own)
    reward = {"use": "python", "path": f"{file}:score"}
    found = component("task", {"use": "violations", "reward": reward, "above": 0.15}).build(run)(SaysFour())
    assert found == [0.0, 0.0, 1.0, 1.0]  # of 0, 0.1, 0.2, 0.3


def test_wins_of_a_reward_over_the_reference_by_hand(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [0.5, 2.0, 3.5, 9.0, 1.0, 2.0, 3.0, 4.0]  # of the policy, and of the reference
    monkeypatch.setattr("rlhf_plugins.components.task._scored", lambda *_: lambda samples: scores)
    monkeypatch.setattr("rlhf_plugins.components.task._answers_of", lambda *_: lambda _: SaysFour().sample(()))
    found = component("task", {"use": "reward_wins", "reward": "json_object"}).build(run)(SaysFour())
    assert found == [0.0, 0.5, 1.0, 1.0]


def test_votes_are_on_both_answers_to_a_prompt(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is alone has one half, which would tie with the reference's for every policy."""
    prompts, ours, theirs = ["how is "] * 2 + ["who is "], ["ant", "gas bee", "elk"], ["bee", "ox", "cat ant"]
    said = lambda texts: run.reference().encode(prompts, texts if isinstance(texts, list) else theirs)  # noqa: E731
    monkeypatch.setattr("rlhf_plugins.components.task._answers_of", lambda *_: said)
    reward = {"use": "saved", "path": str(voting(tmp_path / "votes", run.base))}
    found = component("task", {"use": "reward_wins", "reward": reward}).build(run)(ours)
    shares = share_that_prefers(tmp_path / "votes", prompts, ours, theirs)
    assert found == [float(share > 0.5) for share in shares]
    assert set(found) == {0.0, 1.0}
    for use in ("violations", "answers"):
        with pytest.raises(RunError, match=f"task {use}: aggregation vote compares .* by any task but reward_wins"):
            component("task", {"use": use, "reward": reward, "data": "sandbox"}).build(run)


def test_rows_that_the_run_trains_on_are_counted(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen = [{**ROWS[0], "prompt": str(run.data.train[0].prompt)}, ROWS[1]]
    measured(run, tmp_path, "choices", seen)
    assert "task choices: 1 of its 2 rows have prompts that the run trains on" in caplog.text
