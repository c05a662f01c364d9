"""Rewards as handles: what they predict, and that one which is unavailable is asked again, within a budget."""

from __future__ import annotations

from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken

from rlhf_plugins import RewardUnavailable
from rlhf_plugins.contract.handles import RewardModel
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rows import Group, Samples
from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.batches.tokens import without_end
from rlhf_plugins.engine.weights.loading import load_row_encoder
from rlhf_plugins.errors import RunError
from rlhf_plugins.reward_models.handle import RewardHandle, _read, reward_handle, rewards
from rlhf_plugins.reward_models.opening import rated
from rlhf_plugins.reward_models.retries import Retries
from rlhf_plugins.sandbox import base_path
from rlhf_plugins.testing import tiny_base, tiny_encoder, tiny_pairs

SAMPLES = Samples(["a", "b"], ["xx", "yyy"], [[1], [1]], [[2], [3]])


def lengths(samples: Samples) -> Prediction:
    return Prediction(torch.tensor([float(len(response)) for response in samples.responses]))


class Busy:
    """A reward that is unavailable a few times, each time with its own `retry_after`."""

    def __init__(self, *waits: float | None) -> None:
        self.waits = list(waits)

    def __call__(self, samples: Samples) -> Prediction:
        if self.waits:
            raise RewardUnavailable("server busy", retry_after=self.waits.pop(0))
        return lengths(samples)


def test_a_handle_is_a_reward_model_and_may_be_called() -> None:
    handle = RewardHandle(lengths)
    assert isinstance(handle, RewardModel)
    assert handle.predict(SAMPLES).reward.tolist() == handle(SAMPLES).reward.tolist() == [2, 3]
    assert handle.predict(SAMPLES.take([])).reward.tolist() == []
    assert handle.module is None


def test_a_handle_has_the_state_of_its_function() -> None:
    busy = Busy(1.0)
    assert reward_handle(busy).waits == [1.0]
    assert not hasattr(reward_handle(busy), "state_dict")
    assert copy(reward_handle(busy)) == reward_handle(busy)


def test_a_handle_of_a_function_has_no_tokenizer() -> None:
    with pytest.raises(RunError, match="this reward has no tokenizer: take samples from a policy"):
        RewardHandle(lengths).encode(["a"], ["b"])


def test_a_model_with_other_tokens_reads_the_beginning_of_a_text_that_is_too_long(tmp_path: Path) -> None:
    seen = list[Samples]()
    own = replace(load_row_encoder(tiny_encoder(tmp_path / "encoder")), max_tokens=7)

    def read(samples: Samples) -> Prediction:
        seen.append(samples)
        return lengths(samples)

    given = RewardHandle(read, None, own).given(load_row_encoder(tiny_base(tmp_path / "base")))
    samples = Samples(["how", "how"], ["ant", "ant bee cat mud gas"], [[1], [1]], [[2], [3]], {"topic": ["a", "b"]})
    given.predict(samples)
    whole = [own.encode("how", text)[1] for text in samples.responses]
    assert seen[0].response_ids == [whole[0], [*whole[1][:3], whole[1][-1]]]
    assert seen[0].columns == samples.columns


def test_a_response_that_was_cut_has_no_end_in_other_tokens_either(tmp_path: Path) -> None:
    seen = list[Samples]()
    own, theirs = load_row_encoder(Base(base_path("sandbox"))), load_row_encoder(tiny_base(tmp_path))

    def read(samples: Samples) -> Prediction:
        seen.append(samples)
        return lengths(samples)

    asked, end = "the camel: what food does it have?\n", theirs.tokenizer.eos_token_id
    samples = Samples([asked] * 2, ["the camel eats"] * 2, [[1], [1]], [[9, end], [9]])
    RewardHandle(read, None, own).given(theirs).predict(samples)
    whole = own.encode(asked, "the camel eats")[1]
    assert whole[-1] == own.tokenizer.eos_token_id
    assert seen[0].response_ids == [whole, whole[:-1]]


def test_a_cut_turn_has_no_end_also_where_turns_end_otherwise_than_texts(tmp_path: Path) -> None:
    """As in Phi-3, <end> closes a turn, is no EOS and no token that the tokenizer lists as special."""
    own = load_row_encoder(tiny_base(tmp_path))
    own.tokenizer.add_tokens([AddedToken("<end>", special=True)])
    own.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} <end> {% endfor %}"
    end, asked = own.tokenizer.convert_tokens_to_ids("<end>"), [{"role": "user", "content": "how"}]
    assert end not in own.tokenizer.all_special_ids
    whole = RewardHandle(lengths, None, own).encode([asked] * 2, ["ant bee"] * 2)
    cut = RewardHandle(lengths, None, own).encode([asked] * 2, ["ant bee"] * 2, [True, False])
    assert whole.response_ids[0][-1] == end
    assert cut.response_ids == [whole.response_ids[0][:-1], whole.response_ids[1]]
    assert without_end(cut, own.tokenizer) == [True, False]
    assert _read(cut, own, own).response_ids == cut.response_ids


def test_a_group_brings_its_columns(tmp_path: Path) -> None:
    handle = RewardHandle(lengths, None, load_row_encoder(tiny_base(tmp_path)))
    samples = handle.encode([Group("how ", columns={"user": 3}), "how "], ["ant", "bee"])
    assert samples.columns == {"user": [3, None]}


def test_what_a_model_encoded_itself_is_not_taken_for_a_cut_response_of_another(tmp_path: Path) -> None:
    seen = list[Samples]()
    own, theirs = load_row_encoder(Base(base_path("sandbox"))), load_row_encoder(tiny_base(tmp_path))
    theirs = replace(theirs, tokenizer=deepcopy(theirs.tokenizer))
    theirs.tokenizer.eos_token, theirs.tokenizer.pad_token, theirs.tokenizer.unk_token = "ant", "bee", "cat"
    assert own.tokenizer.eos_token_id not in theirs.tokenizer.all_special_ids

    def read(samples: Samples) -> Prediction:
        seen.append(samples)
        return lengths(samples)

    given = RewardHandle(read, None, own).given(theirs)
    samples = given.encode(["the camel: what food does it have?\n"], ["the camel eats"])
    assert samples.response_ids[0][-1] == own.tokenizer.eos_token_id
    given.predict(samples)
    assert seen == [samples]


def test_a_teacher_that_abstains_rates_nothing(tmp_path: Path) -> None:
    encoder, silent = load_row_encoder(tiny_base(tmp_path)), torch.tensor([False, True])
    groups = rated(tiny_pairs(1), lambda samples: replace(lengths(samples), abstained=silent), encoder)
    assert groups[0].ratings["teacher"][0] is not None
    assert groups[0].ratings["teacher"][1] is None


def test_a_handle_of_a_function_has_no_gradient() -> None:
    with pytest.raises(RunError, match="this reward has no gradient: it is no single reward model"):
        RewardHandle(lengths).predict(SAMPLES, grad=True)


def test_an_abstained_reward_is_none() -> None:
    prediction = Prediction(torch.tensor([1.0, 0.0]), abstained=torch.tensor([False, True]))
    assert rewards(prediction) == [1.0, None]
    assert rewards(lengths(SAMPLES)) == [2.0, 3.0]


def test_an_unavailable_reward_is_waited_for() -> None:
    """It says 7 seconds, then nothing: the second wait is the second of the doubling ones, 2."""
    waited: list[float] = []
    handle = reward_handle(Busy(7.0, None), Retries(sleep=waited.append))
    assert handle.predict(SAMPLES).reward.tolist() == [2, 3]
    assert waited == [7.0, 2.0]


@pytest.mark.parametrize(
    ("limits", "after"),
    [({"attempts": 3}, "3 of 3 attempts, 3 s of waiting"), ({"seconds": 6.0}, "3 of 8 attempts, 3 s of waiting")],
)
def test_a_reward_that_stays_unavailable_ends_the_stage(limits: dict[str, Any], after: str) -> None:
    """Waits of 1 and 2 seconds, and the next would be 4."""
    handle = reward_handle(Busy(*[None] * 9), Retries(sleep=lambda _: None, **limits))
    with pytest.raises(RunError, match=f"the reward stayed unavailable after {after}: server busy"):
        handle.predict(SAMPLES)


def test_a_handle_has_the_gradient_of_what_was_built() -> None:
    class Built:
        with_grad = staticmethod(lengths)

        def __call__(self, samples: Samples) -> Prediction:
            raise AssertionError

    assert reward_handle(Built()).predict(SAMPLES, grad=True).reward.tolist() == [2, 3]
