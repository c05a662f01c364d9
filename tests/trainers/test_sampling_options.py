"""Options of generation: which sample another distribution than the policy's, and which are refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.errors import PluginError, RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.trainers.ppo.sampling import refusal, reshaping

from .online_parts import Bases, curve, logged, trainer

PLAINLY = {"top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0, "generation_kwargs": None}


@pytest.mark.parametrize(
    "options",
    [
        {},
        PLAINLY,
        {"top_p": 0.9, "generation_kwargs": {"top_p": 1}},  # which has the last word
        {"generation_kwargs": {"eos_token_id": [7], "renormalize_logits": True, "max_new_tokens": 3}},
        {"generation_kwargs": {"do_sample": True, "min_new_tokens": 0, "suppress_tokens": None, "guidance_scale": 1}},
    ],
)
def test_options_that_leave_the_policys_distribution(options: dict[str, Any]) -> None:
    assert reshaping(options) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("top_p", 0.9), ("top_k", 5), ("min_p", 0.1), ("repetition_penalty", 1.1), ("typical_p", 0.5)),
        *(("guidance_scale", 1.5), ("no_repeat_ngram_size", 2), ("bad_words_ids", [[5]]), ("suppress_tokens", [5])),
        *(("min_new_tokens", 4), ("num_beams", 2), ("do_sample", False), ("sequence_bias", [[[5], 1.0]])),
    ],
)
def test_options_that_sample_something_else(name: str, value: Any) -> None:
    assert reshaping({**PLAINLY, "generation_kwargs": {"temperature": 1.0, name: value}}) == [name]


@pytest.mark.parametrize("options", [{"top_p": 0.5}, {"generation_kwargs": {"guidance_scale": 3.0}}])
def test_where_something_else_is_sampled_its_kl_is_not_logged(
    bases: Bases, tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    """Guidance computes each token twice, and the second time without the prompt."""
    with caplog.at_level(logging.WARNING):
        found = trainer(bases(), tmp_path, max_steps=2, **options)
    assert f"{reshaping(options)[0]}: tokens are drawn from another distribution than the policy's" in caplog.text
    assert len(curve(found, "reward")) == 1
    assert not logged(found, "sampling/kl")


def test_what_changes_no_token_leaves_the_kl(bases: Bases, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"renormalize_logits": True, "eos_token_id": 7}
    found = curve(trainer(bases(), tmp_path, max_steps=2, generation_kwargs=options), "sampling/kl")
    assert len(found) == 1
    assert 0 <= found[0] < 1e-10
    assert "another distribution" not in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_strings": ["ant"]}, "stop_strings ends responses with a text, .*; name such tokens as eos_token_id"),
        ({"stop": "ant"}, "generation_kwargs: stop ends responses with a text"),
        ({"num_beams": 2}, "num_beams searches for likely responses"),
        ({"num_return_sequences": 2}, "num_return_sequences: a rollout has one response .* write num_generations"),
        ({"no_repeat_ngrams": 2}, r"unknown option 'no_repeat_ngrams' \(did you mean no_repeat_ngram_size\?"),
    ],
)
def test_what_no_training_can_generate_with_is_refused(
    bases: Bases, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        trainer(bases(), tmp_path, generation_kwargs=options)


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"num_return_sequences": 3}, {"do_sample": False}])
def test_a_stage_refuses_what_gives_no_samples_to_compare(options: dict[str, Any]) -> None:
    words = {"use": "online", "reward": "gold", "advantage": "grpo", "trainer": {"generation_kwargs": options}}
    with pytest.raises(PluginError, match=f"trainer.generation_kwargs: {next(iter(options))}"):
        component("stage", words)
    alone = component("stage", {**words, "advantage": "gae", "trainer": {"generation_kwargs": {"do_sample": False}}})
    assert alone.advantage.min_group == 1


def test_what_says_the_default_is_taken() -> None:
    plainly = {"num_beams": 1, "num_return_sequences": 1, "do_sample": True}
    assert refusal({"generation_kwargs": plainly}, 1.0, compares=True) is None
    assert refusal({"generation_kwargs": {"n": 2}, "use_vllm": True}, 1.0, compares=False)
