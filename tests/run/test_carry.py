"""A part of a stage goes on with what the training of its start left: its optimizer, its critic, its KL's state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stubs
import torch
from killing import Killed, kill_at
from marks import slow
from safetensors.torch import load_file
from torch import Tensor

from rlhf_plugins import Adapter, Checkpoint, Data, Run, RunError, StageResult, session
from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.digests import of_folder
from rlhf_plugins.data.file_names import CALL, VALUE_HEAD, VALUE_NETWORK
from rlhf_plugins.testing import tiny_base, tiny_run
from rlhf_plugins.trainers.ppo import kl_file

ROWS, BATCH = 16, 4
STEPS = ROWS // BATCH  # of the whole training; each half takes half of them
TRAINER = {
    "per_device_train_batch_size": BATCH,
    "lr_scheduler_type": "constant",
    "learning_rate": 1e-2,
    "train_sampling_strategy": "sequential",
    "num_train_epochs": 1,
    "disable_tqdm": True,
}
DPO = {"use": "preference", "reference": "base", "keep_optimizer": True, "trainer": TRAINER}


def made(folder: Path, adapter: Adapter | None = Adapter(r=2)) -> Run:  # noqa: B008 (frozen)
    base = replace(tiny_base(folder / "base"), adapter=adapter)
    return session(base, tiny_run(base, folder / "rows").data, folder / "run")


def weights(result: StageResult) -> dict[str, Tensor]:
    (spec,) = result.policies.values()
    (file,) = Path(spec["path"]).glob("*model.safetensors")
    return load_file(file)


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def part(data: Data, start: int, end: int) -> Data:
    return replace(data, train=data.train[start:end])


@pytest.mark.parametrize("adapter", [Adapter(r=2), None], ids=["lora", "full"])
def test_two_halves_are_the_whole(tmp_path: Path, adapter: Adapter | None) -> None:
    run = made(tmp_path, adapter)
    whole = weights(run.train(DPO, name="whole", data=part(run.data, 0, ROWS)))
    run.train(DPO, name="half", data=part(run.data, 0, ROWS // 2))
    rest = {"data": part(run.data, ROWS // 2, ROWS), "start": "half"}
    carried = run.train(DPO, name="carried", carry={"optimizer"}, **rest)
    fresh = run.train(DPO, name="fresh", **rest)
    assert same(weights(carried), whole)
    assert not same(weights(fresh), whole)


# ---- on own samples ----------------------------------------------------------------------------------------
ROLLOUT = {
    **{name: value for name, value in TRAINER.items() if name not in ("train_sampling_strategy", "num_train_epochs")},
    "shuffle_dataset": False,
    "num_generations": 2,
    "max_completion_length": 4,
    "top_k": 1,  # so that no random number decides what is sampled
    "logging_steps": 1,
    "max_steps": 2,
}
PPO: dict[str, Any] = {
    "use": "online",
    "reward": "gold",
    "reference": "base",
    "keep_optimizer": True,
    "value": {"adapter": {"r": 2}, "learning_rate": 5e-3},
    "kl": {"coef": 0.1, "adapt": {"target": 0.5, "horizon": 10}},
    "trainer": ROLLOUT,
}
ALL = frozenset({"kl", "optimizer", "value"})


def asked(data: Data, start: int, end: int) -> Data:
    return replace(data, prompts={**data.prompts, "train": data.prompts["train"][start:end]})


def critic(run: Run, name: str) -> dict[str, Tensor]:
    return load_file(Path(run.folder) / name / VALUE_HEAD)


@pytest.fixture(scope="module")
def ppo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four rollouts in `whole`, of which `half` made the first two."""
    run = made(tmp_path_factory.mktemp("ppo"))
    run.train({**PPO, "trainer": {**ROLLOUT, "max_steps": 4}}, name="whole", data=asked(run.data, 0, 8))
    run.train(PPO, name="half", data=asked(run.data, 0, 4))
    return run


def coefficients(run: Run, name: str) -> list[float]:
    (curve,) = (result.curves["kl_coef"] for result in run.finished if result.name == name)
    return [value for _, value in curve.points]


@pytest.mark.parametrize("without", [None, *sorted(ALL)])
def test_each_part_that_is_carried_counts(ppo: Run, without: str | None) -> None:
    """But for rounding: rows of a minibatch are summed in another order."""
    carry = ALL - {without}
    made = ppo.train(PPO, name=f"without-{without}", data=asked(ppo.data, 4, 8), start="half", carry=carry)
    whole = {name: weights(result) for result in ppo.finished for name in result.policies}["whole"]
    found, values = weights(made), critic(ppo, made.name)
    furthest = max(float((whole[name] - found[name]).abs().max()) for name in whole)
    off = max(float((each - values[name]).abs().max()) for name, each in critic(ppo, "whole").items())
    assert (furthest < 1e-6, off < 1e-6) == (without is None, without is None)
    assert (coefficients(ppo, made.name) == coefficients(ppo, "whole")[2:]) is (without != "kl")


@pytest.mark.parametrize("adapter", [{"r": 2}, None], ids=["lora", "full"])
def test_a_critic_with_a_model_of_its_own_goes_on(tmp_path: Path, adapter: dict[str, int] | None) -> None:
    run = made(tmp_path)
    spec = {**PPO, "value": {"network": "own", "adapter": adapter}}
    run.train(spec, name="first")
    run.train({**spec, "trainer": {**ROLLOUT, "learning_rate": 0.0}}, name="second", start="first", carry={"value"})
    one, two = (
        next((Path(run.folder) / name / VALUE_NETWORK).glob("*model.safetensors")) for name in ("first", "second")
    )
    assert same(load_file(one), load_file(two))


# ---- what cannot be carried --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"carry": {"optimiser"}}, r"carry: unknown word 'optimiser' \(did you mean optimizer\?"),
        ({"carry": "kl"}, r"carry is a set of words: write carry=\{'kl'\}"),
        ({"stage": DPO, "carry": ["value"]}, "the stage preference can go on with optimizer, not with 'value'"),
        ({"stage": {"use": "merge"}, "carry": ALL}, "the stage merge can go on with nothing, not with 'kl'"),
        ({"start": None, "carry": {"optimizer"}}, "base kept no optimizer: write `keep_optimizer: true`"),
        ({"start": None, "carry": {"value"}}, "carry: value: .* holds no value_head.safetensors"),
        ({"start": None, "carry": {"kl"}}, "carry: kl: .* holds no kl.safetensors"),
        (
            {"trainer": {**ROLLOUT, "optim": "sgd"}, "carry": {"optimizer"}},
            r"is the state of torch\..*AdamW, and torch\..*SGD trains here",
        ),
        ({"value": {}, "carry": {"value"}}, "its critic does not fit: it has no use for base_model"),
        ({"value": {"adapter": {"r": 4}}, "carry": {"value"}}, "its critic does not fit: it has other sizes"),
        ({"value": {"network": "own"}, "carry": {"value"}}, "its critic does not fit"),
        ({"advantage": "rloo", "value": {}, "carry": {"value"}}, "carry: value: .* reads no values"),
        ({"kl": "in_loss", "carry": {"kl"}}, "is the state of kl in_reward, and not of kl in_loss"),
    ],
)
def test_what_cannot_be_carried_is_refused(ppo: Run, given: dict[str, Any], message: str) -> None:
    given = {"stage": PPO, "start": "half", **given}
    stage, call = given.pop("stage"), {name: given.pop(name) for name in ("start", "carry")}
    with pytest.raises(RunError, match=message):
        ppo.train({**stage, **given}, name=f"refused-{abs(hash(message))}", **call)


def test_a_critic_that_kept_no_optimizer_is_refused(ppo: Run) -> None:
    ppo.train({**PPO, "keep_optimizer": False}, name="unkept", start="half")
    with pytest.raises(RunError, match="unkept kept no optimizer: write `keep_optimizer: true` where it is trained"):
        ppo.train(PPO, name="refused", start="unkept", carry={"optimizer", "value"})


def test_it_is_a_part_of_the_call(ppo: Run) -> None:
    first = ppo.train(PPO, name="call", start="half", carry=["kl", "value"])
    assert ppo.train(PPO, name="call", start="half", carry={"value", "kl"}) == first
    assert json.loads((Path(ppo.folder) / "call" / CALL).read_text())["carry"] == ["kl", "value"]
    with pytest.raises(RunError, match="holds another call of train: carry"):
        ppo.train(PPO, name="call", start="half", carry={"kl"})


class Talks(stubs.Talk, carries={"kl"}):
    def run(self, run: Run) -> StageResult:
        return StageResult(metrics={"carried": sorted(run.carry)})


def test_a_guests_stage_is_given_what_it_may_carry(tmp_path: Path) -> None:
    run = tiny_run(Base("base"), tmp_path)
    assert run.train(Talks(), name="a", carry={"kl"}).metrics == {"carried": ["kl"]}
    assert run.train(Talks(), name="b").metrics == {"carried": []}
    with pytest.raises(RunError, match="the stage talk can go on with nothing, not with 'kl'"):
        run.train(stubs.Talk(), name="c", carry={"kl"})


# ---- the state of a KL -------------------------------------------------------------------------------------
class Counts:
    """What counts."""

    seen = torch.zeros(1)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = state["seen"]


def test_what_a_kl_remembers_is_in_its_file(tmp_path: Path) -> None:
    one, other = Counts(), Counts()
    one.seen = torch.tensor([3.0])
    kl_file.save(one, 0.25, tmp_path)
    assert (kl_file.load(other, tmp_path), float(other.seen)) == (0.25, 3.0)
    with pytest.raises(RunError, match="is the state of Counts .*, and not of object of builtins"):
        kl_file.load(object(), tmp_path)


# ---- killed ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("use", ["preference", *slow("online")])
def test_killed_inside_the_second_call_it_goes_on_bit_for_bit(
    use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, carry = (PPO, ALL) if use == "online" else ({**DPO, "reference": "start"}, {"optimizer"})

    def both(folder: Path) -> None:
        base = replace(tiny_base(folder.parent / "base"), adapter=Adapter(r=2))
        rows = tiny_run(base, folder.parent / "rows").data
        run = session(base, rows, folder, checkpoint=Checkpoint("1 steps"))
        run.train(spec, name="first", data=asked(part(rows, 0, 8), 0, 4))
        run.train(spec, name="second", data=asked(part(rows, 8, 16), 4, 8), start="first", carry=carry)

    both(tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(4, patch)
        with pytest.raises(Killed):
            both(tmp_path / "killed")
    assert [*(tmp_path / "killed" / "second" / "checkpoints").glob("*/*/checksums.json")]
    both(tmp_path / "killed")
    assert of_folder(tmp_path / "killed" / "second") == of_folder(tmp_path / "whole" / "second")
