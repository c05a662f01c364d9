"""A policy that was trained to end its responses at further tokens ends them there wherever it answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, GenerationConfig

from rlhf_plugins import Adapter, Run, RunError, mix, session
from rlhf_plugins.engine.sampling import Decoding
from rlhf_plugins.engine.streaming import stream
from rlhf_plugins.engine.weights.end_tokens import ENDS, noted_ends
from rlhf_plugins.saved.policy_export import export_policy
from rlhf_plugins.saved.run_reference import made
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

EOS, STOP = 1, 7
ASKED = ["how is the\n", "who\n", "why is\n", "how ant\n"]
FEW = {"max_steps": 1, "disable_tqdm": True}
ROLLOUT = {**FEW, "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6}
ONLINE = {"use": "online", "reward": "gold", "advantage": "grpo", "kl": "none", "trainer": ROLLOUT}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("ends")
    base = replace(tiny_base(folder / "base"), adapter=Adapter(r=4))
    found = session(base, tiny_run(base, folder / "rows", tiny_pairs(16)).data, folder / "run")
    ends = {**ROLLOUT, "generation_kwargs": {"eos_token_id": STOP}}
    found.train({**ONLINE, "trainer": ends}, name="stop")
    found.train({"use": "preference", "from": "stop", "trainer": FEW}, name="dpo")
    found.train({**ONLINE, "from": "dpo"}, name="further")
    found.train({**ONLINE, "from": "base"}, name="plain")
    return found


def sampled(policy: Any) -> list[list[int]]:
    found: list[list[int]] = policy.sample(ASKED, 8, max_new_tokens=24).response_ids
    assert len(found) == 32
    return found


@pytest.mark.parametrize("name", ["stop", "dpo", "further"])
def test_its_responses_end_there(run: Run, name: str) -> None:
    plain, found = sampled(run.reference()), sampled(run.policy(name))
    assert any(STOP in ids[:-1] for ids in plain)  # of the base that they share
    assert any(ids[-1] == STOP for ids in found)
    assert not any(STOP in ids[:-1] or EOS in ids[:-1] for ids in found)


def test_its_kl_to_a_policy_that_goes_on_is_unknown(run: Run) -> None:
    found = run.train({"use": "evaluate", "prompts": 4, "max_new_tokens": 6}, name="held_out").report
    kls = {name: row["kl"] for name, row in found.policies.items()}
    assert {name for name, kl in kls.items() if kl is None} == {"stop", "dpo", "further"}
    said = [note for note in found.notes if "unknown" in note]
    assert said[0] == "The KL of stop is unknown: its responses end at other tokens than those of base."
    assert len(said) == 3


def test_a_policy_of_the_bases_own_ends_has_no_note(run: Run) -> None:
    assert any(STOP in ids[:-1] for ids in sampled(run.policy("plain")))
    assert not (run.folder / "plain" / "model" / ENDS).exists()


def test_it_is_streamed_and_mixed_up_to_there(run: Run) -> None:
    policy: Any = run.policy("stop")
    texts = [policy.tokenizer.decode(ids) for ids in sampled(policy)]
    word = policy.tokenizer.decode([STOP])
    assert any(text.endswith(word) for text in texts)
    shown = ["".join(stream(policy, ASKED[0], Decoding(24, seed=seed))) for seed in range(32)]
    assert not any(word in text.split() for text in shown)
    mixed = mix({policy: 1.0, run.reference(): 0.0})
    assert mixed.ends == [EOS, STOP]
    assert not any(STOP in ids[:-1] for ids in sampled(mixed))
    weights = mix({policy: 1.0, run.policy("plain"): 0.0}, over="weights")
    assert not any(STOP in ids[:-1] for ids in sampled(weights))


def test_an_export_keeps_the_ends(run: Run, tmp_path: Path) -> None:
    found = made(f"{run.folder}#stop", "policies")
    export_policy(found, tmp_path / "adapter")
    assert GenerationConfig.from_pretrained(tmp_path / "adapter").eos_token_id == [EOS, STOP]
    export_policy(found, tmp_path / "whole", merge=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    assert model.generation_config.eos_token_id == [EOS, STOP]


def test_merged_or_trained_whole_it_ends_there(run: Run) -> None:
    run.train({"use": "merge", "from": "stop"}, name="merged")
    assert not any(STOP in ids[:-1] for ids in sampled(run.policy("merged")))


@pytest.mark.parametrize(
    ("text", "good"),
    [("{}", None), ("{", None), ('{"eos_token_id": "x"}', None), ('{"eos_token_id": 7}', [7])],
)
def test_a_damaged_note_is_an_error(tmp_path: Path, text: str, good: list[int] | None) -> None:
    (tmp_path / ENDS).write_text(text)
    assert noted_ends(tmp_path) == []  # beside no adapter it is transformers' own
    (tmp_path / "adapter_config.json").write_text(json.dumps({}))
    read: Callable[[], list[int]] = lambda: noted_ends(tmp_path)  # noqa: E731
    if good:
        assert read() == good
        return
    with pytest.raises(RunError, match="generation_config.json: cannot be read"):
        read()
