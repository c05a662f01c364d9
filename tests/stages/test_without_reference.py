"""A preference loss that reads no reference pays for none, and trains bit for bit as if it had one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from marks import slow
from peft import get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM
from trl_rows import preference_dataset

from rlhf_plugins import (
    PairLogps,
    PluginError,
    PreferenceLoss,
    PreferenceTrainer,
    RunError,
    StageResult,
    component,
    session,
)
from rlhf_plugins.components.preference_loss import DPO, SFT, Entropy, Sum
from rlhf_plugins.contract.run import Adapter, Base, Run
from rlhf_plugins.contract.workload import Known
from rlhf_plugins.engine.weights.loading import lora_config
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run
from rlhf_plugins.trainers.preference.reference import ReadsReference

SHORT = {"per_device_train_batch_size": 4, "max_steps": 3, "logging_steps": 1, "learning_rate": 3e-3}
SHORT |= {"disable_tqdm": True}


@dataclass(frozen=True)
class Asking(SFT, reads_reference=True):
    """The same loss, with the pass of the reference."""


@dataclass(frozen=True)
class Lying(PreferenceLoss, reads_reference=False):
    def __call__(self, logps: PairLogps) -> Tensor:
        return logps.ref_chosen - logps.chosen


def stage(loss: Any, **options: Any) -> Any:
    return replace(component("stage", "preference", trainer=SHORT), loss=loss, **options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Adapter | None], Run]:
    """A run with a policy `first`, with an adapter or whole."""
    made: dict[Adapter | None, Run] = {}

    def run(adapter: Adapter | None) -> Run:
        if adapter not in made:
            folder = tmp_path_factory.mktemp("run")
            base = replace(tiny_base(folder / "base"), adapter=adapter)
            made[adapter] = session(base, tiny_run(base, folder / "rows").data, folder / "run")
            made[adapter].train(stage(DPO(), name="first"), name="first")
        return made[adapter]

    return run


def weights(found: StageResult) -> dict[str, bytes]:
    (policy,) = found.policies.values()
    return {file.name: file.read_bytes() for file in Path(policy["path"]).glob("*.safetensors")}


LORA = Adapter(r=2)


@pytest.mark.parametrize(
    ("adapter", "start", "reference"),
    [
        (LORA, None, "start"),
        (LORA, "first", "base"),
        (None, "first", "base"),
        *slow((LORA, "first", "start"), (LORA, None, "first"), (None, None, "start")),
    ],
)
def test_weights_are_those_of_a_training_with_the_pass(
    runs: Callable[[Adapter | None], Run],
    monkeypatch: pytest.MonkeyPatch,
    adapter: Adapter | None,
    start: str | None,
    reference: str,
) -> None:
    run, place = runs(adapter), f"{start} {reference}".replace(" ", "_")
    asked = run.train(stage(Asking(), reference=reference), name=f"{place}_asked", start=start)
    for name in ("compute_ref_log_probs", "_summed"):
        monkeypatch.setattr(ReadsReference, name, lambda self, *given: pytest.fail("the reference is read"))
    monkeypatch.setattr("rlhf_plugins.engine.weights.starting.load_frozen", lambda _: pytest.fail("a second model"))
    alone = run.train(stage(SFT(), reference=reference), name=f"{place}_alone", start=start)
    assert weights(alone) == weights(asked) != {}
    assert alone.curves["loss"].points == asked.curves["loss"].points


def test_what_is_logged_needs_no_reference(runs: Callable[[Adapter | None], Run]) -> None:
    own = stage(Sum(losses=(SFT(), Entropy()), weights=[1.0, 0.1]))
    found = runs(LORA).train(own, name="logged").curves
    extra = {"learning_rate", "grad_norm", "train_loss"}
    assert set(found) - extra == own.held_out_numbers(False)
    assert not [name for name in found if "rewards" in name or "ratios" in name]


def test_neither_memory_nor_time_of_a_reference_is_expected() -> None:
    works = {loss: stage(loss, reference="base").workload(None) for loss in (DPO(), SFT())}
    assert [[work.phase for work in each.works] for each in works.values()] == [["train", "reference"], ["train"]]
    assert [each.models for each in works.values()] == [1, 0]
    known = Known(rows=8)
    assert [set(stage(loss).course(known).passes) for loss in works] == [{"train", "reference"}, {"train"}]


def test_a_loss_that_reads_it_all_the_same_is_refused(runs: Callable[[Adapter | None], Run]) -> None:
    with pytest.raises(PluginError, match="Lying of .* reads the reference, and its trait reads_reference says"):
        runs(LORA).train(stage(Lying()), name="lying")


def script(base: Base, folder: Path, loss: PreferenceLoss, **given: Any) -> Any:
    options = {"bf16": False, "use_cpu": True, "report_to": "none", "gradient_checkpointing": False}
    args = trl.DPOConfig(str(folder), **{**SHORT, **options, **given.pop("options", {})})
    rows = preference_dataset(tiny_pairs(16))
    return PreferenceTrainer(given.pop("model", base.path), args=args, train_dataset=rows, loss=loss, **given)


def test_a_script_has_no_second_model(tmp_path: Path) -> None:
    base, found = tiny_base(tmp_path / "base"), []
    for loss in (Asking(), SFT()):
        trainer = script(base, tmp_path / "out", loss)
        assert (trainer.ref_model is None) == (loss == SFT())
        assert not trainer.args.precompute_ref_log_probs
        trainer.train()
        trainer.evaluate(preference_dataset(tiny_pairs(4)))
        found.append(trainer.model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_script_has_no_copy_of_its_adapter(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    for loss, names in ((Asking(), ["default", "ref"]), (SFT(), ["default"])):
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base.path), lora_config(LORA, "CAUSAL_LM"))
        assert list(script(base, tmp_path / "out", loss, model=model).model.peft_config) == names


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"reference_cache": "cache", "options": {"precompute_ref_log_probs": True}}, "leave reference_cache out"),
        ({"options": {"sync_ref_model": True}}, "leave args.sync_ref_model out"),
        ({"ref_model": object()}, "preference_loss sft reads no reference: leave ref_model out"),
    ],
)
def test_what_asks_for_a_reference_is_refused(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(RunError, match=words):
        script(Base("nowhere"), tmp_path, SFT(), **given)


def test_a_sum_reads_it_where_a_part_does() -> None:
    assert not Sum(losses=(SFT(), Entropy()), weights=[1.0, 1.0]).reads_reference
    assert Sum(losses=(SFT(), DPO()), weights=[1.0, 1.0]).reads_reference
