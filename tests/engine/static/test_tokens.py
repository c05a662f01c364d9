"""Over a static cache the tokens are transformers', whatever is beside a row and whatever slot it has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.engine import decoding, pretending
from rlhf_plugins.engine.cpu.decoding import NOT_FINITE
from rlhf_plugins.engine.decoding import own_decoding_loop
from rlhf_plugins.engine.layers import SHORT, attention_windows
from rlhf_plugins.engine.sampler_log_probs import noted_log_probs
from rlhf_plugins.engine.static import loop, slots, trial
from rlhf_plugins.engine.weights.loading import load_causal, with_adapter
from rlhf_plugins.errors import RunError
from rlhf_plugins.testing import tiny_base

from ..conftest import EOS, PAD
from .conftest import IDS, greedy, over_slots, plainly, sampled

Causal = Callable[..., Any]
ARCHITECTURES = ["llama", "qwen3", "qwen2", "gpt2", "opt", "gemma", "phi3", "granite", "cohere", "gpt_neox", "mixtral"]
WINDOWS: dict[str, dict[str, Any]] = {  # shorter than a prompt and its response
    "gemma3_text": {"sliding_window": 5, "num_hidden_layers": 6},
    "mistral": {"sliding_window": 5},
    "qwen2": {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 1},
    "cohere2": {"sliding_window": 5, "num_hidden_layers": 4},
}


@pytest.fixture(autouse=True)
def _only_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes transformers' way is no test of ours."""

    def refuse(_: Any, reason: str) -> None:
        raise AssertionError(reason)

    for owner in (loop, trial):
        monkeypatch.setattr(owner, "say", refuse)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_tokens_are_transformers(causal: Causal, architecture: str) -> None:
    model = causal(architecture)
    assert torch.equal(over_slots(model, greedy()), plainly(model, greedy()))


@pytest.mark.parametrize("architecture", WINDOWS)
def test_a_sliding_window_hides_what_it_does_in_transformers(causal: Causal, architecture: str) -> None:
    model = causal(architecture, **WINDOWS[architecture])
    expected = plainly(model, greedy())
    assert torch.equal(over_slots(model, greedy()), expected)
    wide = causal(architecture, **{**WINDOWS[architecture], "sliding_window": 64})
    assert not torch.equal(plainly(wide, greedy()), expected)
    assert torch.equal(over_slots(wide, greedy()), plainly(wide, greedy()))


def adapted(base: Base) -> Any:
    model = with_adapter(load_causal(base), Adapter(r=2), "CAUSAL_LM").eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.normal_(0, 0.2)
    return model


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_of_an_adapter_and_of_a_base_in_4_bits(tmp_path: Path, quantization: str | None) -> None:
    model = adapted(Base(tiny_base(tmp_path, "qwen3").path, quantization))
    expected = plainly(model, greedy())
    with model.disable_adapter():
        assert not torch.equal(plainly(model, greedy()), expected)
    assert torch.equal(over_slots(model, greedy()), expected)


def test_in_bfloat16(causal: Causal) -> None:
    model = causal("qwen3").to(torch.bfloat16)
    assert torch.equal(over_slots(model, greedy()), plainly(model, greedy()))


def test_under_autocast_around_its_forward_the_cache_is_in_half_precision(causal: Causal) -> None:
    """As accelerate puts it around a policy whose weights are all trained."""
    model = causal("qwen3")
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    expected = plainly(model, greedy())
    with pretending("cuda"), own_decoding_loop(model) as own:
        assert torch.equal(plainly(model, greedy()), expected)
        layer = own.over_slots._filler._slots.cache.layers[0]  # type: ignore[union-attr]
    assert (layer.keys.dtype, layer.values.dtype) == (torch.bfloat16, torch.bfloat16)


@pytest.fixture(scope="module")
def llama(causal: Causal) -> Any:
    return causal("llama")


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(len(IDS))), st.integers(1, len(IDS)), st.sampled_from([1, 2, 3, 512]))
def test_neither_batch_mates_nor_slots_change_a_row(llama: Any, order: list[int], count: int, rows: int) -> None:
    chosen = IDS[order[:count]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding.Loop.__init__, "__defaults__", (rows,))
        found = over_slots(llama, greedy(), chosen)
    for row, ids in zip(order, found.tolist(), strict=False):
        alone = plainly(llama, greedy(), IDS[row : row + 1])[0].tolist()
        assert ids[: len(alone)] == alone
        assert set(ids[len(alone) :]) <= {PAD}


@pytest.mark.parametrize("asked", [sampled(), sampled(temperature=0.7, top_p=0.8), greedy()])
def test_a_seed_gives_the_same_tokens_with_any_number_of_slots(
    llama: Any, monkeypatch: pytest.MonkeyPatch, asked: Any
) -> None:
    ids = IDS.repeat(3, 1)
    expected = over_slots(llama, asked, ids)
    assert asked.do_sample is torch.equal(expected, over_slots(llama, asked, ids, seed=1)) ^ True
    for rows in (1, 2, 5):
        monkeypatch.setattr(decoding.Loop.__init__, "__defaults__", (rows,))
        assert torch.equal(over_slots(llama, asked, ids), expected)


def test_a_response_ends_with_eos_and_then_there_is_padding(llama: Any) -> None:
    found = over_slots(llama, sampled(20), IDS.repeat(5, 1))[:, IDS.shape[1] :]
    rows = [row for row in found.tolist() if EOS in row]
    assert len(rows) > 5
    assert all(set(row[row.index(EOS) + 1 :]) <= {PAD} for row in rows)
    assert found.shape == (30, 20)


def test_several_ends_and_no_end(llama: Any) -> None:
    for ends in ([3, 4, 5, 6, 7, 8], None):
        asked = greedy(eos_token_id=ends)
        assert torch.equal(over_slots(llama, asked), plainly(llama, asked))


def test_tokens_come_as_often_as_they_are_likely(llama: Any) -> None:
    ids = torch.tensor([[5, 6, 7]]).expand(4096, -1)
    found = over_slots(llama, sampled(1, temperature=0.5, top_p=0.9), ids)[:, -1]
    with torch.no_grad():
        likely = (llama(ids[:1]).logits[0, -1].float() / 0.5).softmax(-1)
    order = likely.argsort(descending=True)
    kept = order[: int((likely[order].cumsum(0) < 0.9).sum()) + 1]
    expected = torch.zeros_like(likely).index_copy(0, kept, likely[kept] / likely[kept].sum())
    shares = torch.bincount(found, minlength=len(likely)) / len(found)
    torch.testing.assert_close(shares, expected, rtol=0, atol=4 * 0.5 / len(found) ** 0.5)
    assert shares[expected == 0].sum() == 0


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 0.999}])
def test_the_likeliest_token_alone_is_greedy(llama: Any, options: dict[str, Any]) -> None:
    assert torch.equal(over_slots(llama, sampled(**options)), plainly(llama, greedy()))


def test_log_probabilities_are_those_of_a_forward_pass(llama: Any) -> None:
    with noted_log_probs(llama, 0.5) as noted:
        found = over_slots(llama, sampled(temperature=0.5, top_k=3))
    width = IDS.shape[1]
    for row, (ids, nats) in enumerate(zip(found, noted, strict=True)):
        made = ids[width:].tolist()
        length = made.index(EOS) + 1 if EOS in made else len(made)
        whole = torch.cat([IDS[row][IDS[row] != PAD], ids[width : width + length]])
        with torch.no_grad():
            expected = (llama(whole[None]).logits[0, -length - 1 : -1] / 0.5).log_softmax(-1)
        own = expected.gather(1, whole[-length:, None]).squeeze(1)
        assert torch.allclose(torch.tensor(nats[:length]), own, atol=1e-5)


def test_weights_that_are_not_finite_are_refused(causal: Causal, monkeypatch: pytest.MonkeyPatch) -> None:
    model = causal()
    model.lm_head.weight.data.fill_(torch.nan)
    monkeypatch.setattr(loop, "obstacle_of", lambda _: None)
    with pytest.raises(RunError, match=NOT_FINITE):
        over_slots(model, sampled())


def test_a_trial_sees_a_cache_that_is_wrong(causal: Causal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trial.obstacle_of(causal()) is None
    monkeypatch.setattr(trial.Slots, "start", lambda self, *given: _shifted(self, *given))
    assert "changes its logits by" in str(trial.obstacle_of(causal()))


@pytest.mark.parametrize("off", [1, 2])
def test_a_trial_sees_a_window_that_is_wrong(causal: Causal, monkeypatch: pytest.MonkeyPatch, off: int) -> None:
    """A layer that names its window refuses a mask with another one, and one that does not has other logits."""
    named, unnamed = (causal("gemma3_text", num_hidden_layers=6) for _ in range(2))
    for layer in unnamed.model.layers:
        layer.self_attn.sliding_window = None
    before = named.config.sliding_window
    monkeypatch.setattr(
        slots, "attention_windows", lambda config: {k: w and w - off for k, w in attention_windows(config).items()}
    )
    assert "was given another mask" in str(trial.obstacle_of(named))
    assert "changes its logits by" in str(trial.obstacle_of(unnamed))
    assert {named.config.sliding_window, named.model.layers[0].self_attn.sliding_window} == {before}
    assert before > SHORT


def _shifted(slots: Any, at: Any, last: Any, prompts: Any, numbers: Any) -> None:
    """One place too far."""
    start(slots, at, last, [length + 1 for length in prompts], numbers)


start = trial.Slots.start
