"""Suites on people's rows: who judges, on which rows, whether it is the same for all, and what the table calls it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from rlhf_bench import judges
from rlhf_bench.bundled import find
from rlhf_bench.commands import bench
from rlhf_bench.runs import CELLS
from rlhf_bench.suite import read
from rlhf_serve.app import app
from rlhf_serve.batches import Batches

from rlhf_plugins import RlhfError, RunError, open_run
from rlhf_plugins.testing import tiny_pairs

Write = Callable[..., Path]
TRAINER = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1}
JUDGE = {"stage": "reward_model", "name": "judge", "from": "base", "own_rows": 0.4, "trainer": {"max_steps": 1}}
DPO = {"stages": [{"stage": "preference", "name": "dpo", "trainer": TRAINER}]}
PPO = {
    "stages": [
        {"stage": "reward_model", "share": 0.5, "trainer": TRAINER},
        {
            "stage": "online",
            "name": "ppo",
            "from": "base",
            "share": 0.5,
            "trainer": {**TRAINER, "num_generations": 2, "max_completion_length": 4},
        },
    ]
}
SANDBOX = {"format": "sandbox", "writer": "sloppy"}
INNER = {"use": "preference", "data": SANDBOX, "trainer": TRAINER}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "rows of the algorithms": (
        {"judge": [{k: v for k, v in JUDGE.items() if k != "own_rows"}]},
        "judge: judge learns from the rows of the algorithms: give it `own_rows: 0.3`",
    ),
    "a start that it judges": (
        {"judge": [{k: v for k, v in JUDGE.items() if k != "from"}]},
        "judge: judge starts from the policy that it judges: write `from: base`",
    ),
    "all rows": ({"judge": [{**JUDGE, "own_rows": 1}]}, "judge: own_rows should be a part of the training prompts"),
    "two parts": (
        {"judge": [JUDGE, {**JUDGE, "name": "b", "own_rows": 0.2}]},
        "judge: own_rows should be the same in all its stages",
    ),
    "two sources": ({"judge": [{**JUDGE, "data": "sandbox"}]}, "judge: a stage has both own_rows and data"),
    "no reward": (
        {"judge": [JUDGE, {"stage": "sft", "from": "base", "own_rows": 0.4}], "evaluate": {"reward": "model"}},
        "judge: sft, its last stage, makes no reward model",
    ),
    "an algorithm with rows of its own": (
        {"algorithms": {"dpo": {"stages": [{**DPO["stages"][0], "data": SANDBOX}]}}},
        "algorithms.dpo.stages: dpo has `data` of its own, whose prompts a judge that is trained may have learned from",
    ),
    "a start with rows of its own": (
        {"start": [{"stage": "sft", "data": SANDBOX, "trainer": TRAINER}]},
        "start: sft has `data` of its own",
    ),
    "rows of a training inside": (
        {"algorithms": {"dpo": {"stages": [{"stage": "switch", "from": "base", "phases": [INNER]}]}}},
        "algorithms.dpo.stages: switch has `data` of its own",
    ),
    "held-out prompts from elsewhere": (
        {"evaluate": {"data": SANDBOX}},
        "judge: evaluate.data: judge may have learned from its prompts",
    ),
    "a judge that is not asked": (
        {"evaluate": {"reward": {"use": "python", "path": "builtins:len"}}},
        "judge: evaluate.reward is not judge, which the suite trains to judge: leave out one of the two",
    ),
    "an algorithm's own reward beside a judge": (
        {"evaluate": {"reward": {"use": "model", "stage": "reward_model"}}, "algorithms": {"ppo": PPO}},
        "judge: evaluate.reward is not judge",
    ),
    "no stages": ({"judge": ["reward_model"]}, "judge: should be a list of stages"),
}


@pytest.fixture
def people(suite: Write, tmp_path: Path) -> Write:
    """Writes a suite on a file of pairs with one seed, and gives its file."""

    def write(**changes: Any) -> Path:
        rows = [
            {"prompt": f"{group.prompt}{place}", "chosen": group.responses[0], "rejected": group.responses[1]}
            for place, group in enumerate(tiny_pairs(24))
        ]
        (file := tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        tasks = {"people": {"data": {"format": "preference", "source": str(file), "test_fraction": 0.3}}}
        shown = {"prompts": 4, "best_of": 1, "max_new_tokens": 4}
        own = {
            "seeds": [1],
            "tasks": tasks,
            "evaluate": shown,
            "algorithms": {"dpo": DPO, "ppo": PPO},
            "judge": [JUDGE],
        }
        return suite(**{**own, **changes})

    return write


@pytest.mark.parametrize("case", BAD)
def test_a_judge_that_algorithms_may_have_seen_is_refused(case: str, people: Write) -> None:
    changes, message = BAD[case]
    with pytest.raises(RunError) as refused:
        read(people(**changes))
    assert message in str(refused.value)


def test_a_judge_has_rows_of_its_own_and_judges(people: Write) -> None:
    dpo, ppo = read(people()).cells
    *_, judge, evaluate = dpo.recipe["stages"]
    assert (dpo.recipe["data"]["format"], dpo.recipe["data"]["share"]) == ("apart", 0.4)
    assert judge["data"] == {**dpo.recipe["data"], "part": "judge"}
    assert evaluate["reward"] == {"use": "model", "stage": "judge"}
    assert "tasks" not in evaluate  # dpo has no reward of its own
    (wins,) = ppo.recipe["stages"][-1]["tasks"]
    expected = {"use": "reward_wins", "reward": {"use": "model", "stage": "reward_model"}, "rows": 4}
    assert wins == {**expected, "max_new_tokens": 4}


def test_the_bundled_suite_compares_answers_with_peoples(people: Write, tmp_path: Path) -> None:
    people()  # writes the pairs
    given = [f"tasks.people.data.source={tmp_path}/pairs.jsonl"]
    dpo, *_, ppo = read(find("people"), quick=True, overrides=given).cells
    assert [task["use"] for task in dpo.recipe["stages"][-1]["tasks"]] == ["bleu", "rouge_l"]
    assert [task["use"] for task in ppo.recipe["stages"][-1]["tasks"]] == ["bleu", "rouge_l", "reward_wins"]


def test_a_file_of_the_judges_own_loses_the_prompts_of_the_algorithms(people: Write, tmp_path: Path) -> None:
    own = {"format": "preference", "source": str(tmp_path / "pairs.jsonl")}
    stage = {**{k: v for k, v in JUDGE.items() if k != "own_rows"}, "data": own}
    cell, *_ = read(people(judge=[stage])).cells
    assert cell.recipe["stages"][-2]["data"] == {"format": "unseen", "rows": own, "by": cell.recipe["data"]}


def test_what_names_the_judge_or_an_earlier_stages_rows_is_no_fault(people: Write) -> None:
    rounds = {"stage": "iterate", "from": "base", "reward": "model", "rounds": 1, "share": 0.2}
    of_rounds = {"format": "stage", "stage": "iterate"}
    again = {"stage": "preference", "name": "dpo", "data": of_rounds, "share": 0.3, "trainer": TRAINER}
    stages = [{"stage": "reward_model", "share": 0.5, "trainer": TRAINER}, rounds, again]
    named = {"reward": {"use": "weighted", "parts": [{"use": "model", "stage": "judge"}], "weights": [2.0]}}
    assert read(people(algorithms={"dpo": {"stages": stages}}, evaluate=named)).cells


def rows_of(root: Path) -> list[dict[str, Any]]:
    (table,) = root.glob("small*/bench.json")
    found: list[dict[str, Any]] = json.loads(table.read_text())["runs"]
    return found


def test_a_judge_of_its_own_rows_then_as_a_saved_one(
    people: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench([str(people())], root=tmp_path / "runs")
    text = capsys.readouterr().out
    assert "gold" not in text.partition("## Cost")[0].lower()
    assert "A score is the mean by the reward model of stage `judge` on" in text
    assert "Judged by the reward model of stage `judge`: trained after the policies, none of which" in text
    assert "| wins over base by its own reward | by the judge |" in text
    assert "people, ppo: " in text
    assert "it orders " in text
    first, second = rows_of(tmp_path / "runs")
    assert first["judge_digest"] == second["judge_digest"] != ""
    assert first["base"] == second["base"]
    notes = open_run(tmp_path / "runs" / CELLS / first["run"]).report.notes
    assert not any("favours" in note for note in notes)

    saved = {"use": "saved", "path": f"{tmp_path}/runs/{CELLS}/{first['run']}#judge"}
    shown = {"prompts": 4, "best_of": 1, "max_new_tokens": 4, "reward": saved}
    bench([str(people(judge=[], algorithms={"dpo": DPO}, evaluate=shown))], root=tmp_path / "again")
    again = capsys.readouterr().out
    assert "A score is the mean by the reward `saved" in again
    (row,) = rows_of(tmp_path / "again")
    shared, own = row["judge_shares"]
    assert 0 < shared < own  # these algorithms learn from the judge's part, too
    assert f"its run trained on {shared} of the {own} prompts that policies learn from" in again
    assert row["base"] == first["base"]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that likes long answers."""

    def lengths(prompts: Sequence[Any], responses: Sequence[Any], cut: Sequence[bool]) -> list[float | None]:
        return [float(len(response)) for response in responses]

    monkeypatch.setenv("RLHF_SERVE_TOKEN", "t")
    config = uvicorn.Config(app(Batches(lengths), "m", "t"), port=0, log_level="error")
    listening, server = config.bind_socket(), uvicorn.Server(config)
    listening.listen()
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_a_server_judges(people: Write, tmp_path: Path, served: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = {"prompts": 4, "best_of": 1, "max_new_tokens": 4, "reward": {"use": "served", "url": served}}
    bench([str(people(judge=[], algorithms={"dpo": DPO}, evaluate=shown)), "about=hello"], root=tmp_path / "runs")
    text = capsys.readouterr().out
    assert json.loads(next((tmp_path / "runs").glob("small-*/bench.json")).read_text())["overrides"] == ["about=hello"]
    assert f"A score is the mean by the reward `served {served}` on" in text
    assert "what it was trained on is not known here" in text
    assert all(score == int(score) for score in rows_of(tmp_path / "runs")[0]["scores"])  # lengths


def test_rows_are_read_once_for_all_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    read_again, known = [0], dict[str, list[int] | None]()
    monkeypatch.setattr(judges, "shared", lambda path, rows: [rows, 20])
    record: Any = SimpleNamespace(recipe={"base": "b", "data": {}, "seed": 1}, data=lambda: read_again.append(0) or 3)
    assert [judges._shares("a", record, known) for _ in range(2)] == [[3, 20]] * 2
    record.recipe["seed"] = 2
    judges._shares("a", record, known)
    assert len(read_again) == 3


def row(**changes: Any) -> dict[str, Any]:
    known = {"task": "people", "seed": 1, "status": "finished", "judge": "reward model score"}
    return {
        **known,
        "judge_kind": "reward model",
        "judge_name": "saved a#b",
        "judge_stage": "",
        "judge_digest": "x",
        **changes,
    }


@pytest.mark.parametrize(
    ("shares", "said"),
    [([3, 20], "its run trained on 3 of the 20 prompts"), ([0, 20], "none of the 20"), (None, "not")],
)
def test_prompts_that_a_saved_judge_shares_are_counted(shares: list[int] | None, said: str) -> None:
    (note,) = judges.notes([row(judge_shares=shares)])
    assert note.startswith("Judged by the reward `saved a#b`: ")
    assert said in note


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (
            {"judge": "log-likelihood per token", "judge_kind": "loss", "judge_name": "log-likelihood per token"},
            "the log-likelihood per token: of held-out answers, so that it says nothing of what a policy writes.",
        ),
        (
            {"judge": "function score", "judge_kind": "function", "judge_name": "python mine:length"},
            "the reward `python mine:length`: a policy that was trained on its judge is favoured.",
        ),
        (
            {"judge_name": "model a", "judge_stage": "reward_model"},
            "the reward model of stage `reward_model`: a reward model favours a policy that was trained on it.",
        ),
    ],
)
def test_each_kind_of_judge_has_its_note(of: dict[str, Any], said: str) -> None:
    assert list(judges.notes([row(**of)])) == [f"Judged by {said}"]


def test_judges_that_differ_are_named() -> None:
    own = {"judge_stage": "judge", "judge_name": "model judge", "judge_after": True}
    right = {"judge_accuracy": [0.5, 8]}
    first, second = judges.notes([row(**own, **right), row(**own, judge_digest="y", judge_accuracy=[0.75, 8])])
    assert "it orders 62% of 8 held-out pairs as they were judged; each seed has its own" in first
    assert second == "people, seed 1: the judge is not the same under all algorithms, so that gains say little."


def test_what_only_its_own_reward_sees_is_over_optimised() -> None:
    means = {"ppo": {"own": 0.9, "win_rate": 0.45}, "rloo": {"own": 0.9, "win_rate": 0.6}, "dpo": {"win_rate": 0.6}}
    lines = [SimpleNamespace(task="t", algorithm=name, means=of) for name, of in means.items()]
    first, second = judges.over_optimised(lines, "own")
    above = "90% of its responses are above the base's by the reward that it was trained on, and"
    assert first == f"t, ppo: {above} 45% by the judge: over-optimised, or within what chance makes."
    assert second == f"t, rloo: {above} 60% by the judge."


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["budget"], "budget: an override is written key=value or a.b=value"),
        (["bugdet.flops=1"], "bugdet: unknown option (did you mean budget?"),
        (["budget.flops.a=1"], "budget.flops is 1000000000000.0 and has no options"),
        (["seeds.3=1"], "seeds.3: seeds has 1 elements, numbered from 0"),
        (["base=["], "'[' is not a YAML value"),
        (["base=" + "[" * 3000], "is not a YAML value"),
        (["algorithms.ppo.stages.rewad_model.share=1"], "no stage 'rewad_model' (did you mean reward_model?"),
        (["algorithms.pop.about=x"], "algorithms.pop.about=x: algorithms: unknown 'pop' (did you mean ppo?"),
        (["algorithms.ppo.about.x=1"], "algorithms.ppo.about: should be text, got"),
        (["about.x=1"], "about: should be text, got"),
        (["about="], "about: should be text, got None"),
        (["seeds=[1]", "seeds=[2]"], "seeds=[1] (command line): seeds: changes nothing, since a later one sets the"),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(given: list[str], message: str, people: Write) -> None:
    with pytest.raises(RlhfError) as refused:
        read(people(algorithms={"ppo": {**PPO, "about": ""}}, baseline="base", about=""), overrides=given)
    assert message in str(refused.value)


def test_an_override_of_a_suite_leads_where_one_of_a_recipe_does(people: Write) -> None:
    given = ["algorithms.dpo.stages.preference.loss.beta=0.3", "algorithms.ppo.stages.online.trainer.max_steps=9"]
    dpo, ppo = (cell.recipe["stages"] for cell in read(people(), overrides=given).cells)
    assert dpo[0]["loss"] == {"beta": 0.3}
    assert ppo[1]["trainer"]["max_steps"] == 9


def test_names_select_and_what_they_leave_out_takes_no_value(people: Write) -> None:
    given = ["algorithms=[ppo]", "baseline=base", "algorithms.ppo.about=hello"]
    found = read(people(), overrides=given)
    assert (found.algorithms, found.overrides) == ({"ppo": "hello"}, tuple(given))
    with pytest.raises(RunError, match="algorithms.dpo.about=hello: sets what is not among the tasks and algorithms"):
        read(people(), overrides=[*given, "algorithms.dpo.about=hello"])
    with pytest.raises(RunError, match=r"algorithms: unknown 'pop' \(did you mean ppo"):
        read(people(), overrides=["algorithms=[pop]"])


@pytest.mark.parametrize("quick", [False, True])
def test_a_value_in_the_block_quick_is_read_by_nobody(quick: bool, people: Write) -> None:
    with pytest.raises(RunError, match=r"quick.budget.flops=1.0: is read by nobody: .* without `quick.`"):
        read(people(quick={"budget": {"flops": 2.0e11}}), quick, ["quick.budget.flops=1.0"])


def test_a_text_about_a_suite_may_be_another(people: Write) -> None:
    assert read(people(), overrides=["about=hello", "seeds=[4]"]).about == "hello With seeds=[4]."
    assert read(people(), overrides=["about=hello"]).about == "hello"


def test_a_suite_with_other_values_has_a_folder_of_its_own_and_says_them(people: Write) -> None:
    plain, other = (read(people(), overrides=given) for given in ((), ("budget.flops=1.0e+3",)))
    assert plain.name == "small"
    assert other.name.startswith("small-")
    assert other.about == "With budget.flops=1.0e+3."
    assert other.budget == {"flops": 1000.0}


def test_the_suite_of_people_takes_their_file_and_base(people: Write, tmp_path: Path) -> None:
    people()
    given = [f"base={tmp_path / 'base'}", f"tasks.people.data.source={tmp_path / 'pairs.jsonl'}"]
    for quick in (False, True):
        cells = read(find("people"), quick, given).cells
        assert {cell.algorithm for cell in cells} == {"dpo", "ipo", "ppo"}
        assert cells[0].recipe["data"]["rows"]["source"] == str(tmp_path / "pairs.jsonl")
