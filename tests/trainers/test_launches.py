"""What a training step launches and moves on a GPU, counted on a CPU: in no stage more than it did."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from gpu_kernels import as_on_a_gpu, as_with_liger
from launches import Launches
from transformers import TrainerCallback

from rlhf_plugins.contract.rows import Group, Samples
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.data.batches.tokens import encode_prompt
from rlhf_plugins.engine import casts
from rlhf_plugins.engine.half import trials
from rlhf_plugins.engine.weights import loading
from rlhf_plugins.engine.weights.loading import load_tokenizer, load_trunk, with_adapter
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.testing import tiny_pairs
from rlhf_plugins.trainers.arguments import arguments
from rlhf_plugins.trainers.reward.trainer import on_the_host
from rlhf_plugins.trainers.watching.supervision import Monitored, as_first_base

from . import test_recovery, test_recovery_online
from .conftest import OPTIONS, ranked, reward_trainer
from .online_parts import Bases, objective, scores_of, trainer
from .test_recovery import dpo, sft

MOST = {  # casts, all launches, bytes of what is no matrix product, waits of the host
    "sft": (7, 330, 1_970_026, 8),
    "reward": (31, 731, 1_659_114, 12),
    "ranking": (20, 755, 3_073_768, 13),
    "dpo": (53, 1075, 2_811_104, 6),
    "ppo": (14, 543, 685_614, 6),
    "grpo": (10, 484, 656_050, 6),
}
AFTERWARDS = {
    "sft": 11,
    "reward": 11,
    "ranking": 11,
    "dpo": 11,
    "ppo": 13,
    "grpo": 11,
}  # a value head has weights of its own
RESPONSES = [[4, 5, 6, 7, 8, 1], [5, 6, 1], [6, 7, 8, 9, 1]] * 2  # as many tokens on every machine


def reward(base: Base, folder: Path, groups: Sequence[Group] = tiny_pairs(8), loss: str = "bradley_terry") -> Any:
    trunk = with_adapter(load_trunk(base), Adapter(r=4), "FEATURE_EXTRACTION")
    model = RewardModel(trunk, component("pooling", "last_token"), component("reward_head", "scalar"))
    args = arguments(trl.RewardConfig, folder, 0, OPTIONS)
    return reward_trainer(model, component("reward_loss", loss), args, ranked(base, groups), load_tokenizer(base))


def ranking(base: Base, folder: Path) -> Any:
    """Of 8 responses."""
    pairs = tiny_pairs(16)
    texts = [text for pair in pairs for text in pair.responses]
    groups = [Group(pairs[i].prompt, tuple(texts[8 * i : 8 * i + 8]), tuple(range(8))) for i in range(4)]
    return reward(base, folder, groups, "plackett_luce")


def ppo(base: Base, folder: Path, **aim: Any) -> Any:
    found: Any = trainer(base, folder, objective(**aim), bf16=True)
    asked = test_recovery_online.PROMPTS
    ids = [encode_prompt(found._tokenizer, prompt) for prompt in asked]
    texts = found._tokenizer.batch_decode(RESPONSES, skip_special_tokens=True)
    found._experience = found._rollouts.experience(scores_of(found, Samples(asked, texts, ids, RESPONSES)), 0.1)
    found._experience.first = None
    return found


def grpo(base: Base, folder: Path) -> Any:
    return ppo(base, folder, **test_recovery_online.GRPO)


def counted(found: Any) -> tuple[int, int, int, int]:
    step: Any = test_recovery_online.step if hasattr(found, "_experience") else test_recovery.step
    under = Launches()
    step(found, under)
    return under.casts, under.all, under.bytes, under.waits


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels that a GPU has: what is one launch there is one operation here."""
    monkeypatch.setattr(trials, "_PASSED", {})
    with as_on_a_gpu():
        yield


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("make", [sft, reward, ranking, dpo, ppo, grpo])
def test_a_step_launches_casts_and_moves_no_more_than_it_did(
    bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    """In bfloat16 with float32 adapters, as on a GPU; and less than the layers of transformers and PEFT do."""
    monkeypatch.setattr(loading, "_dtype", lambda base: torch.bfloat16)
    monkeypatch.setitem(OPTIONS, "bf16", True)
    base = Base(bases().path, adapter=Adapter(r=4))
    found = make(base, tmp_path)
    found.accelerator.prepare_model(found.model)
    counted(found)  # tries layouts
    own = counted(found)
    monkeypatch.setattr(trials, "passes", lambda *_: False)
    monkeypatch.setattr(casts, "agree", lambda *_: False)
    assert all(less < more for less, more in zip(own[:3], counted(found)[:3], strict=True))
    for name, count, most in zip(("casts", "launches", "bytes", "waits"), own, MOST[make.__name__], strict=True):
        assert count <= most, f"{count} {name}"


class Afterwards(TrainerCallback):
    """Counts what a step launches after its backward pass: clipping, the optimizer, and what callbacks do."""

    def __init__(self, found: Any) -> None:
        self.steps: list[Launches] = []
        self._own = found.training_step
        found.training_step = self.training_step
        found.add_callback(self)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = self._own(*args, **kwargs)
        self.steps.append(Launches().__enter__())
        return loss

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps[-1].__exit__(None, None, None)


def online(base: Base, folder: Path, **aim: Any) -> Any:
    return trainer(base, folder, objective(**aim), bf16=True)


TRAINERS = {
    **{make.__name__: make for make in (sft, reward, ranking, dpo)},
    "ppo": online,
    "grpo": lambda *given: online(*given, **test_recovery_online.GRPO),
}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", TRAINERS)
def test_the_optimizer_s_step_launches_no_more_than_it_did_and_the_host_does_not_wait(
    bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """An operation over a list of tensors is counted once, and is on a CPU what it is on CUDA."""
    monkeypatch.setattr(loading, "_dtype", lambda base: torch.bfloat16)
    monkeypatch.setitem(OPTIONS, "bf16", True)
    found = TRAINERS[name](Base(bases().path, adapter=Adapter(r=4)), tmp_path)
    found.args.max_steps, found.args.logging_steps = 2, 100
    after = Afterwards(found)
    found.train()
    assert len(after.steps) == 2
    assert [(step.all <= AFTERWARDS[name], step.waits, step.casts) for step in after.steps] == [(True, 0, 0)] * 2


def test_monitors_wait_once_for_a_step(bases: Bases, tmp_path: Path) -> None:
    found = dpo(bases(), tmp_path)
    counted(found)  # tries layouts
    alone = counted(found)
    found.__class__ = as_first_base(Monitored, type(found))
    found._show, found.step_numbers = lambda step: None, defaultdict(list)
    assert counted(found)[3] - alone[3] == 1


@pytest.mark.usefixtures("gpu")
def test_with_liger_a_step_launches_three_operations_fewer_for_each_gated_block(
    bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_dtype", lambda base: torch.bfloat16)
    monkeypatch.setitem(OPTIONS, "bf16", True)
    base, found = Base(bases().path, adapter=Adapter(r=4)), dict[str, tuple[int, int, int, int]]()
    for name in ("torch", "liger"):
        with as_with_liger(monkeypatch) if name == "liger" else nullcontext():
            made = sft(base, tmp_path)
            made.accelerator.prepare_model(made.model)
            counted(made)
            found[name] = counted(made)
    assert found["torch"][1] - found["liger"][1] == 2 * 3
    assert found["torch"][2] > found["liger"][2]


def waits_of(compute: Callable[[], Any]) -> int:
    with Launches() as found:
        compute()
    return found.waits


def test_the_host_waits_for_numbers_that_it_reads_and_for_masks() -> None:
    x, mask, places = torch.ones(4, 8), torch.ones(4, dtype=torch.bool), torch.tensor([1, 2])
    assert waits_of(lambda: (x + 1, x[places], x.masked_fill(mask.unsqueeze(1), 0.0), x.sum())) == 0
    for compute in (x.sum().item, x.tolist, mask.nonzero, x.sum().__bool__, x.cpu, lambda: x[mask], places.unique):
        assert waits_of(compute) == 1
    assert waits_of(lambda: float(x.sum()) + x[mask].sum().item()) == 3


def bytes_of(compute: Callable[[], Any]) -> int:
    with Launches() as found:
        compute()
    return found.bytes


def test_bytes_are_those_that_are_read_and_written() -> None:
    x, row, table, two = torch.ones(4, 8), torch.ones(8), torch.ones(100, 8), torch.tensor([7, 7])  # of 32 bytes a row
    assert bytes_of(lambda: x + 1) == 128 + 128
    assert bytes_of(lambda: x * x) == 128 + 128
    assert bytes_of(lambda: x.to(torch.bfloat16)) == 128 + 64
    assert bytes_of(lambda: x + row.expand(4, 8)) == 128 + 32 + 128
    assert bytes_of(lambda: x.add_(row)) == 128 + 32 + 128
    assert bytes_of(lambda: x.copy_(row)) == 32 + 128
    assert bytes_of(x.zero_) == 128
    assert bytes_of(lambda: table.index_select(0, two)) == 2 * 8 + 64 + 64


def test_products_views_and_empty_tensors_move_nothing() -> None:
    x = torch.ones(4, 8)
    assert bytes_of(lambda: (x @ x.T, x.view(32), x[:, 3], x.unbind(), torch.empty(3), torch.empty_like(x))) == 0
    assert bytes_of(lambda: x.T.contiguous()) == 128 + 128


def test_what_batches_scored_is_copied_to_the_host_at_once() -> None:
    parts = [(torch.ones(2, 3) / 3, torch.ones(2, 3, dtype=torch.bool), torch.arange(2.0))] * 2
    with Launches() as found:
        copied = on_the_host(parts)
    assert found.waits == 1
    for part, given in zip(copied, parts, strict=True):
        assert all(torch.equal(one.to(other.dtype), other) for one, other in zip(part, given, strict=True))
    assert on_the_host([]) == []
