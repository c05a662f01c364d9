"""What a run made, used from the shell: each command takes `RUN#STAGE`, and refuses in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from click.testing import Result
from finished import finished_run

Rlhf = Callable[..., Result]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("using") / "run").path


@pytest.fixture
def run(source: Path, tmp_path: Path) -> Path:
    """A copy of the run in the working folder, which another test cannot have changed."""
    shutil.copytree(source, tmp_path / "run")
    return tmp_path / "run"


def test_responses_are_written_and_scored(rlhf: Rlhf, run: Path) -> None:
    Path("p.txt").write_text("how \n\nwhy \n")
    words = ("--n", "2", "--max-new-tokens", "3", "--out", "r.jsonl")
    done = rlhf("generate", "run#sft", "p.txt", *words)
    assert done.stdout.startswith("r.jsonl: 2 prompts, 1 blank line skipped")
    assert rlhf("score", "run#judge", "r.jsonl").stdout == "r.jsonl.scored.jsonl: 2 rows\n"
    (row, _) = map(json.loads, Path("r.jsonl.scored.jsonl").read_text().splitlines())
    assert (len(row["responses"]), len(row["rewards"])) == (2, 2)
    said = "r.jsonl: 2 prompts, 2 of them answered before, 1 blank line skipped\n"
    assert rlhf("generate", "run#sft", "p.txt", *words).stdout == said


def test_options_of_sampling_reach_the_policy(rlhf: Rlhf, run: Path) -> None:
    Path("p.txt").write_text("how \nwhy \n")
    for name, words in (
        ("greedy", ("--temperature", "0")),
        *((f"cut{i}", cut) for i, cut in enumerate((("--top-k", "1"), ("--min-p", "1"), ("--top-p", "0.0001")))),
        ("penalised", ("--temperature", "0", "--repetition-penalty", "9")),
    ):
        assert rlhf("generate", "run#sft", "p.txt", "--max-new-tokens", "9", "--out", name, *words).exit_code == 0
    said = {name: Path(name).read_text() for name in ("greedy", "cut0", "cut1", "cut2", "penalised")}
    assert said["cut0"] == said["cut1"] == said["cut2"] == said["greedy"] != said["penalised"]
    assert json.loads(Path("cut0.note.json").read_text())["top k"] == 1
    again = rlhf("generate", "run#sft", "p.txt", "--max-new-tokens", "9", "--out", "cut0", "--top-k", "2")
    assert (again.exit_code, again.stderr.startswith("cut0: exists, and was written of another top k")) == (2, True)
    talk = [rlhf("chat", "run#sft", *words, input="how \n").stdout for words in ((), ("--top-k", "1"))]
    assert talk[1] == rlhf("chat", "run#sft", "--temperature", "0", input="how \n").stdout != talk[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--top-p", "0"), "top_p cannot be 0.0: it is above 0 and at most 1"),
        (("--top-p", "1.5"), "Invalid value for '--top-p'"),
        (("--top-k", "-1"), "Invalid value for '--top-k'"),
        (("--repetition-penalty", "0"), "repetition_penalty cannot be 0.0: it is above 0, and 1 does nothing"),
        (("--temperature", "0", "--top-p", "0.9"), "at temperature 0 the likeliest token is taken, whatever top_p"),
    ],
    ids=lambda words: "".join(words) if isinstance(words, tuple) else "",
)
def test_options_that_cannot_be_sampled_with_are_refused(
    rlhf: Rlhf, run: Path, words: tuple[str, ...], said: str
) -> None:
    Path("p.txt").write_text("how \n")
    for command in (("generate", "run#sft", "p.txt"), ("chat", "run#sft")):
        done = rlhf(*command, *words)
        assert done.exit_code != 0
        assert said in done.stderr
    assert not Path("p.txt.responses.jsonl").exists()


def test_a_policy_is_exported_with_the_error_of_merging(rlhf: Rlhf, run: Path) -> None:
    done = rlhf("export", "run#dpo", "out", "--merge", "--dtype", "fp32")
    assert (done.exit_code, done.stdout) == (0, "out\n")
    assert done.stderr.startswith("logits differ by ")
    assert Path("out/model.safetensors").exists()
    assert "the adapter needs its base" in rlhf("export", "run", "adapter").stderr
    assert rlhf("export", "run#judge", "judge", "--stock").stdout == "judge\n"


def test_runs_are_listed_shown_and_compared(rlhf: Rlhf, run: Path) -> None:
    shutil.copytree(run, run.with_name("other"))
    assert [line.split()[:3] for line in rlhf("runs", "list", ".").stdout.splitlines()] == [
        [name, "finished", "4/5"] for name in ("other", "run")
    ]
    assert "    policy run#dpo\n" in rlhf("runs", "show", "run").stdout
    assert rlhf("runs", "diff", "run", "other").stdout == "no difference\n"
    compared = rlhf("report", "run", "other").stdout.splitlines()
    assert [line.split()[:2] for line in compared[3:]] == [[r, p] for r in ("run", "other") for p in ("base", "dpo")]


def test_seeds_are_not_compared_with_a_run(rlhf: Rlhf, run: Path) -> None:
    seeds = Path("seeds")
    seeds.mkdir()
    (seeds / "members.json").write_text("{}")
    refused = rlhf("report", "run", "seeds")
    assert refused.exit_code == 2
    assert refused.stderr.endswith("seeds holds seeds or a sweep: give it alone, or name single members of it\n")


def test_pruning_asks_first(rlhf: Rlhf, run: Path) -> None:
    (run / "02-dpo/checkpoint-1").mkdir()
    assert rlhf("runs", "prune", "run").stdout.splitlines()[-1].endswith("could be deleted: add --yes")
    assert (run / "02-dpo/checkpoint-1").exists()
    assert rlhf("runs", "prune", "run", "--yes").exit_code == 0
    assert not (run / "02-dpo/checkpoint-1").exists()


LINES = "how is\n/reward\n/better 1\n/beter 1\n/again x\n\n/reset\n/reward\n/help\n/quit\nnever read\n"


def test_a_conversation_comes_from_a_pipe(rlhf: Rlhf, run: Path) -> None:
    words = ("chat", "run#dpo", "--beside", "run#base", "--max-new-tokens", "3", "--temperature", "0")
    done = rlhf(*words, input=LINES)
    out, err = done.stdout.splitlines(), done.stderr.splitlines()
    assert err[0] == "run#dpo and run#base; /help lists the commands"
    assert [line.partition(": ")[0] for line in out[:4]] == ["[1] run#dpo", "[2] run#base"] * 2
    assert out[4] == "preferences.jsonl: run#dpo is better than run#base"
    assert [line.split()[0] for line in out[5:]] == ["/again", "/better", "/reward", "/reset", "/help", "/quit"]
    assert [*err[2:4], err[4][:17]] == [ALIKE, "/again takes no 'x'", "there is no answe"]
    assert json.loads(Path("preferences.jsonl").read_text())["prompt"] == "how is"


CUT = "cut; see --max-new-tokens]"
ONE = [
    f"a [{CUT}",
    "[1] is the answer before",
    f"[2] run#dpo: b [answer 2 {CUT}",
    "preferences.jsonl: answer 2 is better than answer 1",
    "[1] is the answer before",
    "[2] run#dpo: c",
]
TWO = [
    f"[1] run#dpo: a [answer 1 {CUT}",
    f"[2] run#base: b [answer 2 {CUT}",
    "[1] run#dpo: c",
    f"[2] run#base:  [answer 2 {CUT}",
]


@pytest.mark.parametrize(("beside", "lines"), [((), ONE), (("--beside", "run#base"), TWO)], ids=["one", "two"])
def test_answers_are_numbered_where_there_are_two(
    rlhf: Rlhf, run: Path, beside: tuple[str, ...], lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers are a and b, cut; c, whole; and one that is cut before it has a character."""
    answers = iter([("a", False), ("b", False), ("c", True), ("", False)])

    def stream(*args: object) -> Generator[str, None, bool]:
        text, ended = next(answers)
        yield from text
        return ended

    monkeypatch.setattr("rlhf_plugins.engine.streaming.stream", stream)
    said = "how is\n/again\n" if beside else "how is\n/again\n/better 2\n/again\n"
    assert rlhf("chat", "run#dpo", *beside, input=said).stdout.splitlines() == lines


ALIKE = "unknown command /beter (did you mean /better? known: /again, /better, /help, /quit, /reset, /reward)"

REFUSED = [
    (("runs", "show", "rum"), "rum: holds no run (did you mean run?"),
    (("runs", "list", "nowhere"), "nowhere: no such folder"),
    (("export", "run#base", "out"), "run#base: is the model that the run started from, "),
    (("export", "run#dpo", "out", "--stock"), "--stock is a form of reward models, and run#dpo is a policy"),
    (("export", "run#dpo", "run"), "run: exists and is not an empty folder; name another"),
    (("export", "run#judge", "out", "--dtype", "fp23"), "did you mean fp32?"),
    (("chat", "run#judge"), "run#judge: that stage made no policy (known: base, dpo, sft)"),
    (("chat", "run", "--beside", "run#spt"), "did you mean sft?"),
    (("chat", "run", "--reward", "run#sft"), "that stage made no reward model (known: judge)"),
    (("generate", "run#dop", "p.txt"), "did you mean dpo?"),
    (("generate", "rum", "p.txt"), "did you mean run?"),
    (("generate", "run", "nowhere.txt"), "nowhere.txt: no such file"),
    (("score", "run#dpo", "p.txt"), "run#dpo: that stage made no reward model (known: judge)"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_a_refusal_is_one_line(rlhf: Rlhf, run: Path, words: tuple[str, ...], message: str) -> None:
    Path("p.txt").write_text("how \n")
    result = rlhf(*words)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr


@pytest.mark.parametrize("words", [(), ("run",), ("data", "check"), ("generate",)], ids=" ".join)
def test_h_is_help_everywhere(rlhf: Rlhf, words: tuple[str, ...]) -> None:
    assert rlhf(*words, "-h").stdout == rlhf(*words, "--help").stdout != ""
