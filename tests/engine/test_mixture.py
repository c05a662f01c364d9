"""Mixtures of policies, against sums by hand."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from renumbered import renumbered

from rlhf_plugins.contract.handles import Policy
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.engine.mixture import mix
from rlhf_plugins.engine.policy import ModelPolicy, open_policy
from rlhf_plugins.errors import RunError
from rlhf_plugins.testing import tiny_base

from .test_policy import PROMPTS, RESPONSES, base_in, saved

IDS = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])


def two_in(folder: Path) -> tuple[ModelPolicy, ModelPolicy]:
    base = base_in(folder / "base")
    first, second = (open_policy(saved(base, folder / str(seed), seed), base) for seed in (1, 2))
    return first, second


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelPolicy, ModelPolicy]:
    return two_in(tmp_path_factory.mktemp("mixture"))


@pytest.mark.parametrize("weights", [(0.3, 0.7), (1.5, -0.5), (1.0, 1.0)])
def test_logits_are_the_weighted_sum(tmp_path: Path, weights: tuple[float, float]) -> None:
    both = two_in(tmp_path)
    for each in both:
        each.module.double()  # some CPUs round float32 otherwise with a cache than without
    mixed = mix(dict(zip(both, weights, strict=True)))
    assert isinstance(mixed, Policy)
    one, other = (policy.next_logits(IDS)[0] for policy in both)
    torch.testing.assert_close(mixed.next_logits(IDS)[0], weights[0] * one + weights[1] * other)
    _, cache = mixed.next_logits(IDS[:, :3])
    torch.testing.assert_close(mixed.next_logits(IDS[:, 3:], cache)[0], weights[0] * one + weights[1] * other)


def test_log_probs_are_those_of_the_mixture(both: tuple[ModelPolicy, ModelPolicy]) -> None:
    mixed = mix({both[0]: 0.25, both[1]: 0.75})
    samples = mixed.encode(PROMPTS, RESPONSES)
    prompt, response = list(samples.prompt_ids[0]), list(samples.response_ids[0])
    expected = [
        mixed.next_logits(torch.tensor([prompt + response[:t]]))[0].log_softmax(-1)[0, token]
        for t, token in enumerate(response)
    ]
    torch.testing.assert_close(mixed.log_probs(samples)[0], torch.stack(expected))


def test_all_the_weight_on_one_policy_is_that_policy(both: tuple[ModelPolicy, ModelPolicy]) -> None:
    samples = both[0].encode(PROMPTS, RESPONSES)
    for over in ("logits", "weights"):
        mixed = mix({both[0]: 1.0, both[1]: 0.0}, over=over)
        torch.testing.assert_close(mixed.log_probs(samples), both[0].log_probs(samples))
        assert mixed.choose(PROMPTS, ["ant", "gas"]).shape == (2, 2)


def test_a_mixture_samples_as_greedy_decoding_of_its_logits(both: tuple[ModelPolicy, ModelPolicy]) -> None:
    mixed = mix({both[0]: 0.5, both[1]: 0.5})
    samples = mixed.sample(PROMPTS, temperature=0, max_new_tokens=5)
    for prompt, response in zip(samples.prompt_ids, samples.response_ids, strict=True):
        for t, token in enumerate(response):
            assert int(mixed.next_logits(torch.tensor([[*prompt, *response[:t]]]))[0].argmax()) == token
    drawn = [mixed.sample(PROMPTS, n=3, max_new_tokens=5, seed=seed, top_p=0.9).response_ids for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    asked = {"temperature": 0, "max_new_tokens": 9, "repetition_penalty": 4.0}
    found = [mix({both[0]: 1.0}, over=over).sample(PROMPTS, **asked).response_ids for over in ("logits", "weights")]
    assert found[0] == found[1] != both[0].sample(PROMPTS, temperature=0, max_new_tokens=9).response_ids


def test_adapters_are_summed_layer_by_layer(both: tuple[ModelPolicy, ModelPolicy]) -> None:
    """The change of a layer is sum_i w_i (alpha_i / r_i) B_i A_i."""
    backbone, mixed = both[0].backbone, mix({both[0]: 0.3, both[1]: 2.0}, over="weights")
    assert isinstance(mixed, ModelPolicy)
    assert mixed.backbone is backbone
    layers = backbone.layers(str(mixed.adapter))
    assert layers.keys() == backbone.layers(str(both[0].adapter)).keys()
    for layer in layers.values():
        change = 0.3 * layer.get_delta_weight(both[0].adapter) + 2.0 * layer.get_delta_weight(both[1].adapter)
        torch.testing.assert_close(layer.get_delta_weight(mixed.adapter), change)


def test_adapters_of_embeddings_are_summed(tmp_path: Path) -> None:
    base = replace(base_in(tmp_path / "base"), adapter=Adapter(r=2, target_modules=["embed_tokens"]))
    both = [open_policy(None, base, trainable=True) for _ in range(2)]
    for weights in (weights for policy in both for weights in policy._weights()):
        weights.data.normal_()
    layers = both[0].backbone.layers(str(both[0].adapter))
    mixed = mix({both[0]: 0.3, both[1]: 2.0}, over="weights")
    assert isinstance(mixed, ModelPolicy)
    change = sum(
        w * layers["model.embed_tokens"].get_delta_weight(p.adapter) for p, w in zip(both, (0.3, 2.0), strict=True)
    )
    torch.testing.assert_close(layers["model.embed_tokens"].get_delta_weight(mixed.adapter), change)


def test_the_base_in_a_mixture_of_adapters_changes_nothing(both: tuple[ModelPolicy, ModelPolicy]) -> None:
    mixed = mix({both[0]: 0.5, open_policy(None, both[0].backbone.base): 0.5}, over="weights")
    layer = next(iter(both[0].backbone.layers(str(mixed.adapter)).values()))  # type: ignore[attr-defined]
    torch.testing.assert_close(
        layer.get_delta_weight(mixed.adapter),  # type: ignore[attr-defined]
        0.5 * layer.get_delta_weight(both[0].adapter),
    )


def test_whole_models_are_summed_weight_by_weight(tmp_path: Path) -> None:
    one, other = (open_policy(None, Base(tiny_base(tmp_path / str(seed), seed=seed).path)) for seed in (1, 2))
    mixed = mix({one: 0.25, other: 0.75}, over="weights")
    pairs = zip(one._weights(), other._weights(), mixed._weights(), strict=True)
    for first, second, found in pairs:
        torch.testing.assert_close(found, 0.25 * first + 0.75 * second)
    with pytest.raises(RunError, match="weights must add up to 1"):
        mix({one: 1.0, other: 1.0}, over="weights")
    with pytest.raises(RunError, match=r"unknown over 'weight' \(did you mean weights\?"):
        mix({one: 1.0}, over="weight")  # type: ignore[arg-type]


def test_policies_that_number_their_tokens_otherwise_are_refused(tmp_path: Path) -> None:
    one, other = (open_policy(None, base) for base in (tiny_base(tmp_path / "1"), renumbered(tmp_path / "2")))
    with pytest.raises(RunError, match="the policies have different vocabularies"):
        mix({one: 0.5, other: 0.5})


def test_a_temperature_divides_the_logits(both: tuple[ModelPolicy, ModelPolicy]) -> None:
    samples = both[0].encode(PROMPTS, RESPONSES)
    prompt, response = list(samples.prompt_ids[1]), list(samples.response_ids[1])
    for policy in (both[0], mix({both[0]: 0.5, both[1]: 0.5})):
        found = policy.log_probs(samples, temperature=0.5)[1]
        logits = policy.next_logits(torch.tensor([prompt]))[0][0]
        torch.testing.assert_close(found[0], (logits / 0.5).log_softmax(-1)[response[0]])


def test_a_mixture_that_nobody_holds_leaves_the_base(both: tuple[ModelPolicy, ModelPolicy]) -> None:
    before = set(both[0].module.peft_config)
    mixed = mix({both[0]: 0.5, both[1]: 0.5}, over="weights")
    assert isinstance(mixed, ModelPolicy)
    assert set(both[0].module.peft_config) == before | {mixed.adapter}
    del mixed
    gc.collect()
    assert set(both[0].module.peft_config) == before


def test_many_responses_of_a_mixture_are_generated_in_parts(
    both: tuple[ModelPolicy, ModelPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed, sizes = mix({both[0]: 0.5, both[1]: 0.5}), list[int]()
    own = mixed.next_logits
    monkeypatch.setattr(mixed, "next_logits", lambda ids, cache=None: sizes.append(len(ids)) or own(ids, cache))
    samples = mixed.sample(PROMPTS[:1], n=600, max_new_tokens=1)
    assert (sizes, len(samples.responses)) == ([512, 88], 600)
