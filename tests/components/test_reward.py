"""Rewards of rollouts: the data's truth, or a trained model; without either a message that says what is missing."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from renumbered import renumbered

from rlhf_plugins.components.reward import Gold, Implicit, Model, Python, Weighted, register_reward
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rows import Data, GoldReward, Samples
from rlhf_plugins.contract.run import Base, Run, StageResult
from rlhf_plugins.contract.run_kinds import Generator, Reward
from rlhf_plugins.engine.policy import open_policy
from rlhf_plugins.errors import ComponentError, RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.handle import reward_handle
from rlhf_plugins.run.stage.stage_run import StageRun
from rlhf_plugins.testing import tiny_base

SAMPLES = Samples(["ab", "abc"], ["xxxx", ""], [[1], [1]], [[2], [2]])


def run_with(gold: GoldReward | None, *finished: StageResult) -> Run:
    data = Data((), (), {}, gold=gold)
    return StageRun(Base("base"), data, 0, Path("folder"), finished)


def test_gold_scores_each_response_by_its_total() -> None:
    reward = Gold().build(run_with(lambda prompt, text: {"helpful": 9.0, "total": len(prompt) + len(text) / 10}))
    assert reward(SAMPLES).reward.tolist() == pytest.approx([2.4, 3.0])


def test_gold_needs_data_whose_truth_is_known() -> None:
    with pytest.raises(RunError, match="gold needs data whose true reward is known"):
        Gold().build(run_with(None))


def test_model_needs_a_reward_stage() -> None:
    with pytest.raises(RunError, match="no earlier stage made a reward model"):
        Model().build(run_with(None))


def test_a_stage_that_left_no_reward_model_is_named_with_the_nearest() -> None:
    run = run_with(None, StageResult(rewards={"helpful": {"use": "saved", "path": "a"}}))
    with pytest.raises(RunError, match=r"did you mean helpful\? known: helpful\)"):
        Model("helpfull").build(run)


class BuildsWhat(Reward):
    def __init__(self, made: Any) -> None:
        self.made = made

    def build(self, run: Run) -> Any:
        return self.made


class Length(Reward):
    def build(self, run: Run) -> Any:
        return lambda samples: [len(response) for response in samples.responses]


def test_weighted_sources_are_summed_each_on_its_own_scale() -> None:
    run = run_with(lambda prompt, _: {"total": len(prompt)})
    assert Weighted(parts=(Gold(), Length())).build(run)(SAMPLES).reward.tolist() == [2 + 4, 3 + 0]
    assert Weighted(parts=(Gold(), Length()), weights=[2.0, -0.5]).build(run)(SAMPLES).reward.tolist() == [4 - 2, 6 - 0]


@dataclass(frozen=True)
class Counting(Reward):
    """A reward whose state is how often it was asked."""

    def build(self, run: Run) -> Any:
        """It gives that number."""
        return Counted()


class Counted:
    """What it builds."""

    asked = 0

    def __call__(self, samples: Samples) -> Prediction:
        self.asked += 1
        return Prediction(torch.full((len(samples.responses),), float(self.asked)))

    def state_dict(self) -> dict[str, int]:
        return {"asked": self.asked}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.asked = state["asked"]


@pytest.mark.parametrize(
    "made", [Weighted(parts=(Length(), Counting())), Weighted(parts=(Weighted(parts=(Counting(), Length())),))]
)
def test_a_weighted_reward_keeps_the_state_of_its_parts(made: Reward) -> None:
    first, second = (reward_handle(made.build(run_with(None))) for _ in range(2))
    for _ in range(3):
        last = first(SAMPLES).reward
    second.load_state_dict(first.state_dict())
    assert second(SAMPLES).reward.tolist() == (last + 1).tolist()


def test_each_weighted_source_is_known_by_its_own_name() -> None:
    run = run_with(lambda prompt, _: {"total": len(prompt)})
    own = Weighted(parts=(Gold(), Length(), Length())).build(run)(SAMPLES).dimensions
    assert {name: values.tolist() for name, values in own.items()} == {
        "gold": [2, 3],
        "length": [4, 0],
        "length_2": [4, 0],
    }


def test_a_reward_model_is_known_by_its_stage_where_it_is_named() -> None:
    assert [Model().part_name, Model("helpful").part_name, Gold().part_name] == ["model", "helpful", "gold"]


def test_a_function_is_known_by_its_name_and_its_parts_by_both(tmp_path: Path) -> None:
    """The response without a score has no number of the function, but one of the other part."""
    (tmp_path / "r.py").write_text(
        "def right(completions):\n    return [{'score': 1.0, 'near': 0.5}, {'score': None, 'near': 0.25}]\n"
    )
    parts = (Python(f"{tmp_path / 'r.py'}:right"), Length(), Python(f"{tmp_path / 'r.py'}:right"))
    own = Weighted(parts=parts).build(run_with(None))(SAMPLES).dimensions
    assert list(own) == ["right", "right/near", "length", "right_2", "right_2/near"]
    assert [str(value) for value in own["right"].tolist()] == ["1.0", "nan"]
    assert (own["right/near"].tolist(), own["length"].tolist()) == ([0.5, 0.25], [4, 0])


class Table(Reward):
    """Always the same rewards."""

    def __init__(self, *rows: Any) -> None:
        self.rows = rows

    def build(self, run: Run) -> Any:
        return lambda samples: self.rows


def test_weighted_sources_that_speak_of_tokens_are_summed_token_by_token() -> None:
    """2 [1, 2, 3] - [1, 0, 1] is [1, 4, 5]; a number for the whole response, 0.5 * 8, is paid at the last token."""
    samples = Samples(["p", "p"], ["abc", "d"], [[1], [1]], [[2, 3, 4], [2]])
    parts = Table([1, 2, 3], [5]), Table(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0])), Table(8, 2)
    score = Weighted(parts=parts, weights=[2.0, -1.0, 0.5]).build(run_with(None))
    assert score(samples).tokens.tolist() == [[1, 4, 5 + 4], [10 - 1 + 1, 0, 0]]


def test_a_source_of_a_weighted_reward_that_fails_is_named() -> None:
    score = Weighted(parts=(Gold(), Table([1, 2, 3], 1))).build(run_with(lambda *_: {"total": 1.0}))
    with pytest.raises(ComponentError, match=r"built by Table .* shape \(3,\) for a response of 1 tokens"):
        score(SAMPLES)


def late(samples: Samples) -> Any:
    yield 1.0
    raise KeyError("late")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (BuildsWhat(None), "BuildsWhat of .* built a NoneType, which cannot be called"),
        (BuildsWhat(late), "late of .* built by BuildsWhat .* not a number for each of 2 responses .*test_reward.py"),
    ],
)
def test_a_source_that_is_no_reward_is_named(source: Any, message: str) -> None:
    with pytest.raises(ComponentError, match=message):
        Weighted(parts=(source,)).build(run_with(None))(SAMPLES)


def test_a_list_of_sources_in_a_recipe() -> None:
    made = component(
        "reward", {"use": "weighted", "parts": ["gold", {"use": "model", "stage": "safe"}], "weights": [1, 2]}
    )
    assert made == Weighted(parts=(Gold(), Model("safe")), weights=[1.0, 2.0])


@pytest.mark.parametrize(("parts", "weights"), [((), None), ((Gold(),), [1.0, 2.0])])
def test_weights_that_do_not_match_the_sources_are_refused(parts: Any, weights: Any) -> None:
    with pytest.raises(ValueError, match="at least one reward|2 numbers for 1 parts"):
        Weighted(parts=parts, weights=weights)


class Fixed(Generator):
    """A policy whose tokens all have one log-probability."""

    def __init__(self, logp: float) -> None:
        self.logp = logp

    def build(self, run: Run) -> Any:
        return self

    def sample(self, prompts: Any, **options: Any) -> Samples:
        raise AssertionError("an implicit reward samples nothing")

    def log_probs(self, samples: Samples) -> torch.Tensor:
        lengths = torch.tensor([len(ids) for ids in samples.response_ids])
        return self.logp * (torch.arange(int(lengths.max())) < lengths.unsqueeze(1)).float()


def test_the_implicit_reward_is_the_log_ratio_of_a_response() -> None:
    """beta (log pi - log pi_ref): 0.5 * 3 tokens * (-1 + 3) is 3, of one token 1."""
    samples = Samples(["p", "p"], ["abc", "d"], [[1], [1]], [[2, 3, 4], [2]])
    reward = Implicit(policy=Fixed(-1.0), reference=Fixed(-3.0), beta=0.5)
    assert reward.build(run_with(None))(samples).reward.tolist() == [3.0, 1.0]
    by_token = replace(reward, by_token=True).build(run_with(None))(samples).tokens
    assert by_token.tolist() == [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]


def test_the_implicit_reward_of_a_policy_with_other_tokens_is_of_the_texts(tmp_path: Path) -> None:
    """Both number the words otherwise than the run's base, whose ids the samples have."""
    base, other = tiny_base(tmp_path / "base"), renumbered(tmp_path / "other")
    prompts, texts = ["how is\n", "who\n"], ["ant bee gas", "gas"]
    run = StageRun(base, Data((), (), {}), 0, tmp_path)
    spec = {"use": "trained", "path": other.path}
    reward = component("reward", {"use": "implicit", "policy": spec, "beta": 1.0})
    of_run, own = run.reference(), open_policy(None, other)
    samples = of_run.encode(prompts, texts)
    expected = own.log_probs(own.encode(prompts, texts)).sum(1) - of_run.log_probs(samples).sum(1)
    torch.testing.assert_close(reward.build(run)(samples).reward, expected)
    with pytest.raises(RunError, match="by_token: the policy or the reference has other tokens"):
        replace(reward, by_token=True).build(run)


FUNCTIONS = """
def length(completions, **_):
    return [float(len(c)) for c in completions]

def target(completions, wanted):
    return [None if w is None else float(c == w) for c, w in zip(completions, wanted)]

def one(completions):
    return [1.0]

def words(completions):
    return [c.split() for c in completions]

def never(completions):
    while True:
        pass

def roles(completions, prompts):
    return [float(c[0]["content"] == "xxxx" and p[0]["role"] == "user") for c, p in zip(completions, prompts)]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "r.py").write_text(FUNCTIONS)
    return tmp_path / "r.py"


def test_a_function_of_a_file_is_called_as_trl_calls_it(file: Path) -> None:
    def scored(function: str, samples: Samples) -> Any:
        return Python(f"{file}:{function}").build(run_with(None))(samples)

    assert scored("length", SAMPLES).reward.tolist() == [4, 0]
    found = scored("target", replace(SAMPLES, columns={"wanted": ["xxxx", None], "user": [1, 2]}))
    assert (found.reward.tolist(), found.abstained.tolist()) == ([1, 0], [False, True])
    assert scored("roles", replace(SAMPLES, prompts=[[{"role": "user", "content": "a"}]] * 2)).reward.tolist() == [1, 0]


def test_a_function_that_does_not_return_is_stopped_and_named(file: Path) -> None:
    reward, before = Python(f"{file}:never", timeout=0.05).build(run_with(None)), signal.getsignal(signal.SIGALRM)
    with pytest.raises(
        RunError, match=r"r\.py:never failed in line 1[45]: TimeoutError: not done after 0.05 s; `timeout` allows more"
    ):
        reward(SAMPLES)
    assert signal.getsignal(signal.SIGALRM) is before


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("one", r"r\.py:one gave 1 number for 2 responses"),
        ("roles", r"r\.py:roles failed in line 19: TypeError: string indices must be integers"),
        ("words", r"r\.py:words gave .*, not a number for each of 2 responses"),
    ],
)
def test_a_function_that_fails_or_whose_answer_does_not_fit_is_named(file: Path, function: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        Python(f"{file}:{function}").build(run_with(None))(SAMPLES)


def test_an_asynchronous_function_is_run(file: Path) -> None:
    file.write_text("async def later(completions):\n    return [float(len(c)) for c in completions]\n")
    assert Python(f"{file}:later").build(run_with(None))(SAMPLES).reward.tolist() == [4, 0]


def test_what_trls_trainer_alone_gives_is_named(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text(
        "def may(completions, trainer_state=None, log_metric=None):\n"
        "    return [float((trainer_state, log_metric is None) == (None, False))] * len(completions)\n\n"
        "def must(completions, trainer_state):\n    return [0.0] * len(completions)\n"
    )
    assert Python(f"{file}:may").build(run_with(None))(SAMPLES).reward.tolist() == [1, 1]
    assert f"reward: {file}:may is called without trainer_state, which TRL's trainer alone gives" in caplog.text
    assert not Python(f"{file}:may").missing()
    needs = f"{file}:must needs trainer_state, which TRL's trainer alone gives: give a default, and do without"
    assert Python(f"{file}:must").missing() == {"path": needs}
    with pytest.raises(RunError, match="must needs trainer_state"):
        Python(f"{file}:must").build(run_with(None))


SIGNATURES = """
import functools

def of(prompts, completions, solution, *, level, note=None, log_extra=None, **_): ...
def none(**_): ...
@functools.cache
def decorated(completions, solution): ...
def twice(solution): ...
def twice(other): ...
async def later(completions, answer): ...
"""


@pytest.mark.parametrize(
    ("function", "columns"),
    [
        ("of", {"solution", "level"}),
        ("later", {"answer"}),
        *[(name, set()) for name in ("none", "decorated", "twice", "absent")],
    ],
)
def test_the_columns_that_a_function_needs_are_those_of_its_code(
    tmp_path: Path, function: str, columns: set[str]
) -> None:
    (tmp_path / "signatures.py").write_text(SIGNATURES)
    assert Python(f"{tmp_path / 'signatures.py'}:{function}").reads_columns() == columns
    assert Python(f"json:{function}").reads_columns() == frozenset()


def test_a_function_that_is_not_there_is_named_with_the_nearest(file: Path) -> None:
    with pytest.raises(RunError, match=r"has no function 'lenght' \(did you mean length\?"):
        Python(f"{file}:lenght").build(run_with(None))
    with pytest.raises(RunError, match="missing.py:f: cannot be imported: FileNotFoundError"):
        Python("missing.py:f").build(run_with(None))
    with pytest.raises(ValueError, match="path: 'r.py' is neither FILE.py:FUNCTION nor"):
        Python("r.py")


def test_names_of_the_recipe() -> None:
    assert sorted(register_reward()) == ["gold", "implicit", "model", "python", "saved", "weighted"]
