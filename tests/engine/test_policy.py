"""Policies as handles: what they sample, how likely it is under them, and that several share one base."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from handed import saved_policy
from peft import LoraConfig, get_peft_model
from torch import Tensor

from rlhf_plugins.contract.handles import Policy
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.contract.run import Adapter, Base, Weights
from rlhf_plugins.engine.policy import ModelPolicy, describe, open_policy, saved_base
from rlhf_plugins.engine.weights.loading import load_causal
from rlhf_plugins.engine.weights.starting import load_trunk_start
from rlhf_plugins.errors import DataError, RunError
from rlhf_plugins.testing import tiny_base

PROMPTS, RESPONSES = ["how is the\n", "who\n"], ["ant bee cat", "gas"]
IDS = torch.tensor([[5, 6, 7, 8]])
CHAT = "{% for m in messages %}{{ m.content }} {% if m.role == 'assistant' %}<eos>{% endif %}{% endfor %}"


def base_in(folder: Path) -> Base:
    return Base(tiny_base(folder).path, adapter=Adapter(r=2))


def saved(base: Base, folder: Path, seed: int) -> Path:
    """A policy with a random adapter."""
    policy = open_policy(None, base, trainable=True)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for weights in policy._weights():
            weights.copy_(0.2 * torch.randn_like(weights))
    policy.save(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return base_in(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def policy(base: Base, tmp_path_factory: pytest.TempPathFactory) -> ModelPolicy:
    return open_policy(saved(base, tmp_path_factory.mktemp("policy"), seed=1), base)


@pytest.fixture(scope="module")
def reference(base: Base, policy: ModelPolicy) -> ModelPolicy:
    return open_policy(None, base)


def by_hand(policy: ModelPolicy, prompt: list[int], response: list[int]) -> Tensor:
    """One sequence alone, (tokens,)."""
    with policy as own, torch.no_grad():
        logits = own.module(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(response).unsqueeze(1)).squeeze(1)


def test_a_handle_is_a_policy(policy: ModelPolicy) -> None:
    assert isinstance(policy, Policy)


@pytest.mark.parametrize("which", ["policy", "reference"])
def test_log_probs_are_those_of_separate_sequences(which: str, request: pytest.FixtureRequest) -> None:
    policy: ModelPolicy = request.getfixturevalue(which)
    samples = policy.encode([PROMPTS[0], PROMPTS[0], PROMPTS[1]], [*RESPONSES, "log mud"])
    found = policy.log_probs(samples)
    assert found.shape == (3, 4)  # `ant bee cat` and EOS
    for row, prompt, response in zip(found, samples.prompt_ids, samples.response_ids, strict=True):
        torch.testing.assert_close(row[: len(response)], by_hand(policy, list(prompt), list(response)))
        assert not row[len(response) :].any()
    assert not found.requires_grad


def test_policy_and_reference_are_views_of_one_model(policy: ModelPolicy, reference: ModelPolicy) -> None:
    samples = policy.encode(PROMPTS, RESPONSES)
    before = policy.log_probs(samples)
    assert (reference.log_probs(samples) - before).abs().max() > 0.01
    assert torch.equal(policy.log_probs(samples), before)
    assert policy.backbone is reference.backbone
    gc.collect()
    assert sum(type(thing).__name__ == "LlamaModel" for thing in gc.get_objects()) == 1


def test_sampling_repeats_with_its_seed_and_leaves_torch_alone(policy: ModelPolicy) -> None:
    torch.manual_seed(5)
    first = policy.sample(PROMPTS, n=4, max_new_tokens=6, seed=3, columns={"user": ["a", "b"]})
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    assert policy.sample(PROMPTS, n=4, max_new_tokens=6, seed=3).response_ids == first.response_ids
    assert policy.sample(PROMPTS, n=4, max_new_tokens=6, seed=4).response_ids != first.response_ids
    assert first.prompts == [PROMPTS[0]] * 4 + [PROMPTS[1]] * 4
    assert first.columns == {"user": ["a"] * 4 + ["b"] * 4}


def test_samples_have_the_columns_of_their_groups(policy: ModelPolicy) -> None:
    prompts = [Group(PROMPTS[0], columns={"user": 7}), PROMPTS[1], Group(PROMPTS[1], columns={"answer": "x"})]
    found = policy.sample(prompts, n=2, max_new_tokens=2, columns={"day": [1, 2, 3]}).columns
    assert found["user"] == [7, 7, None, None, None, None]
    assert found["answer"] == [None, None, None, None, "x", "x"]
    assert found["day"] == [1, 1, 2, 2, 3, 3]


def test_the_smallest_cut_samples_the_most_likely_token_alone(policy: ModelPolicy) -> None:
    greedy = policy.sample(PROMPTS, temperature=0, max_new_tokens=6).response_ids
    for cut in ({"top_p": 1e-6}, {"top_k": 1}, {"min_p": 1.0}):
        assert policy.sample(PROMPTS, max_new_tokens=6, seed=9, **cut).response_ids == greedy
    assert policy.sample(PROMPTS, n=8, max_new_tokens=6).response_ids != [ids for ids in greedy for _ in range(8)]


def test_choices_are_normalised_over_what_may_follow_the_prompt(policy: ModelPolicy) -> None:
    found = policy.choose(PROMPTS, ["ant", "gas", "log"]).exp()
    prompt = policy.tokenizer(PROMPTS[0])["input_ids"]
    ids = [policy.tokenizer(word)["input_ids"][0] for word in ("ant", "gas", "log")]
    with policy, torch.no_grad():
        expected = policy.module(torch.tensor([prompt])).logits[0, -1, ids].softmax(-1)
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found.sum(1), torch.ones(2))


def test_a_choice_that_begins_another_ends_there(policy: ModelPolicy) -> None:
    found = policy.choose([PROMPTS[0]], ["ant", "ant bee"])[0]
    samples = policy.encode([PROMPTS[0]] * 2, ["ant", "ant bee"])  # with EOS
    torch.testing.assert_close(found, policy.log_probs(samples).sum(1).log_softmax(0))


@pytest.mark.parametrize(
    ("prompt", "choices", "message"),
    [
        ("how is the\n", ["ant", ""], "choices: one has no token"),
        ("", ["ant", "gas"], "its prompt has no token"),
        ("ant " * 600, ["ant", "gas"], "tokens, and the model takes"),
    ],
)
def test_a_choice_that_the_model_cannot_take_is_refused(
    policy: ModelPolicy, prompt: str, choices: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        policy.choose([prompt], choices)


def test_choices_of_a_chat_are_its_next_message(base: Base) -> None:
    policy = open_policy(None, base)
    policy.tokenizer.chat_template = CHAT
    chat: Any = [{"role": "user", "content": "who is the"}]
    torch.testing.assert_close(policy.choose([chat], ["ant", "gas"]), policy.choose(["who is the "], ["ant", "gas"]))


@pytest.mark.parametrize("choices", [["a"], ["a", "a"], []])
def test_choices_must_differ(policy: ModelPolicy, choices: list[str]) -> None:
    with pytest.raises(DataError, match="choices: two or more different ones"):
        policy.choose(PROMPTS, choices)


def test_next_logits_go_on_from_a_cache(policy: ModelPolicy) -> None:
    ids = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])
    whole, _ = policy.next_logits(ids)
    _, cache = policy.next_logits(ids[:, :2])
    torch.testing.assert_close(policy.next_logits(ids[:, 2:], cache)[0], whole)


def test_gradients_reach_the_policys_adapter_alone(base: Base, policy: ModelPolicy, tmp_path: Path) -> None:
    trained = open_policy(saved(base, tmp_path, seed=2), base, trainable=True)
    trained.log_probs(trained.encode(PROMPTS, RESPONSES), grad=True).sum().backward()
    reached = [name for name, weights in trained.module.named_parameters() if weights.grad is not None]
    assert reached
    assert all(f".{trained.adapter}." in name for name in reached)
    with pytest.raises(RunError, match="the policy is frozen; open it with trainable=True"):
        policy.log_probs(policy.encode(PROMPTS, RESPONSES), grad=True)


def test_a_whole_policy_is_a_model_of_its_own(base: Base, policy: ModelPolicy, tmp_path: Path) -> None:
    whole = open_policy(None, Base(base.path), trainable=True)
    with torch.no_grad():
        next(whole._weights()).mul_(2)
    whole.save(tmp_path)
    again = open_policy(tmp_path, base)
    samples = policy.encode(PROMPTS, RESPONSES)
    torch.testing.assert_close(again.log_probs(samples), whole.log_probs(samples))
    assert again.backbone is not policy.backbone


def test_a_base_is_saved_without_the_adapters_that_it_has(base: Base, tmp_path: Path) -> None:
    whole = open_policy(None, Base(tiny_base(tmp_path / "base").path))
    samples = whole.encode(PROMPTS, RESPONSES)
    before = whole.log_probs(samples)
    whole.backbone.add(Adapter(r=2))
    whole.save(tmp_path / "saved")
    assert torch.equal(saved_policy(base, tmp_path / "saved")(IDS).logits, whole.module(IDS).logits)
    assert torch.equal(open_policy(tmp_path / "saved", base).log_probs(samples), before)


def test_a_policy_comes_back_from_its_folder_alone(base: Base, policy: ModelPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    again = open_policy(tmp_path, saved_base(tmp_path))
    samples = policy.encode(PROMPTS, RESPONSES)
    assert torch.equal(again.log_probs(samples), policy.log_probs(samples))
    assert again.backbone is policy.backbone


def bare(base: Base, folder: Path, **changes: Any) -> Path:
    """An adapter as PEFT saves it, without a word of ours."""
    saved(replace(base, adapter=Adapter(r=2, lora_alpha=6)), folder, seed=5)
    (folder / "policy.json").unlink()
    config = json.loads((folder / "adapter_config.json").read_text()) | changes
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_an_adapter_of_others_keeps_its_rank_and_scale(base: Base, tmp_path: Path) -> None:
    folder = bare(base, tmp_path, base_model_name_or_path=base.path)
    found = saved_base(folder)
    assert found.adapter is not None
    assert (found.path, found.adapter.r, found.adapter.lora_alpha) == (base.path, 2, 6)
    (config,) = load_trunk_start(Weights("base", found, folder)).peft_config.values()
    assert (config.r, config.lora_alpha, config.task_type) == (2, 6, "FEATURE_EXTRACTION")


def test_an_adapter_of_others_on_some_layers_is_on_the_same_of_a_trunk(base: Base, tmp_path: Path) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], layers_to_transform=[1])
    get_peft_model(load_causal(base), config).save_pretrained(tmp_path)
    trunk = load_trunk_start(Weights("base", saved_base(tmp_path), tmp_path))
    tuned = [name for name, module in trunk.get_base_model().named_modules() if hasattr(module, "lora_A")]
    assert tuned == ["layers.1.self_attn.q_proj"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"base_model_name_or_path": None}, "names no base"), ({"peft_type": "IA3"}, "an adapter of the type IA3")],
)
def test_an_adapter_that_cannot_be_trained_is_refused(
    base: Base, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        saved_base(bare(base, tmp_path, **changes))


def test_a_template_that_refuses_a_prompt_is_one_line(policy: ModelPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy.tokenizer, "chat_template", "{{ raise_exception('no') }}")
    with pytest.raises(DataError, match="its messages cannot be tokenized: no"):
        policy.sample([[{"role": "user", "content": "who"}]])


def test_the_adapter_of_a_policy_that_nobody_holds_is_removed(base: Base, policy: ModelPolicy, tmp_path: Path) -> None:
    samples = policy.encode(PROMPTS, RESPONSES)
    before = policy.log_probs(samples)
    other = open_policy(saved(base, tmp_path, seed=4), base)
    name = other.adapter
    assert name in policy.module.peft_config
    del other
    gc.collect()
    assert name not in policy.module.peft_config
    assert torch.equal(policy.log_probs(samples), before)


def test_a_folder_without_a_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no policy: neither an adapter nor a whole model"):
        saved_base(tmp_path)


@pytest.mark.parametrize(
    "option",
    [
        *({"n": 0}, {"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": inf}, {"temperature": nan}),
        *({"top_p": 0.0}, {"top_p": 1.1}, {"top_p": nan}, {"top_k": -1}, {"top_k": 2.5}),
        *({"min_p": -0.1}, {"min_p": 1.1}, {"repetition_penalty": 0.0}, {"repetition_penalty": inf}),
    ],
)
def test_options_of_sampling_have_limits(policy: ModelPolicy, option: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=f"sample: {next(iter(option))} cannot be"):
        policy.sample(PROMPTS, **option)


@pytest.mark.parametrize("option", [{"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}])
def test_what_changes_no_greedy_token_is_refused(policy: ModelPolicy, option: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=f"at temperature 0 the likeliest token is taken, whatever {next(iter(option))}"):
        policy.sample(PROMPTS, temperature=0, **option)


def test_a_base_whose_files_changed_is_loaded_again(tmp_path: Path) -> None:
    first = open_policy(None, Base(tiny_base(tmp_path, seed=1).path))
    second = open_policy(None, Base(tiny_base(tmp_path, seed=2).path))
    samples = first.encode(PROMPTS, RESPONSES)
    assert not torch.equal(first.log_probs(samples), second.log_probs(samples))
    assert open_policy(None, second.backbone.base).backbone is second.backbone


def test_a_failure_leaves_the_model_in_its_mode(base: Base, policy: ModelPolicy) -> None:
    policy.module.train()
    with pytest.raises(Exception, match="index out of range"):
        policy.next_logits(torch.tensor([[10**6]]))
    assert policy.module.training
    policy.module.eval()


def test_a_base_below_the_same_folder_moves_with_its_policy(tmp_path: Path) -> None:
    base = base_in(tmp_path / "run" / "01-sft" / "model")
    (tmp_path / "run" / "02-dpo" / "model").mkdir(parents=True)
    describe(tmp_path / "run" / "02-dpo" / "model", base, tmp_path / "run")
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere")
    found = saved_base(moved / "02-dpo" / "model")
    assert Path(found.path).resolve() == (moved / "01-sft" / "model").resolve()
    assert found.adapter == base.adapter
