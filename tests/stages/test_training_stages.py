"""Every training stage on a tiny base: what it leaves opens again, here and with plain transformers and PEFT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from handed import folder_of, saved_policy
from marks import slow
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from rlhf_plugins.contract.rows import Group, Samples
from rlhf_plugins.contract.run import Adapter, Base, Run, StageResult
from rlhf_plugins.engine.weights.loading import load_causal
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.recipe.trainer import config_options
from rlhf_plugins.reward_models.opening import latest_reward
from rlhf_plugins.reward_models.reward_model import open_reward_model
from rlhf_plugins.stages.online import Online
from rlhf_plugins.stages.preference import Preference
from rlhf_plugins.stages.reward_model import RewardModelStage
from rlhf_plugins.stages.sft import SFT
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run
from rlhf_plugins.trainers.ppo.options import Value

IDS = torch.tensor([[15, 16, 3, 4, 5, 1]])
FEW = {"max_steps": 3, "learning_rate": 1e-2, "logging_steps": 1, "disable_tqdm": True}
ROLLOUT = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6}
ADAPTERS = pytest.mark.parametrize("adapter", [Adapter(r=4), None], ids=["lora", "full"])
FULL_SLOWLY = pytest.mark.parametrize("adapter", [Adapter(r=4), *slow(None)], ids=["lora", "full"])


def sft(**trainer: Any) -> SFT:
    return SFT(trainer={**FEW, **trainer})


def reward(**trainer: Any) -> RewardModelStage:
    made: RewardModelStage = component("stage", {"use": "reward", "trainer": {**FEW, **trainer}})
    return made


def preference(loss: str = "dpo", **trainer: Any) -> Preference:
    return Preference(loss=component("preference_loss", loss), trainer={**FEW, **trainer})


def online(score: str = "gold", **trainer: Any) -> Online:
    words = {"use": "online", "reward": score, "kl": {"coef": 0.1}, "trainer": {**FEW, **ROLLOUT, **trainer}}
    made: Online = component("stage", words)
    return made


def run_for(base: Base, folder: Path, *finished: StageResult) -> Run:
    return tiny_run(base, folder, tiny_pairs(16), finished)


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return tiny_base(tmp_path / "base")


@ADAPTERS
@pytest.mark.parametrize("stage", [preference, online])
def test_a_policy_opens_here_and_elsewhere(
    base: Base, tmp_path: Path, stage: Callable[[], Any], adapter: Adapter | None
) -> None:
    base = replace(base, adapter=adapter)
    result = stage().run(run_for(base, tmp_path / "run"))
    policy = saved_policy(base, folder_of(result.policies))
    logits = policy(IDS).logits
    elsewhere: Any = AutoPeftModelForCausalLM if adapter else AutoModelForCausalLM
    plain = elsewhere.from_pretrained(folder_of(result.policies), dtype=torch.float32).eval()
    torch.testing.assert_close(plain.state_dict(), policy.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(plain(IDS).logits, logits, rtol=1e-5, atol=1e-5)  # norms round in another order
    assert (logits - load_causal(base)(IDS).logits).abs().max() > 0.05
    assert AutoTokenizer.from_pretrained(folder_of(result.policies))("how ant")["input_ids"] == [15, 3]
    assert [step for step, _ in result.curves["loss"].points] == [1, 2, 3]


@ADAPTERS
def test_supervised_training_imitates_and_opens_elsewhere(base: Base, tmp_path: Path, adapter: Adapter | None) -> None:
    base = replace(base, adapter=adapter)
    result = sft(max_steps=10).run(run_for(base, tmp_path / "sft"))
    assert result.base is None
    policy = saved_policy(base, folder_of(result.policies))
    elsewhere: Any = AutoPeftModelForCausalLM if adapter else AutoModelForCausalLM
    plain = elsewhere.from_pretrained(folder_of(result.policies), dtype=torch.float32)
    torch.testing.assert_close(plain.state_dict(), policy.state_dict(), rtol=0, atol=0)
    assert AutoTokenizer.from_pretrained(folder_of(result.policies))("how ant")["input_ids"] == [15, 3]
    assert result.curves["loss"].points[-1][1] < 0.8 * result.curves["loss"].points[0][1]


@FULL_SLOWLY
def test_the_reward_model_of_a_run_scores_its_rollouts(base: Base, tmp_path: Path, adapter: Adapter | None) -> None:
    base = replace(base, adapter=adapter)
    result = reward(max_steps=16).run(tiny_run(base, tmp_path / "reward", tiny_pairs(64)))
    score = latest_reward(run_for(base, tmp_path / "later", result))
    assert score is not None
    words = [[word] * 4 + [1] for word in range(3, 15)]  # six good ones, six bad ones
    samples = Samples(["how"] * 12, [""] * 12, [[15]] * 12, words)
    found = score(samples).reward.tolist()
    assert sum(found[:6]) > sum(found[6:]) + 1
    assert open_reward_model(folder_of(result.rewards), component).score(samples, 0) == found
    climbed = online("model").run(run_for(base, tmp_path / "ppo", result))
    assert folder_of(climbed.policies) == tmp_path / "ppo" / "model"


def test_a_reward_that_no_stage_trained_is_refused(base: Base, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no earlier stage made a reward model"):
        online("model").run(run_for(base, tmp_path / "run"))


@FULL_SLOWLY
def test_the_value_head_lies_beside_the_policy(base: Base, tmp_path: Path, adapter: Adapter | None) -> None:
    result = online().run(run_for(replace(base, adapter=adapter), tmp_path / "run"))
    head = load_file(tmp_path / "run" / "value_head.safetensors")
    moments = dict.fromkeys(["count", "mean", "deviation"], ())
    assert {name: tuple(p.shape) for name, p in head.items()} == {"weight": (1, 32), "bias": (1,), **moments}
    assert head["weight"].any()
    weights = next(folder_of(result.policies).glob("*.safetensors"))
    assert not [name for name in load_file(weights) if "value_head" in name]


@FULL_SLOWLY
def test_a_critics_own_model_is_saved_beside_the_policy(base: Base, tmp_path: Path, adapter: Adapter | None) -> None:
    stage = replace(online(), value=Value(network="own"))
    result = stage.run(run_for(replace(base, adapter=adapter), tmp_path / "run"))
    network = AutoModel.from_pretrained(tmp_path / "run" / "value_network")
    start = AutoModel.from_pretrained(base.path).state_dict()
    assert all(not torch.equal(weights, start[name]) for name, weights in network.named_parameters())
    assert load_file(tmp_path / "run" / "value_head.safetensors")["weight"].any()
    weights = next(folder_of(result.policies).glob("*.safetensors"))
    assert not [name for name in load_file(weights) if "value_" in name]


def test_references_computed_beforehand_or_not_are_the_same(base: Base, tmp_path: Path) -> None:
    """The first is our default, and needs no second copy of the weights."""
    found = [
        preference(precompute_ref_log_probs=early).run(run_for(base, tmp_path / str(early))).curves["loss"].points
        for early in (True, False)
    ]
    assert [value for _, value in found[0]] == pytest.approx([value for _, value in found[1]], rel=1e-5)


@pytest.mark.parametrize("stage", [sft, reward])
def test_the_same_seed_gives_the_same_curve(base: Base, tmp_path: Path, stage: Callable[[], Any]) -> None:
    base = replace(base, adapter=Adapter(r=4))
    first, second = (stage().run(run_for(base, tmp_path / name)).curves["loss"].points for name in ("first", "second"))
    assert first == second


def test_dropout_is_off_in_every_policys_training(tmp_path: Path) -> None:
    """GPT-2's configuration asks for 10%: with it the first step of PPO would be clipped and DPO's not log 2."""
    base = tiny_base(tmp_path / "base", "gpt2")
    ppo = online().run(run_for(base, tmp_path / "ppo"))
    assert ppo.curves["approx_kl"].points[0][1] == 0
    dpo = preference().run(run_for(base, tmp_path / "dpo"))
    assert dpo.curves["loss"].points[0][1] == pytest.approx(0.693147, abs=1e-5)


@pytest.mark.parametrize("stage", [sft, reward, preference, online])
def test_an_adapter_that_does_not_fit_is_one_line(base: Base, tmp_path: Path, stage: Callable[[], Any]) -> None:
    base = replace(base, adapter=Adapter(target_modules=["no_such_module"]))
    with pytest.raises(RunError, match="'no_such_module' matches no module"):
        stage().run(run_for(base, tmp_path / "run"))


@pytest.mark.parametrize("stage", [SFT, RewardModelStage, Preference, Online])
def test_what_a_stage_reserves_is_an_option_of_trl(stage: Any) -> None:
    config = next(f.metadata["config"] for f in fields(stage) if "config" in f.metadata)
    assert stage.reserved <= config_options(config).keys()


@pytest.mark.parametrize("architecture", ["mamba", *slow("gemma2")])
@pytest.mark.parametrize("stage", [reward, preference, online])
def test_models_that_cannot_share_rows_train_too(tmp_path: Path, stage: Callable[[], Any], architecture: str) -> None:
    result = stage().run(run_for(tiny_base(tmp_path / "base", architecture), tmp_path / "run"))
    assert len(result.curves["loss"].points) == 3


@pytest.mark.parametrize("stage", [sft, reward, preference, online])
def test_a_stage_prints_no_preparation(
    base: Base, tmp_path: Path, stage: Callable[[], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    stage().run(run_for(base, tmp_path / "run"))
    printed = "".join(capfd.readouterr())
    assert not [word for word in ("Tokenizing", "Adding EOS", "FutureWarning", "Flattening") if word in printed]


def test_sft_counts_what_it_leaves_out_and_cuts(base: Base, tmp_path: Path) -> None:
    full, long = Group(" ".join(["how"] * 16) + "\n", ("ant",)), Group("how is\n", (" ".join(["ant"] * 30),))
    rows = [full, long, *tiny_pairs(4)]
    result = sft(max_length=16).run(tiny_run(base, tmp_path / "run", rows))
    assert result.report.left_out == {"prompt that fills max_length": 1, "cut at max_length": 1}
    with pytest.raises(RunError, match="every prompt takes all 2 tokens of max_length"):
        sft(max_length=2).run(tiny_run(base, tmp_path / "none", rows[:1]))


REFUSING = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
REFUSING += "{{ m.content + ' ' }}{% endfor %}"


@pytest.mark.parametrize("stage", [sft, preference, reward])
def test_every_stage_counts_what_its_chat_template_refuses(
    base: Base, tmp_path: Path, stage: Callable[[], Any]
) -> None:
    left_out = stage().run(run_with_system_role(base, tmp_path)).report.left_out
    assert {reason: count for reason, count in left_out.items() if count} == {
        "messages cannot be tokenized: no system role": 1
    }


def run_with_system_role(base: Base, folder: Path) -> Run:
    """Conversations, of which the template refuses the first."""
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    tokenizer.chat_template = REFUSING
    tokenizer.save_pretrained(base.path)
    said = tuple([{"role": "assistant", "content": text}] for text in ("ant", "gas"))
    prompts = [[{"role": role, "content": text}] for role, text in (("system", "how"), ("user", "is"), ("user", "the"))]
    return tiny_run(base, folder / "run", [Group(prompt, said, (0, 1)) for prompt in prompts])
