"""Explanations of judges so small that every part of them is worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rlhf_watch.explain import stage, wording
from rlhf_watch.explain.attribution import integrated_gradients, left_out
from rlhf_watch.explain.layers import Layers, read_layers
from rlhf_watch.explain.nearest import Neighbours
from rlhf_watch.explain.wording import Explained
from torch import Tensor, nn

from rlhf_plugins import DataError, RunError, Samples, component

SAMPLE = Samples(["p"], ["r"], [[0]], [[3, 1]])


class Judge:
    """A reward of embeddings (1, T, 1), which are the token ids."""

    def __init__(self, reward: Callable[[Tensor], Tensor], reads: Callable[[list[int]], list[int]] = list) -> None:
        self.embeddings = nn.Embedding.from_pretrained(torch.arange(8.0).unsqueeze(1))
        trunk = SimpleNamespace(get_input_embeddings=lambda: self.embeddings)
        self.module, self.reward, self.reads, self.asked = SimpleNamespace(trunk=trunk), reward, reads, 0

    def predict(self, sample: Samples, grad: bool = False) -> Any:
        self.asked += 1
        ids = self.reads([*sample.prompt_ids[0], *sample.response_ids[0]])
        return SimpleNamespace(reward=self.reward(self.embeddings(torch.tensor([ids]))).view(1), dimensions={})


def test_the_parts_of_a_sum_of_squares_are_the_differences_of_squares() -> None:
    """Tokens 3 and 1, from 1 and 1: 9 - 1 and 0, by the first 16 points of the path."""
    judge = Judge(lambda embeddings: embeddings.square().sum())
    found = integrated_gradients(judge, SAMPLE)
    assert (found.reward, found.baseline) == (10, 2)
    assert found.parts == pytest.approx((8, 0), abs=1e-5)
    assert judge.asked == 1 + 2 + 16


def test_a_jump_that_no_gradient_sees_is_the_error() -> None:
    """100 + the sum + 6 where it is above 3.3: from 102 to 110, of which the gradients see 2, by at most 256 points."""
    judge = Judge(lambda embeddings: 100 + embeddings.sum() + 6 * (embeddings.sum() > 3.3))
    found = integrated_gradients(judge, SAMPLE)
    assert (found.parts, found.error) == (pytest.approx((2, 0), abs=1e-5), pytest.approx(6 / 8, abs=1e-5))
    assert judge.asked == 1 + 2 + 16 + 32 + 64 + 128 + 256


def test_a_model_that_reads_other_tokens_is_refused() -> None:
    with pytest.raises(RunError, match="does not read the prompt and the response in one piece"):
        integrated_gradients(Judge(torch.sum, reads=lambda ids: ids[::-1]), SAMPLE)


class Lengths:
    """The reward of a text is its number of characters."""

    def encode(self, prompts: list[str], responses: list[str]) -> list[str]:
        return responses

    def predict(self, texts: list[str]) -> Any:
        return SimpleNamespace(reward=torch.tensor([float(len(text)) for text in texts]))


def test_a_word_left_out_is_taken_from_the_words_alone() -> None:
    """Not from the response as it is spaced: `a bbb` has 5 characters, `bbb` 3 and `a` 1."""
    assert left_out(Lengths(), "p", " a  bbb ") == [("a", 2.0), ("bbb", 4.0)]
    assert left_out(Lengths(), "p", " ") == []


def test_the_strongest_attention_is_to_a_token_behind_the_first() -> None:
    weights = torch.tensor([[[0.9, 0.1, 0.0, 0.0], [0.2, 0.1, 0.6, 0.1]]])
    assert Layers((0.0, 0.0), weights).strongest(0) == (1, 2, pytest.approx(0.6))


def network(columns: tuple[str, ...] = (), reward: float = 2.0) -> Any:
    """Three tokens of states 0, 1 and 2 in each layer; the pooling takes the only state that it is given."""
    config = SimpleNamespace(_attn_implementation="sdpa")
    states = torch.arange(3.0).view(1, 3, 1)
    found = SimpleNamespace(hidden_states=[10 + states, states], attentions=[torch.eye(3).view(1, 1, 3, 3)])
    trunk: Any = type("Trunk", (), {"__call__": lambda *_, **__: found, "device": "cpu", "config": config})()
    trunk.set_attn_implementation = lambda name: None
    pooling: Any = type("Pooling", (), {"__call__": lambda _, h, mask: h[:, 0], "over": "", "reads_last": True})()
    module: Any = type("Module", (), {"__call__": lambda _, feature: SimpleNamespace(reward=feature[0])})()
    module.trunk, module.pooling, module.columns, module.sentences = trunk, pooling, columns, None
    return SimpleNamespace(module=module, predict=lambda sample: SimpleNamespace(reward=torch.tensor([reward])))


def test_what_reads_the_last_token_is_given_it_alone() -> None:
    found = read_layers(network(), SAMPLE)
    assert found.rewards == (12, 2)
    assert found.attention.tolist() == [[[0, 0, 1]]]


def test_a_pooling_of_the_responses_sentences_is_given_mask_and_numbers() -> None:
    """Behind a prompt of one token, of the sentences 0 and 1 from the states 1 and 2: 1 + 2 * 2, and 11 + 2 * 12."""
    judge = network()
    judge.module.pooling = SumOfSentences()
    judge.module.sentences = lambda ids, mask: torch.tensor([[0, 0, 1]]) * mask
    judge.predict = lambda sample: SimpleNamespace(reward=torch.tensor([5.0]))
    assert read_layers(judge, SAMPLE).rewards == (35, 5)


class SumOfSentences:
    over, reads_last = "response", False

    def __call__(self, hidden: Tensor, mask: Tensor, numbers: Tensor) -> Tensor:
        return (hidden[..., 0] * mask * (numbers + 1)).sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("given", "message"), [({"columns": ("length",)}, "reads no columns"), ({"reward": 2.1}, "its layers are not read")]
)
def test_layers_that_are_not_the_rewards_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        read_layers(network(**given), SAMPLE)


def neighbours(features: Tensor | None) -> Neighbours:
    found = SimpleNamespace(features=features, reward=torch.tensor([1.0, 2.0]))
    judge = SimpleNamespace(encode=lambda *texts: texts, predict=lambda samples: found)
    return Neighbours.of(judge, [("a", "b"), ("c", "d")])


def test_a_distance_is_in_deviations_and_a_feature_that_is_constant_counts_as_it_is() -> None:
    """Of features (0, 5) and (4, 5): 2 and, of equal ones, 1. From (4, 5) to (0, 8) it is (2, 3) of these."""
    known = neighbours(torch.tensor([[0.0, 5.0], [4.0, 5.0]]))
    ((prompt, response, reward, near), (*_, far)) = known.nearest(np.array([0.0, 8.0]), 2)
    assert (prompt, response, reward) == ("a", "b", 1.0)
    assert (near, far) == pytest.approx((3 / 2**0.5, (13 / 2) ** 0.5))
    with pytest.raises(DataError, match="gives no features"):
        neighbours(None)


def linear(ids: list[int], *weights: float, jump: float = 0.0) -> Any:
    """The sum of the embeddings at these weights, with a jump where it is above 3.3."""
    places = torch.tensor(weights).view(1, -1, 1)
    judge: Any = Judge(lambda read: (read * places).sum() + jump * ((read * places).sum() > 3.3))
    judge.encode = lambda prompts, responses: Samples(["p"], ["r"], [[0]], [ids])
    judge.encoder = SimpleNamespace(tokenizer=SimpleNamespace(decode=lambda some: f" t{some[0]}"))
    return judge


MESSAGES = [{"role": "assistant", "content": "x"}]


def test_a_response_is_explained_by_its_strongest_parts_down_or_up() -> None:
    """Tokens 2, 5 and 1 at weights -9, 1 and 1: from 1, 1 and 1 it is -9 (2 - 1), 5 - 1 and 0."""
    found = Explained.of(linear([2, 5, 1], 0, -9, 1, 1), "p", MESSAGES)
    assert found.tokens == "'t2' -9.000, 't5' +4.000, 't1' +0.000"
    assert (found.reward, found.change, found.words, found.dimensions) == (-12, -5, "", "")
    many = Explained.of(linear([2, 3, 4, 5, 6, 7, 1], 0, *[1.0] * 7), "p", MESSAGES)
    assert many.tokens == "'t7' +6.000, 't6' +5.000, 't5' +4.000, 't4' +3.000, 't3' +2.000, 't2' +1.000"


def file_of(tmp_path: Path, *rows: Any) -> Path:
    (file := tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_the_first_rows_are_printed_also_of_one_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the sum 4 with a jump of 6: from 2 to 10, of which the gradients see 2."""
    judge, seen = linear([3, 1], 0, 1, 1, jump=6.0), list[Any]()
    monkeypatch.setattr(wording, "load_reward_model", lambda model: judge)
    encode, predict = judge.encode, judge.predict
    judge.encode = lambda prompts, responses: seen.append((prompts, responses)) or encode(prompts, responses)
    judge.predict = lambda *some, **options: vars(found := predict(*some, **options)).update(dimensions=KIND) or found
    rows = [{"prompt": "p", "response": [{**MESSAGES[0], "content": str(i)}]} for i in range(3)]
    said = list(wording.lines("model", file_of(tmp_path, {"prompt": "alone"}, *rows), 2))
    assert said == [*2 * LINES]
    assert [texts[0][0]["content"] for _, texts in seen] == ["0", "0", "1", "1"]
    with pytest.raises(DataError, match="no row has a `response` or `chosen`"):
        list(wording.lines("model", file_of(tmp_path, {"prompt": "alone"}), 2))


KIND = {"kind": torch.tensor([0.5])}
LINES = [
    "p: reward 10.000, +8.000 from the response",
    "  tokens: 't3' +2.000, 't1' +0.000",
    "  dimensions: kind +0.500",
    "  the tokens' parts miss 75.0% of the change: they are an approximation here",
]


def test_layers_and_neighbours_are_named_by_their_tokens_and_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = linear([3, 1], 0, 1, 1)
    monkeypatch.setattr(wording, "load_reward_model", lambda model: judge)
    read = Layers((1.0, 2.0, 3.0), torch.tensor([[[0.9, 0.1, 0.0]], [[0.2, 0.3, 0.5]]]))
    monkeypatch.setattr(wording, "read_layers", lambda judge, sample: read)
    known = Neighbours([("q", i) for i in range(4)], np.zeros((4, 1)), np.ones(1), np.arange(4.0))
    monkeypatch.setattr(wording.Neighbours, "of", lambda judge, pairs: known)
    predict = judge.predict
    judge.predict = lambda *some, **options: (
        vars(found := predict(*some, **options)).update(features=torch.ones(1, 1)) or found
    )
    file = file_of(tmp_path, {"prompt": "p", "chosen": MESSAGES})
    assert list(wording.lines("model", file, 1, layers=True, train=file))[2:] == [
        "  reward at the embeddings: +1.000",
        "  layer 0: +2.000; the last token's head 0 reads 't3' (token 1) with 0.10",
        "  layer 1: +3.000; the last token's head 0 reads 't1' (token 2) with 0.50",
        *(f"  near (1.00 deviations, reward +{i}.000): q -> {i}" for i in range(3)),
    ]


def held_out(*groups: tuple[str, ...]) -> Any:
    """A run whose reward is the number that a response is."""
    encoder = SimpleNamespace()
    judge = SimpleNamespace(encoder=encoder, encode=lambda prompts, responses: responses)
    judge.predict = lambda responses: SimpleNamespace(reward=torch.tensor([float(one) for one in responses]))
    data = SimpleNamespace(test=tuple(SimpleNamespace(prompt="p", responses=each) for each in groups))
    return SimpleNamespace(data=data, spec=lambda reward: reward, open=lambda kind, spec: judge)


def test_the_stage_explains_each_of_the_largest_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first two groups, of which both have the response 3."""
    made = SimpleNamespace(of=lambda judge, prompt, response: Explained(float(response), 0.0, "t", "", "", 0.0))
    monkeypatch.setattr(stage, "Explained", made)
    run = held_out(("1", "3"), ("3", "2"), ("9",))
    (section,) = component("stage", "explain", rows=2, shown=2).run(run).sections
    assert [row["response"] for row in section.rows] == ["3", "2"]
    assert "words" not in section.rows[0]
    with pytest.raises(RunError, match="no held-out group has a response"):
        component("stage", "explain").run(held_out(()))
    run.open = lambda kind, spec: object()
    with pytest.raises(RunError, match="a function has no tokens"):
        component("stage", "explain").run(run)
