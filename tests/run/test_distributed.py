"""What several processes refuse before the first step, each in one sentence."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.elastic.multiprocessing.api import SignalException

from rlhf_plugins import RunError
from rlhf_plugins.contract import processes, zero
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rows import Data, Samples
from rlhf_plugins.contract.run import Budget
from rlhf_plugins.engine import precision
from rlhf_plugins.engine.cost import Counter
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.recipe.check import load_recipe
from rlhf_plugins.reward_models.handle import RewardHandle
from rlhf_plugins.run import distributed, origin
from rlhf_plugins.run.files.difference import difference
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.run.launch import launch, refuse
from rlhf_plugins.run.stage import checkpointing
from rlhf_plugins.run.stage.nested import Ending
from rlhf_plugins.run.stop import Ended
from rlhf_plugins.testing import tiny_pairs
from rlhf_plugins.trainers.steps.data_parallel import SharesBatches


@pytest.fixture(autouse=True)
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if four processes had been launched, which is known by their number alone."""
    monkeypatch.setattr(processes, "count", lambda: 4)
    monkeypatch.setattr(processes, "launched", lambda: 4)


def stages(*blocks: dict[str, Any]) -> Any:
    return load_recipe({"base": "sandbox", "data": "sandbox", "output_dir": "out", "stages": list(blocks)}).stages


DPO = {"stage": "preference", "name": "dpo"}
DIVIDED = "distributed_type: DEEPSPEED\nnum_processes: 2"


def test_a_stage_for_one_process_says_how_to_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    (stage,) = stages(DPO)
    monkeypatch.setattr(type(stage), "processes", "one")
    with pytest.raises(RunError, match="stage dpo runs in one process, and 4 were launched: launch it alone"):
        distributed.refuse([stage])


def test_a_reduction_over_the_whole_minibatch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = stages({"stage": "reward_model", "loss": "contrastive"}, {"stage": "online", "reward": "model"})
    distributed.refuse(found[:1])
    monkeypatch.setattr(type(found[1].reduction), "uses_batch_mates", True)
    with pytest.raises(RunError, match="stage online: reduction tokens compares the rows of a whole minibatch"):
        distributed.refuse(found)


def test_more_processes_than_groups_are_refused() -> None:
    (stage,) = stages(DPO)
    distributed.refuse_few_rows(stage, Data(tiny_pairs(4)))
    with pytest.raises(RunError, match="4 processes for 3 groups to train on: launch at most 3"):
        distributed.refuse_few_rows(stage, Data(tiny_pairs(3)))


def test_each_process_needs_whole_groups_of_a_rollout() -> None:
    _, stage = stages({"stage": "reward_model"}, {"stage": "online"})
    sizes = {"per_device_train_batch_size": 2, "num_generations": 4, "gradient_accumulation_steps": 1}
    with pytest.raises(RunError, match="2 responses of a rollout are each process's, which hold no whole groups"):
        distributed.refuse([replace(stage, trainer=sizes)])


def test_vllm_in_several_processes_is_a_server_or_whole_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    _, stage = stages({"stage": "reward_model"}, {"stage": "online"})
    served = replace(stage, trainer={"use_vllm": True, "vllm_mode": "server"})
    distributed.refuse([served])
    shared = {"use_vllm": True, "vllm_mode": "colocate"}
    distributed.refuse([replace(stage, trainer=shared)])
    with pytest.raises(RunError, match="that share its weights; write vllm_tensor_parallel_size: 1, or vllm_mode: ser"):
        distributed.refuse([replace(stage, trainer={**shared, "vllm_tensor_parallel_size": 2})])
    monkeypatch.setattr(processes, "divides_optimizer", lambda: True)
    with pytest.raises(RunError, match="use_vllm was not tried in several processes under DeepSpeed"):
        distributed.refuse([served])


@pytest.mark.parametrize(
    ("trainer", "launched", "fine"),
    [
        ({}, "no", True),
        ({}, "bf16", False),
        ({"bf16": True}, "bf16", True),
        ({"bf16": True}, "fp16", False),
    ],
)
def test_a_precision_that_contradicts_the_recipes_is_refused(
    trainer: dict[str, Any], launched: str, fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(distributed.PRECISION, launched)
    asked = stages({**DPO, "trainer": trainer})
    if fine:
        distributed.refuse(asked)
        return
    with pytest.raises(RunError, match=f"stage dpo computes in .* mixed_precision: {launched}: write"):
        distributed.refuse(asked)


def test_losses_are_scaled_in_each_process_where_bfloat16_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "half_precision", lambda: torch.float16)
    monkeypatch.setenv(distributed.PRECISION, "fp16")
    distributed.refuse(stages(DPO))
    with pytest.raises(RunError, match="stage dpo computes in float32, and .* mixed_precision: fp16"):
        distributed.refuse(stages({**DPO, "trainer": {"bf16": False}}))


def differing(monkeypatch: pytest.MonkeyPatch, **other: Any) -> str:
    """The message where the second process differs in these facts."""
    recipe = load_recipe({"base": "sandbox", "data": "sandbox", "output_dir": "out", "stages": [DPO]})

    def gathered(value: Any) -> list[Any]:
        return [("a", value[1]), ("b", {**value[1], **other})]

    monkeypatch.setattr(processes, "gathered", gathered)
    with pytest.raises(RunError) as caught:
        distributed.refuse_differences(origin.facts(recipe, Data(tiny_pairs(4)), []))
    return str(caught.value)


def test_other_versions_or_rows_in_a_process_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf_plugins.report import versions

    found = differing(monkeypatch, versions={**versions(), "trl": "1.0"})
    assert found.startswith("process 1 on b would train otherwise: versions.trl is in process 0 on a '1.")
    assert found.endswith("and '1.0' there; make them the same")
    assert "rows.train is in process 0 on a 4 and 5 there" in differing(monkeypatch, rows={"train": 5})


def test_a_folder_that_a_process_does_not_see_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "gathered", lambda value: [("a", True), ("b", False)])
    with pytest.raises(RunError, match="process 1 on b does not see .*: give an output_dir on a file system"):
        distributed.refuse_other_folder(RunFolder(tmp_path))


def of_batch(size: int) -> Any:
    block = {**DPO, "trainer": {distributed.BATCH: size}}
    return load_recipe({"base": "sandbox", "data": "sandbox", "output_dir": "out", "stages": [block]})


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (6, 3, ""),
        (
            8,
            8,
            f"now there are 4: batches stay the same with stages.dpo.trainer.{distributed.BATCH}=4; or launch 2 again",
        ),
        (5, 5, "makes batches of 10, which do not divide"),
    ],
)
def test_a_run_goes_on_in_another_number_of_processes_with_the_same_batches(
    tmp_path: Path, before: int, now: int, message: str
) -> None:
    folder = RunFolder(tmp_path)
    folder.start(of_batch(before).resolved, {"status": "running", distributed.PROCESSES: 2})
    if not message:
        assert not difference(*distributed.comparable(folder, of_batch(now)), ("output_dir",))
        return
    with pytest.raises(RunError, match=message):
        distributed.comparable(folder, of_batch(now))


class Kept:
    """A trainer that knows no processes, or which accelerate did not shard."""

    accelerator = SimpleNamespace(is_fsdp2=False)


class Shared(Kept, SharesBatches):
    """One that shares its batches."""


def test_what_shares_no_batches_goes_on_in_as_many_processes(tmp_path: Path) -> None:
    checkpointing._refuse_other_count(Kept(), tmp_path, 4)
    checkpointing._refuse_other_count(Shared(), tmp_path, 2)
    with pytest.raises(RunError, match="was made in 2 processes, and now there are 4, .* launch 2 again"):
        checkpointing._refuse_other_count(Kept(), tmp_path, 2)


def test_a_launch_that_asks_for_shards_where_accelerate_makes_none_is_refused() -> None:
    with pytest.raises(RunError, match="each process would train a whole copy; write `distributed_type: MULTI_GPU`"):
        checkpointing._refuse_whole_copies(Kept())


def test_the_main_process_says_when_a_part_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has spent its own two seconds, and the main one half a second."""
    counter = Counter()
    counter.put_forward(2.0)
    ending = Ending(budget=Budget(seconds=1.0), counter=counter)
    monkeypatch.setattr(processes, "gathered", lambda own: [{"seconds": 0.5}, own] if isinstance(own, dict) else [own])
    assert not ending()
    monkeypatch.setattr(processes, "gathered", lambda own: [own])
    assert ending()


@pytest.mark.parametrize(
    ("launched", "index", "flops"), [(2, 0, 3.0), (2, 1, 5.0), (1, 0, 8.0), (4, 0, 8.0), (4, 2, 0.0)]
)
def test_what_was_spent_is_taken_over_once(
    monkeypatch: pytest.MonkeyPatch, launched: int, index: int, flops: float
) -> None:
    monkeypatch.setattr(processes, "launched", lambda: launched)
    monkeypatch.setattr(processes, "index", lambda: index)
    states = [{"flops": 3.0, "seconds": 7.0}, {"flops": 5.0, "seconds": 7.0}]
    assert processes.goes_on_from(states) == {"flops": flops, "seconds": 7.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distributed_type: FSDP\nnum_processes: 2", "FSDP1, with which no recipe was tried: write `fsdp_version: 2`"),
        ("distributed_type: MEGATRON_LM\nnum_processes: 2", "MEGATRON_LM, with which no recipe was tried"),
        ("distributed_type: DEEPSPEED", "DeepSpeed in one process, which has nothing to divide"),
        (f"{DIVIDED}\nuse_cpu: true", "DeepSpeed and use_cpu, with which accelerate leaves it out"),
        (
            f"{DIVIDED}\ndeepspeed_config: {{zero_stage: 0}}",
            "zero_stage: 0, with which no recipe was tried: write 1, 2 or 3",
        ),
        (
            f"{DIVIDED}\ndeepspeed_config: {{offload_optimizer_device: nvme}}",
            "offload_optimizer_device: nvme, with which no",
        ),
        (
            f"{DIVIDED}\ndeepspeed_config: {{deepspeed_config_file: none.json}}",
            "none.json: no configuration of DeepSpeed",
        ),
        ("distributed_type: MULTI_CPU\nnum_processes: 2", "through MPI alone; write `distributed_type: MULTI_GPU`"),
        ("distributed_type: 'NO'\nnum_processes: 2", "num_processes: 2, but distributed_type: NO starts one"),
        ("- a", "which is a mapping; `accelerate config` writes one"),
    ],
)
def test_a_configuration_that_starts_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(RunError) as caught:
        refuse(tmp_path / "a.yaml")
    assert message in str(caught.value)


def test_a_configuration_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no configuration of accelerate"):
        refuse(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("environment", "what"),
    [
        (
            {processes.DEEPSPEED: "true", zero.NAMES[zero.STAGE]: "0"},
            "zero_stage: 0, with which no recipe was tried",
        ),
        ({processes.DEEPSPEED: "true", "ACCELERATE_USE_CPU": "true"}, "DeepSpeed and use_cpu"),
        (
            {processes.DEEPSPEED: "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": "none.json"},
            "none.json: no configuration of",
        ),
        ({processes.FSDP: "true"}, "FSDP1, with which no recipe was tried: write `fsdp_version: 2`"),
        ({processes.FSDP: "1", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
    ],
)
def test_a_launch_that_shards_weights_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], what: str
) -> None:
    for name, value in {processes.COUNT: "2", processes.PLACE: "1", **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=what):
        processes.join()


def test_a_base_that_one_process_would_load_is_loaded_by_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As `accelerate config` writes it by default."""
    for name in ("FSDP_CPU_RAM_EFFICIENT_LOADING", processes.FSDP):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    processes._take_fsdp()
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
    assert caplog.messages == [
        "each process loads the whole base: fsdp_cpu_ram_efficient_loading of the launch is taken as false"
    ]


@pytest.mark.parametrize(("zero3", "asked"), [(False, "FSDP"), (True, "ZeRO-3")])
def test_a_stage_that_trains_whole_copies_is_refused_where_weights_are_sharded(
    monkeypatch: pytest.MonkeyPatch, zero3: bool, asked: str
) -> None:
    monkeypatch.setattr(processes, "shards", lambda: True)
    monkeypatch.setattr(processes, "zero3", lambda: zero3)
    distributed.refuse(stages({"stage": "sft"}, {"stage": "reward_model"}, {"stage": "reward_ensemble"}, DPO))
    with pytest.raises(RunError, match=f"stage auto trains whole copies, and the launch asks for {asked}"):
        distributed.refuse(stages({"stage": "auto"}))


def test_a_stage_that_was_not_tried_under_deepspeed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "divides_optimizer", lambda: True)
    distributed.refuse(stages({"stage": "sft"}, {"stage": "reward_model"}, {"stage": "reward_ensemble"}, DPO))
    with pytest.raises(RunError, match="stage auto was not tried under DeepSpeed, for which the launch asks"):
        distributed.refuse(stages({"stage": "auto"}))


def test_a_constraint_that_measures_updates_is_refused_under_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "divides_optimizer", lambda: True)
    _, stage = stages({"stage": "reward_model"}, {"stage": "online", "kl": {"use": "constraint", "limit": 0.1}})
    with pytest.raises(RunError, match="a constraint measures whole updates, but DeepSpeed steps within"):
        distributed.refuse([stage])


@pytest.mark.parametrize(("count", "launched"), [("", False), ("1", False), ("2", True)])
def test_a_launcher_sets_a_place_too(monkeypatch: pytest.MonkeyPatch, count: str, launched: bool) -> None:
    """Schedulers set the number of processes for a single one as well."""
    monkeypatch.setenv(processes.COUNT, count)
    monkeypatch.delenv(processes.PLACE, raising=False)
    assert not processes.is_launched()
    monkeypatch.setenv(processes.PLACE, "0")
    assert processes.is_launched() is launched


def test_an_unweighted_mean_over_processes_is_refused() -> None:
    stage = component("stage", {"use": "sft", "trainer": {"average_tokens_across_devices": False}})
    with pytest.raises(ValueError, match="average_tokens_across_devices: false weighs"):
        stage.fits_processes(2)


def test_all_responses_to_a_prompt_are_scored_by_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reward is how many siblings are in the call; process 0 has the rows 0 and 2, process 1 the row 1."""
    samples = Samples(["a", "b", "a"], ["x", "y", "z"], [[0], [1], [0]], [[1], [1], [1]])
    siblings = RewardHandle(
        lambda asked: Prediction(torch.tensor([float(asked.prompts.count(one)) for one in asked.prompts])),
        module=torch.nn.Identity(),
    )
    first = siblings.function(samples.take([0, 2]))
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "share", lambda rows: processes.part(rows, 1, 2))
    monkeypatch.setattr(processes, "gathered", lambda own: [first, own])
    assert siblings(samples).reward.tolist() == [2, 1, 2]


def test_a_signal_to_the_launcher_ends_it_as_it_ends_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def ended(_: Any) -> None:
        raise SignalException("came", signal.SIGTERM)

    (tmp_path / "a.yaml").write_text("distributed_type: MULTI_GPU\nnum_processes: 2\n")
    monkeypatch.setattr("accelerate.commands.launch.launch_command", ended)
    with pytest.raises(Ended, match="interrupted by SIGTERM") as caught:
        launch(tmp_path / "a.yaml", ["run", "r.yaml"])
    assert caught.value.number == signal.SIGTERM
